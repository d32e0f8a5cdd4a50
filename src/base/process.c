/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What /proc says of a process. Any thread; knows nobody. */
#include "base/process.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "base/text.h"

#define PROCESS_STAT_BYTES   512
#define PROCESS_STARTTIME    20	 /* of the fields behind the name, the first of which is 1 */
#define PROCESS_FLAG_EXITING 0x4 /* of the kernel's flags: it is in do_exit() */

/* What /proc/PID/stat has behind the process's name, which may itself have blanks and parentheses; NULL: no process. */
static char *process_stat(pid_t pid, char text[PROCESS_STAT_BYTES])
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (pid <= 0 || ub_text_read_file(path, text, PROCESS_STAT_BYTES) <= 0)
		return NULL;
	return strrchr(text, ')');
}

uint64_t ub_process_started(pid_t pid)
{
	char text[PROCESS_STAT_BYTES], *at = process_stat(pid, text);
	unsigned long long started = 0;

	for (unsigned field = 0; at && field < PROCESS_STARTTIME; field++)
		at = strchr(at + 1, ' ');
	return at && sscanf(at, " %llu", &started) == 1 ? started : 0;
}

bool ub_process_is(pid_t pid, uint64_t started)
{
	return started && ub_process_started(pid) == started;
}

bool ub_process_is_ending(pid_t pid)
{
	char text[PROCESS_STAT_BYTES], state = '\0';
	const char *at = process_stat(pid, text);
	unsigned flags = 0;

	/* proc_pid_stat(5): state, five numbers, and the kernel's flags */
	if (!at || sscanf(at, ") %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
		return false;
	return state == 'Z' || state == 'X' || (flags & PROCESS_FLAG_EXITING);
}

unsigned ub_process_copy_fds(pid_t pid, int pidfd, const char *what, int fds[], unsigned max)
{
	char path[32], link[64];
	struct dirent *entry;
	unsigned nr = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && nr < max && (entry = readdir(dir))) {
		ssize_t len = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);

		if (len < 0)
			continue;
		link[len] = '\0';
		if (strcmp(link, what) == 0)
			fds[nr] = pidfd_getfd(pidfd, atoi(entry->d_name), 0);
		nr += strcmp(link, what) == 0 && fds[nr] >= 0;
	}
	if (dir)
		closedir(dir);
	return nr;
}
