/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a process must do to itself before it may stand behind a block device. The server's main
 * thread, before any other thread exists.
 */
#include "server/isolate.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mountinfo.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define ISOLATE_OOM_SCORE "-1000"

static bool isolate_has_mounts; /* of its own */

/*
 * A process group of its own, and deaf to what a terminal sends: the keeper alone says when to end.
 */
static void isolate_session(void)
{
	static const int deaf[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGTSTP };

	setsid();
	for (unsigned i = 0; i < UB_ARRAY_SIZE(deaf); i++)
		signal(deaf[i], SIG_IGN);
}

/*
 * Mount points that are never storage to be unmounted, or that programs and their settings come
 * from.
 */
static bool isolate_keeps(const char *mount_point)
{
	/*
	 * Of /etc those files that a container has from its host: names are looked up by them when
	 * there is no keeper.
	 */
	static const char *const exact[] = { "/",
					     "/run",
					     "/usr",
					     "/etc",
					     "/etc/hosts",
					     "/etc/resolv.conf",
					     "/etc/hostname",
					     "/etc/nsswitch.conf" };
	static const char *const trees[] = { "/dev", "/proc", "/sys" };

	for (unsigned i = 0; i < UB_ARRAY_SIZE(exact); i++) {
		if (strcmp(mount_point, exact[i]) == 0)
			return true;
	}
	for (unsigned i = 0; i < UB_ARRAY_SIZE(trees); i++) {
		size_t len = strlen(trees[i]);

		if (strncmp(mount_point, trees[i], len) == 0 &&
		    (mount_point[len] == '\0' || mount_point[len] == '/'))
			return true;
	}
	return false;
}

/*
 * A mount namespace of its own. In a shared one the server may be the last process that holds a
 * mount of its own device: the kernel then unmounts it while the server exits, and waits for the
 * server's answer.
 */
static void isolate_mounts(void)
{
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		ub_log(UB_LOG_WARNING,
		       "the server stays in this mount namespace (%s): do not let it be the last "
		       "process in one that has the device mounted",
		       strerror(errno));
		return;
	}
	isolate_has_mounts = true;
}

/* Whether a file that the back end opens again and again is reached by way of this mount point. */
static bool isolate_is_needed(const char *mount_point, char *const *paths)
{
	size_t len = strlen(mount_point);

	for (; *paths; paths++) {
		if (strncmp(*paths, mount_point, len) == 0 &&
		    ((*paths)[len] == '/' || !(*paths)[len]))
			return true;
	}
	return false;
}

void ub_isolate_drop_mounts(char *const *paths)
{
	FILE *file = isolate_has_mounts ? fopen("/proc/thread-self/mountinfo", "re") : NULL;
	char line[4096], point[4096];

	if (!file)
		return;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%*d %*d %*s %*s %4095s", point) != 1)
			continue;
		ub_mountinfo_unescape(point);
		/* A point below one that is gone by now says EINVAL, and that is as good. */
		if (!isolate_keeps(point) && !isolate_is_needed(point, paths))
			umount2(point, MNT_DETACH);
	}
	fclose(file);
}

bool ub_isolate_enter_mounts(int fd)
{
	if (unshare(CLONE_FS) == 0 && setns(fd, CLONE_NEWNS) == 0 && unshare(CLONE_NEWNS) == 0 &&
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
		return true;
	ub_log(UB_LOG_WARNING, "names are looked up among the mounts that the server has kept: %s",
	       strerror(errno));
	return false;
}

static void isolate_oom(void)
{
	cleanup_fd int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, ISOLATE_OOM_SCORE, strlen(ISOLATE_OOM_SCORE)) < 0)
		ub_log(UB_LOG_WARNING, "cannot keep the OOM killer from the server: %s",
		       strerror(errno));
}

int ub_isolate_lock_memory(struct ub_err *err)
{
	/*
	 * All that is mapped now, and of what comes later each page that is touched; the back end
	 * lets go of its store by itself.
	 */
	if (mlockall(MCL_CURRENT) < 0 || mlockall(MCL_FUTURE | MCL_ONFAULT) < 0)
		return ub_err_errno(err, errno,
				    "cannot lock the server's memory (raise RLIMIT_MEMLOCK, or "
				    "give "
				    "CAP_IPC_LOCK)");
	return 0;
}

void ub_isolate_core_dump(bool allowed)
{
	/* A dump keeps the device open, and its I/O hanging, for as long as it is written. */
	prctl(PR_SET_DUMPABLE, allowed ? 1 : 0);
}

void ub_isolate(void)
{
	isolate_session();
	isolate_mounts();
	isolate_oom();
	if (chdir("/") < 0)
		ub_log(UB_LOG_WARNING, "cannot leave the working directory: %s", strerror(errno));
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		ub_log(UB_LOG_WARNING, "cannot become an I/O flusher: %s", strerror(errno));
}
