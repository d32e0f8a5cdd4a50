/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The run directory of a device: its files, its lock and its sockets. */
#include "run/rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>

#include <ublk-bridge/message.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"

#define RUNDIR_TAKING	 "taking"
#define RUNDIR_DEFAULT	 "/run/ublk-bridge"
#define RUNDIR_TRIES	 10 /* a verb that looks whether it is held has the lock for a moment */
#define RUNDIR_PAUSE_MS	 10
#define RUNDIR_ANSWER_MS 500
#define RUNDIR_BACKLOG	 16

int ub_name_check(const char *name, struct ub_err *err)
{
	static const char allowed[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	size_t len = strlen(name);

	if (len == 0 || len >= UB_NAME_BYTES || strspn(name, allowed) != len || *name == '.' ||
	    *name == '-' || strspn(name, "0123456789") == len)
		return ub_err_set(err, EINVAL,
				  "--name: '%s' is not a name: use up to 64 letters, digits, '.', "
				  "'_' and "
				  "'-', not a number alone, and begin with none of '.' and '-'",
				  name);
	return 0;
}

const char *ub_rundir_base(void)
{
	const char *path = getenv("UBLK_BRIDGE_RUNDIR");

	return path && *path ? path : RUNDIR_DEFAULT;
}

int ub_rundir_check_rights(struct ub_err *err)
{
	cleanup_fd int fd = open(ub_rundir_base(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (geteuid() != 0)
		return ub_err_set(err, EPERM,
				  "run this as root: this is the user %u, who may not look at the "
				  "devices",
				  geteuid());
	if (fd < 0 && (errno == EACCES || errno == EPERM))
		return ub_err_set(err, EPERM, "run this as root: %s: %s", ub_rundir_base(),
				  strerror(errno));
	return 0;
}

int ub_rundir_open_base(bool create, struct ub_err *err)
{
	const char *path = ub_rundir_base();
	struct statfs fs;
	int fd;

	if (create && mkdir(path, 0700) < 0 && errno != EEXIST)
		return ub_err_errno(err, errno, "cannot make the run directory %s", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return ub_err_errno(err, errno, "the run directory %s", path);
	if (create && fstatfs(fd, &fs) == 0 && fs.f_type != TMPFS_MAGIC)
		ub_log(UB_LOG_WARNING,
		       "%s is not on a tmpfs: it must not lie on a device that is served from here",
		       path);
	return fd;
}

/* A socket path has 108 bytes, a run directory may have more: go by way of the descriptor. */
static void rundir_address(int dir_fd, const char *file, struct sockaddr_un *addr)
{
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	snprintf(addr->sun_path, sizeof(addr->sun_path), "/proc/self/fd/%d/%s", dir_fd, file);
}

/* A listening socket in the directory, or -errno with *err. */
static int rundir_listen(const struct ub_rundir *dir, const char *file, int type,
			 struct ub_err *err)
{
	cleanup_fd int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un addr;

	if (fd < 0)
		return ub_err_errno(err, errno, "%s", file);
	unlinkat(dir->dir_fd, file, 0); /* of a dead keeper: the lock is ours */
	rundir_address(dir->dir_fd, file, &addr);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, RUNDIR_BACKLOG) < 0)
		return ub_err_errno(err, errno, "cannot bind %s in the run directory", file);
	return ub_steal_fd(&fd);
}

int ub_rundir_listen_server(struct ub_rundir *dir, struct ub_err *err)
{
	dir->listen_fd = rundir_listen(dir, "server.sock", SOCK_SEQPACKET, err);
	return dir->listen_fd < 0 ? dir->listen_fd : 0;
}

int ub_rundir_listen_control(struct ub_rundir *dir, struct ub_err *err)
{
	dir->control_fd = rundir_listen(dir, "control.sock", SOCK_STREAM, err);
	return dir->control_fd < 0 ? dir->control_fd : 0;
}

/*
 * True if the file that was opened is still the one of that name: a sweep may have removed it
 * meanwhile.
 */
static bool rundir_is_current(int dir_fd, const char *name, int fd)
{
	struct stat opened, named;

	return fstat(fd, &opened) == 0 && fstatat(dir_fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

/*
 * Opens NAME and locks it. 0, -EAGAIN: it was removed under us or somebody looks at it, or -errno.
 */
static int rundir_try_lock(struct ub_rundir *dir, int base, struct ub_err *err)
{
	if (mkdirat(base, dir->name, 0700) < 0 && errno != EEXIST)
		return ub_err_errno(err, errno, "cannot make the run directory %s/%s",
				    ub_rundir_base(), dir->name);
	dir->dir_fd = openat(base, dir->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir->dir_fd < 0 && errno == ENOENT)
		return -EAGAIN;
	if (dir->dir_fd < 0)
		return ub_err_errno(err, errno, "the run directory %s/%s", ub_rundir_base(),
				    dir->name);
	dir->lock_fd = openat(dir->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (dir->lock_fd < 0 && errno == ENOENT)
		return -EAGAIN;
	if (dir->lock_fd < 0)
		return ub_err_errno(err, errno, "the lock in %s/%s", ub_rundir_base(), dir->name);
	if (flock(dir->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EAGAIN :
					      ub_err_errno(err, errno, "the lock in %s/%s",
							   ub_rundir_base(), dir->name);
	if (!rundir_is_current(dir->dir_fd, "lock", dir->lock_fd) ||
	    !rundir_is_current(base, dir->name, dir->dir_fd))
		return -EAGAIN;
	return 0;
}

int ub_rundir_lock(struct ub_rundir *dir, const char *name, struct ub_err *err)
{
	const struct timespec pause = { .tv_nsec = RUNDIR_PAUSE_MS * 1000000L };
	cleanup_fd int base = ub_rundir_open_base(true, err);
	int ret = -EAGAIN;

	*dir = (struct ub_rundir)UB_RUNDIR_NONE;
	if (base < 0)
		return base;
	snprintf(dir->name, sizeof(dir->name), "%s", name);
	for (unsigned i = 0; i < RUNDIR_TRIES && ret == -EAGAIN; i++) {
		if (i)
			nanosleep(&pause, NULL);
		ret = rundir_try_lock(dir, base, err);
		if (ret) {
			ub_close(&dir->lock_fd);
			ub_close(&dir->dir_fd);
		}
		if (ret && ret != -EAGAIN)
			/* if it is empty: not when another has it */
			unlinkat(base, name, AT_REMOVEDIR);
	}
	if (ret == -EAGAIN)
		return ub_err_set(err, EBUSY,
				  "the name '%s' is taken: choose another --name, or detach that "
				  "device",
				  name);
	return ret;
}

int ub_rundir_create(struct ub_rundir *dir, const char *name, struct ub_err *err)
{
	int ret = ub_rundir_lock(dir, name, err);

	if (ret == 0)
		ret = ub_rundir_listen_server(dir, err);
	return ret ? ret : ub_rundir_listen_control(dir, err);
}

void ub_rundir_let_go(struct ub_rundir *dir)
{
	ub_close(&dir->listen_fd);
	ub_close(&dir->control_fd);
	ub_close(&dir->lock_fd);
	ub_close(&dir->dir_fd);
}

int ub_rundir_make_side(struct ub_rundir *dir, struct ub_err *err)
{
	static const uint64_t nothing = 0;
	cleanup_fd int fd = -1;

	unlinkat(dir->dir_fd, "side", 0);
	errno = 0;
	fd = openat(dir->dir_fd, "side", O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	/* Its page is there from now on: whoever writes it does not wait for memory. */
	if (fd < 0 || pwrite(fd, &nothing, sizeof(nothing), 0) != (ssize_t)sizeof(nothing))
		return ub_err_errno(err, errno ? errno : EIO,
				    "the file 'side' in the run directory");
	return ub_steal_fd(&fd);
}

uint64_t ub_rundir_read_side_at(int dir_fd)
{
	cleanup_fd int fd = openat(dir_fd, "side", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	uint64_t side = 0;

	return fd >= 0 && pread(fd, &side, sizeof(side), 0) == (ssize_t)sizeof(side) ? side : 0;
}

uint64_t ub_rundir_read_side(const struct ub_rundir *dir)
{
	return dir->dir_fd >= 0 ? ub_rundir_read_side_at(dir->dir_fd) : 0;
}

void ub_rundir_remove_side(struct ub_rundir *dir)
{
	if (dir->dir_fd >= 0)
		unlinkat(dir->dir_fd, "side", 0);
}

void ub_rundir_void_side(struct ub_rundir *dir)
{
	static const uint64_t side = UB_RUNDIR_SIDE_VOID;
	cleanup_fd int fd = openat(dir->dir_fd, "side", O_WRONLY | O_NOFOLLOW | O_CLOEXEC);

	if (fd >= 0 && pwrite(fd, &side, sizeof(side), 0) != (ssize_t)sizeof(side))
		ub_log(UB_LOG_DEBUG, "the file 'side' in the run directory: %s", strerror(errno));
}

void ub_rundir_mark_taking(struct ub_rundir *dir, bool is_taking)
{
	int fd;

	if (!is_taking) {
		unlinkat(dir->dir_fd, RUNDIR_TAKING, 0);
		return;
	}
	fd = openat(dir->dir_fd, RUNDIR_TAKING, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ub_close(&fd);
}

bool ub_rundir_is_taking(const struct ub_rundir *dir)
{
	return faccessat(dir->dir_fd, RUNDIR_TAKING, F_OK, 0) == 0;
}

/* 0 or -errno: it is still there. */
static int rundir_unlink(int dir_fd, const char *name)
{
	static const char *const files[] = { "server.sock", "control.sock",
					     "state.json",  "state.json.new",
					     "side",	    RUNDIR_TAKING,
					     "lock" };
	cleanup_fd int base = open(ub_rundir_base(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	for (unsigned i = 0; i < UB_ARRAY_SIZE(files); i++)
		unlinkat(dir_fd, files[i], 0);
	if (base < 0)
		return -errno;
	return unlinkat(base, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

void ub_rundir_remove(struct ub_rundir *dir)
{
	if (dir->dir_fd >= 0 && dir->lock_fd >= 0)
		rundir_unlink(dir->dir_fd, dir->name);
	ub_rundir_let_go(dir);
}

/* ---- other keepers' directories ------------------------------------------ */

int ub_rundir_open(const char *name)
{
	struct ub_err ignored;
	cleanup_fd int base = ub_rundir_open_base(false, &ignored);
	int fd;

	if (base < 0)
		return -ENOENT;
	fd = openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int rundir_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int ub_rundir_names(char ***names)
{
	DIR *dir = opendir(ub_rundir_base());
	struct ub_err ignored;
	struct dirent *entry;
	int nr = 0, ret = 0;

	*names = NULL;
	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	while (ret == 0 && (entry = readdir(dir))) {
		char **more;

		if (ub_name_check(entry->d_name, &ignored) != 0)
			continue;
		more = realloc(*names, ((size_t)nr + 1) * sizeof(**names));
		ret = more ? 0 : -ENOMEM;
		if (more) {
			*names = more;
			more[nr] = strdup(entry->d_name);
			ret = more[nr] ? 0 : -ENOMEM;
			nr += ret == 0;
		}
	}
	closedir(dir);
	if (nr)
		qsort(*names, (size_t)nr, sizeof(**names), rundir_compare);
	return nr;
}

bool ub_rundir_is_held(const char *name)
{
	cleanup_fd int dir = ub_rundir_open(name);
	cleanup_fd int lock = dir < 0 ? -1 : openat(dir, "lock", O_RDWR | O_CLOEXEC);

	return lock >= 0 && flock(lock, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

int ub_rundir_sweep(const char *name)
{
	cleanup_fd int dir = ub_rundir_open(name);
	cleanup_fd int lock = dir < 0 ? -1 : openat(dir, "lock", O_RDWR | O_CLOEXEC);

	if (dir < 0)
		return dir;
	if (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) < 0)
		return -EBUSY;
	return rundir_unlink(dir, name);
}

static int rundir_connect(const char *name, const char *file, int type)
{
	static const struct timeval limit = { .tv_usec = RUNDIR_ANSWER_MS * 1000L };
	cleanup_fd int dir = ub_rundir_open(name);
	cleanup_fd int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	struct sockaddr_un addr;

	if (dir < 0 || fd < 0)
		return dir < 0 ? dir : -errno;
	/* One that does not accept lets its queue fill up, and connect(2) then waits. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	rundir_address(dir, file, &addr);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	return ub_steal_fd(&fd);
}

int ub_rundir_connect(const char *name)
{
	return rundir_connect(name, "server.sock", SOCK_SEQPACKET);
}

int ub_rundir_connect_control(const char *name)
{
	return rundir_connect(name, "control.sock", SOCK_STREAM);
}
