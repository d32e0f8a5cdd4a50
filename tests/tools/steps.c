/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes a step of the life cycle fail: UB_STEP=NAME=ACTION, where ACTION is a number (the errno
 * that the step fails with), `kill` (SIGKILL to this process), `stop` (SIGSTOP: another process is
 * to be killed meanwhile), `kill-keeper` (SIGKILL to the parent, the server going on) or
 * `kill-both`. With UB_STEP_WHEN=FILE it does so only when there is such a file, and removes it:
 * once. UB_STEP_LOG=FILE collects the names of the steps that are reached.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/step.h"
#include "tools.h"

static void steps_log(const char *name)
{
	const char *path = getenv("UB_STEP_LOG");
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;

	if (fd < 0)
		return;
	dprintf(fd, "%s\n", name);
	close(fd);
}

static int steps_hook(const char *name)
{
	const char *want = getenv("UB_STEP"), *when = getenv("UB_STEP_WHEN"), *action;
	size_t len = strlen(name);

	steps_log(name);
	if (!want || strncmp(want, name, len) != 0 || want[len] != '=')
		return 0;
	if (when && unlink(when) < 0)
		return 0;
	action = want + len + 1;
	if (strcmp(action, "kill-keeper") == 0 || strcmp(action, "kill-both") == 0)
		kill(getppid(), SIGKILL);
	if (strcmp(action, "kill") == 0 || strcmp(action, "kill-both") == 0)
		kill(getpid(), SIGKILL);
	else if (strcmp(action, "stop") == 0)
		kill(getpid(), SIGSTOP);
	else if (strcmp(action, "kill-keeper") != 0)
		return atoi(action);
	return 0;
}

void ub_test_steps_install(void)
{
	ub_step_hook = steps_hook;
}
