/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Executing this program afresh. */
#include "helper/self.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

int ub_spawn_self(const char *name, const char *const args[], const int fds[4])
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;
	unsigned nr_fds = fds[3] >= 0 ? 4 : 3, nr_args = 0;
	cleanup_free char **argv = NULL;
	pid_t pid;
	int ret;

	while (args[nr_args])
		nr_args++;
	argv = calloc(nr_args + 2, sizeof(*argv));
	if (!argv)
		return -ENOMEM;
	argv[0] = (char *)(uintptr_t)name;
	memcpy(argv + 1, args, nr_args * sizeof(*argv));
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	for (unsigned i = 0; i < nr_fds; i++) {
		if (fds[i] >= 0)
			posix_spawn_file_actions_adddup2(&actions, fds[i], (int)i);
		else
			posix_spawn_file_actions_addopen(&actions, (int)i, "/dev/null", O_RDWR, 0);
	}
	/* Not only ours have O_CLOEXEC: whoever started the keeper may have left more. */
	posix_spawn_file_actions_addclosefrom_np(&actions, (int)nr_fds);
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	ret = posix_spawn(&pid, "/proc/self/exe", &actions, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	return ret ? -ret : pid;
}
