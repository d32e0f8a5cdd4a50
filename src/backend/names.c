/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where names are looked up: among the keeper's mounts. Any thread. Specification: setns(2),
 * mount_namespaces(7).
 */
#include "backend/names.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

static struct {
	pthread_mutex_t lock;
	/*
	 * The keeper, not its namespace: a descriptor of that would keep all its mounts busy, also
	 * when nobody else is left there.
	 */
	int pidfd; /* -1: there is none */
	pid_t pid;
} names = { .lock = PTHREAD_MUTEX_INITIALIZER, .pidfd = -1 };

void ub_names_set_keeper(int socket_fd)
{
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);
	int pidfd = -1;

	if (socket_fd >= 0 && getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
	    peer.pid > 0)
		pidfd = pidfd_open(peer.pid, 0);
	if (socket_fd >= 0 && pidfd < 0)
		ub_log(UB_LOG_DEBUG,
		       "names are looked up among the mounts that the server has kept: %s",
		       strerror(errno));
	pthread_mutex_lock(&names.lock);
	ub_close(&names.pidfd);
	names.pidfd = pidfd;
	names.pid = peer.pid;
	pthread_mutex_unlock(&names.lock);
}

static bool names_change_root(int fd)
{
	return fchdir(fd) == 0 && chroot(".") == 0;
}

/* To where the keeper is. Under the lock. */
static bool names_go(void)
{
	cleanup_fd int root = -1;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/root", names.pid);
	root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return root >= 0 && unshare(CLONE_FS) == 0 && setns(names.pidfd, CLONE_NEWNS) == 0 &&
	       names_change_root(root);
}

bool ub_names_enter(struct ub_names *back)
{
	bool has_gone = false;

	*back = (struct ub_names){ .mounts_fd = -1, .root_fd = -1 };
	pthread_mutex_lock(&names.lock);
	if (names.pidfd >= 0) {
		back->mounts_fd = open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
		back->root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
		has_gone = back->mounts_fd >= 0 && back->root_fd >= 0 && names_go();
	}
	pthread_mutex_unlock(&names.lock);
	if (!has_gone)
		ub_names_leave(back);
	return has_gone;
}

void ub_names_leave(struct ub_names *back)
{
	if (back->mounts_fd >= 0 && back->root_fd >= 0 &&
	    (setns(back->mounts_fd, CLONE_NEWNS) < 0 || !names_change_root(back->root_fd)))
		ub_log(UB_LOG_WARNING, "the server stays among its keeper's mounts: %s",
		       strerror(errno));
	ub_close(&back->mounts_fd);
	ub_close(&back->root_fd);
}
