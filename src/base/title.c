/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What ps(1) shows of a process. Knows nobody. */
#include "base/title.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static char *title_room;
static size_t title_bytes;

void ub_title_take(int argc, char **argv)
{
	char *end;

	if (argc < 1)
		return;
	end = argv[0] + strlen(argv[0]) + 1;
	/* The kernel lays them out one behind the other. */
	for (int i = 1; i < argc && argv[i] == end; i++)
		end += strlen(end) + 1;
	title_room = argv[0];
	title_bytes = (size_t)(end - argv[0]);
}

void ub_title_set(const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (!title_room)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* The last byte stays 0: with another one there the kernel would look behind the words. */
	memset(title_room, 0, title_bytes);
	memcpy(title_room, text, strnlen(text, title_bytes - 1));
}
