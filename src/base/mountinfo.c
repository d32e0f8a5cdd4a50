/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading /proc/PID/mountinfo. Any thread; knows nobody. */
#include "base/mountinfo.h"

#include <stdbool.h>

static bool mountinfo_is_octal(char c)
{
	return c >= '0' && c <= '7';
}

char *ub_mountinfo_unescape(char *path)
{
	char *to = path;

	for (const char *from = path; *from; to++) {
		if (from[0] == '\\' && mountinfo_is_octal(from[1]) && mountinfo_is_octal(from[2]) &&
		    mountinfo_is_octal(from[3])) {
			*to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
	return path;
}
