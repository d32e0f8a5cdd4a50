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

#define PROCESS_RING_FILE    "anon_inode:[io_uring]" /* as /proc/PID/fd names it */
#define PROCESS_STAT_BYTES   512
#define PROCESS_STARTTIME    20	 /* of the fields behind the name, the first of which is 1 */
#define PROCESS_FLAG_EXITING 0x4 /* of the kernel's flags: it is in do_exit() */

/*
 * What /proc/PID/stat has behind the process's name, which may itself have blanks and parentheses;
 * NULL: no process.
 */
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

bool ub_process_has_file(pid_t pid, const char *name)
{
	char path[32], link[64];
	struct dirent *entry;
	bool has = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && !has && (entry = readdir(dir))) {
		ssize_t len = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);

		link[len < 0 ? 0 : len] = '\0';
		has = strcmp(link, name) == 0;
	}
	if (dir)
		closedir(dir);
	return has;
}

bool ub_rings_hold(struct ub_held_rings *rings, pid_t pid, int pidfd, unsigned max)
{
	char path[32], link[64];
	struct dirent *entry;
	DIR *dir;

	ub_rings_let_go(rings);
	rings->fds = calloc(max, sizeof(*rings->fds));
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = rings->fds ? opendir(path) : NULL;
	while (dir && rings->nr < max && (entry = readdir(dir))) {
		ssize_t len = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
		int fd;

		link[len < 0 ? 0 : len] = '\0';
		if (strcmp(link, PROCESS_RING_FILE) != 0)
			continue;
		fd = pidfd_getfd(pidfd, atoi(entry->d_name), 0);
		if (fd >= 0)
			rings->fds[rings->nr++] = fd;
	}
	if (dir)
		closedir(dir);
	return rings->nr == max;
}

void ub_rings_let_go(struct ub_held_rings *rings)
{
	for (unsigned i = 0; i < rings->nr; i++)
		close(rings->fds[i]);
	free(rings->fds);
	*rings = (struct ub_held_rings){ 0 };
}
