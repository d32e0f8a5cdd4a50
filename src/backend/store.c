/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory store, and how much memory there is for it.
 *
 * The kernel never refuses a page of a memfd: when memory is out it kills somebody instead. So the
 * store asks before it takes. The keeper makes stores; the server's queue threads ask for memory.
 */
#include "backend/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/cleanup.h"
#include "base/size.h"
#include "base/text.h"

#define STORE_RESERVE_MIN_BYTES (48ULL << 20)
#define STORE_RESERVE_PART	32 /* of all memory */
/*
 * Of a control group: when that is full the kernel finds nobody to kill (the server is exempt), and
 * a page fault of the server's own, or the page tables and tree nodes of its store, would be tried
 * for ever.
 */
#define STORE_GROUP_RESERVE_MIN_BYTES (8ULL << 20)
#define STORE_GROUP_RESERVE_MAX_BYTES (48ULL << 20)
#define STORE_GROUP_RESERVE_PART      8 /* of the group's limit */
#define STORE_PATH_BYTES	      512
#define STORE_STAT_BYTES	      8192

static uint64_t store_meminfo(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	return at ? strtoull(at + strlen(key), NULL, 10) << 10 : 0;
}

static bool store_group_value(const char *dir, const char *file, uint64_t *value)
{
	char path[STORE_PATH_BYTES + 32], text[32];

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	if (ub_text_read_file(path, text, sizeof(text)) <= 0 || strncmp(text, "max", 3) == 0)
		return false;
	*value = strtoull(text, NULL, 10);
	return true;
}

/* A line of memory.stat, in bytes; key with the line's end before it and a blank behind. */
static uint64_t store_group_stat(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/*
 * What the group has and cannot give back: clean page cache goes by itself when memory is wanted.
 */
static bool store_group_used(const char *dir, uint64_t *used)
{
	char path[STORE_PATH_BYTES + 32], text[STORE_STAT_BYTES];
	uint64_t cache, unwritten;

	if (!store_group_value(dir, "memory.current", used))
		return false;
	snprintf(path, sizeof(path), "%s/memory.stat", dir);
	if (ub_text_read_file(path, text, sizeof(text)) <= 0)
		return true;
	cache = store_group_stat(text, "\ninactive_file ") +
		store_group_stat(text, "\nactive_file ");
	unwritten = store_group_stat(text, "\nfile_dirty ") +
		    store_group_stat(text, "\nfile_writeback ");
	cache = cache > unwritten ? cache - unwritten : 0;
	*used = *used > cache ? *used - cache : 0;
	return true;
}

/* What a limit leaves to the store, the reserve taken off. */
static uint64_t store_group_left(uint64_t limit, uint64_t current)
{
	uint64_t reserve = limit / STORE_GROUP_RESERVE_PART;

	if (reserve < STORE_GROUP_RESERVE_MIN_BYTES)
		reserve = STORE_GROUP_RESERVE_MIN_BYTES;
	if (reserve > STORE_GROUP_RESERVE_MAX_BYTES)
		reserve = STORE_GROUP_RESERVE_MAX_BYTES;
	return limit > current + reserve ? limit - current - reserve : 0;
}

/* The least room in our control group (version 2) and those above it; UINT64_MAX: no limit. */
static uint64_t store_group_room(void)
{
	static const char *const limits[] = { "memory.max", "memory.high" };
	char text[STORE_PATH_BYTES], dir[STORE_PATH_BYTES], *path, *end;
	uint64_t room = UINT64_MAX, limit, current;
	size_t root;

	if (ub_text_read_file("/proc/self/cgroup", text, sizeof(text)) <= 0)
		return room;
	path = strstr(text, "0::/");
	if (!path)
		return room;
	path += 3;
	end = strchr(path, '\n');
	if (end)
		*end = '\0';
	root = strlen("/sys/fs/cgroup");
	if (snprintf(dir, sizeof(dir), "/sys/fs/cgroup%s", path) >= (int)sizeof(dir))
		return room;
	while (strlen(dir) > root) {
		/*
		 * Above memory.high every page is made to wait, which is no state to serve in
		 * either.
		 */
		for (unsigned i = 0; i < UB_ARRAY_SIZE(limits); i++) {
			if (store_group_value(dir, limits[i], &limit) &&
			    store_group_used(dir, &current)) {
				uint64_t left = store_group_left(limit, current);

				room = left < room ? left : room;
			}
		}
		*strrchr(dir, '/') = '\0';
	}
	return room;
}

uint64_t ub_store_memory_left(void)
{
	char text[2048];
	uint64_t total, available, unwritten, reserve, room;

	if (ub_text_read_file("/proc/meminfo", text, sizeof(text)) <= 0)
		return 0;
	total = store_meminfo(text, "MemTotal:");
	available = store_meminfo(text, "MemAvailable:");
	/*
	 * Counted as available, but to be had only when written back; to this very device it may
	 * be, and that takes memory first.
	 */
	unwritten = store_meminfo(text, "Dirty:") + store_meminfo(text, "Writeback:");
	available = available > unwritten ? available - unwritten : 0;
	reserve = total / STORE_RESERVE_PART;
	if (reserve < STORE_RESERVE_MIN_BYTES)
		reserve = STORE_RESERVE_MIN_BYTES;
	available = available > reserve ? available - reserve : 0;
	room = store_group_room();
	return room < available ? room : available;
}

int ub_store_prealloc(int fd, uint64_t offset_bytes, uint64_t len_bytes, struct ub_err *err)
{
	uint64_t left = ub_store_memory_left();
	char want[32], have[32];
	int ret;

	if (len_bytes > left)
		return ub_err_set(err, ENOMEM,
				  "--prealloc: %s are wanted and %s are to be had: choose a "
				  "smaller size, "
				  "or leave --prealloc out and let the store grow as it is written",
				  ub_size_format(len_bytes, want, sizeof(want)),
				  ub_size_format(left, have, sizeof(have)));
	do {
		ret = fallocate(fd, 0, (off_t)(UB_STORE_DATA_AT + offset_bytes), (off_t)len_bytes) <
				      0 ?
			      errno :
			      0;
	} while (ret == EINTR);
	return ret ? ub_err_errno(err, ret, "--prealloc: cannot take %s",
				  ub_size_format(len_bytes, want, sizeof(want))) :
		     0;
}

int ub_store_extend(int fd, uint64_t size_bytes, struct ub_err *err)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE),
		 pages = size_bytes / page + (size_bytes % page != 0);
	struct stat st;
	char text[32];

	if (fstat(fd, &st) < 0)
		return ub_err_errno(err, errno, "the memory store");
	if (ub_bitmap_bytes(pages) > UB_STORE_DATA_AT)
		return ub_err_set(err, EFBIG,
				  "%s is more than a memory store can hold: 64 TiB are as much as "
				  "fits in the address space",
				  ub_size_format(size_bytes, text, sizeof(text)));
	if ((uint64_t)st.st_size < UB_STORE_DATA_AT + pages * page &&
	    ftruncate(fd, (off_t)(UB_STORE_DATA_AT + pages * page)) < 0)
		return ub_err_errno(err, errno, "cannot make a memory store of %s",
				    ub_size_format(size_bytes, text, sizeof(text)));
	return 0;
}

int ub_store_create(uint64_t size_bytes, bool prealloc, struct ub_err *err)
{
	cleanup_fd int fd = memfd_create("ublk-bridge-store", MFD_CLOEXEC);
	int ret;

	if (fd < 0)
		return ub_err_errno(err, errno, "cannot make the memory store");
	ret = ub_store_extend(fd, size_bytes, err);
	if (ret == 0 && prealloc)
		ret = ub_store_prealloc(fd, 0, size_bytes, err);
	return ret ? ret : ub_steal_fd(&fd);
}

bool ub_store_has_data(int fd, uint64_t start, uint64_t end)
{
	off_t at = lseek(fd, (off_t)(UB_STORE_DATA_AT + start), SEEK_DATA);

	return at >= 0 && (uint64_t)at < UB_STORE_DATA_AT + end;
}
