/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening a device's node, and nothing else that has its name. See
 * Documentation/ABI/testing/sysfs-dev for `dev`.
 */
#include "base/node.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"

#define NODE_PATH_BYTES 64

static const struct {
	const char *name, *sysfs;
	mode_t type;
	const char *word;
} node_kinds[] = {
	[UB_NODE_BLOCK] = { "ublkb", "/sys/block", S_IFBLK, "block" },
	[UB_NODE_CHAR] = { "ublkc", "/sys/class/ublk-char", S_IFCHR, "character" },
};

static void node_path(enum ub_node_kind kind, uint32_t dev_id, char path[NODE_PATH_BYTES])
{
	snprintf(path, NODE_PATH_BYTES, "/dev/%s%u", node_kinds[kind].name, dev_id);
}

/* The device's number, as the kernel says. False: it knows no such device, or there is no sysfs. */
static bool node_number(enum ub_node_kind kind, uint32_t dev_id, dev_t *number)
{
	char path[NODE_PATH_BYTES], text[32];
	unsigned first, second;

	snprintf(path, sizeof(path), "%s/%s%u/dev", node_kinds[kind].sysfs, node_kinds[kind].name,
		 dev_id);
	if (ub_text_read_file(path, text, sizeof(text)) <= 0 ||
	    sscanf(text, "%u:%u", &first, &second) != 2)
		return false;
	*number = makedev(first, second);
	return true;
}

bool ub_node_is_known(enum ub_node_kind kind, uint32_t dev_id)
{
	char path[NODE_PATH_BYTES];
	dev_t ignored;

	node_path(kind, dev_id, path);
	return node_number(kind, dev_id, &ignored) ||
	       (access("/sys/class", F_OK) < 0 && access(path, F_OK) == 0);
}

static const char *node_what(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "a file that somebody has made";
	case S_IFLNK:
		return "a symbolic link";
	case S_IFDIR:
		return "a directory";
	case S_IFBLK:
	case S_IFCHR:
		return "another device's node";
	default:
		return "something else";
	}
}

static int node_is_missing(enum ub_node_kind kind, uint32_t dev_id, const char *path,
			   struct ub_err *err)
{
	dev_t ignored;

	if (!node_number(kind, dev_id, &ignored))
		return ub_err_errno(err, ENOENT, "%s", path);
	return ub_err_set(err, ENOENT,
			  "%s is not there, though the kernel has made the device: /dev is not the "
			  "kernel's devtmpfs. In a "
			  "container, give it the /dev of its host (such as -v /dev:/dev)",
			  path);
}

/* What the path names, without opening it: an O_PATH descriptor. */
static int node_find(enum ub_node_kind kind, uint32_t dev_id, struct ub_err *err)
{
	char path[NODE_PATH_BYTES];
	cleanup_fd int fd = -1;
	struct stat st;
	dev_t number;

	node_path(kind, dev_id, path);
	fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return node_is_missing(kind, dev_id, path, err);
	if (fd < 0 || fstat(fd, &st) < 0)
		return ub_err_errno(err, errno, "%s", path);
	if ((st.st_mode & S_IFMT) != node_kinds[kind].type ||
	    (node_number(kind, dev_id, &number) && st.st_rdev != number))
		return ub_err_set(err, EEXIST,
				  "%s is %s, and not the %s device that the kernel has made: "
				  "remove it (rm %s)",
				  path, node_what(st.st_mode), node_kinds[kind].word, path);
	return ub_steal_fd(&fd);
}

static int node_open_found(int found_fd, int flags, const char *path, struct ub_err *err)
{
	char again[NODE_PATH_BYTES];
	int fd;

	snprintf(again, sizeof(again), "/proc/self/fd/%d", found_fd);
	fd = open(again, flags | O_CLOEXEC);
	return fd < 0 ? ub_err_errno(err, errno, "%s", path) : fd;
}

int ub_node_open(enum ub_node_kind kind, uint32_t dev_id, int flags, struct ub_err *err)
{
	cleanup_fd int found = node_find(kind, dev_id, err);
	char path[NODE_PATH_BYTES];

	node_path(kind, dev_id, path);
	return found < 0 ? -err->code : node_open_found(found, flags, path, err);
}

int ub_node_open_anyhow(enum ub_node_kind kind, uint32_t dev_id, int flags, struct ub_err *err)
{
	int fd = ub_node_open(kind, dev_id, flags, err);
	char path[NODE_PATH_BYTES];
	dev_t number;

	if ((fd != -ENOENT && fd != -EEXIST) || !node_number(kind, dev_id, &number))
		return fd;
	snprintf(path, sizeof(path), "/dev/.ublk-bridge-%s%u-%d", node_kinds[kind].name, dev_id,
		 getpid());
	if (mknod(path, node_kinds[kind].type | 0600, number) < 0)
		return fd;
	fd = open(path, flags | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		ub_err_errno(err, errno, "%s", path);
	unlink(path);
	return fd < 0 ? -err->code : fd;
}
