/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What /proc says of a process. Any thread; knows nobody. */
#include "base/process.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"

#define PROCESS_STAT_BYTES 512
#define PROCESS_STARTTIME  20 /* of the fields behind the name, the first of which is 1 */

uint64_t ub_process_started(pid_t pid)
{
	char path[32], text[PROCESS_STAT_BYTES], *at;
	unsigned long long started = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (pid <= 0 || ub_text_read_file(path, text, sizeof(text)) <= 0)
		return 0;
	/* proc_pid_stat(5): the name may have blanks and parentheses */
	at = strrchr(text, ')');
	for (unsigned field = 0; at && field < PROCESS_STARTTIME; field++)
		at = strchr(at + 1, ' ');
	return at && sscanf(at, " %llu", &started) == 1 ? started : 0;
}
