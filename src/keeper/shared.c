/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the servers of a device share. */
#include "keeper/shared.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "keeper/keeper.h"
#include "ublk/device.h"

static int keeper_make_stats(struct ub_keeper *k, struct ub_err *err)
{
	size_t len = ub_stats_bytes(k->device.info.nr_hw_queues);
	void *page;

	k->shared.stats_fd = memfd_create("ublk-bridge-stats", MFD_CLOEXEC);
	/* Its pages are there from now on: whoever counts never waits for memory. */
	if (k->shared.stats_fd < 0 || fallocate(k->shared.stats_fd, 0, 0, (off_t)len) < 0)
		return ub_err_errno(err, errno, "the statistics page of %zu bytes", len);
	page = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, k->shared.stats_fd, 0);
	if (page == MAP_FAILED)
		return ub_err_errno(err, errno, "the statistics page");
	k->shared.stats = page;
	k->shared.stats->magic = UB_STATS_MAGIC;
	k->shared.stats->version = UB_STATS_VERSION;
	k->shared.stats->nr_queues = k->device.info.nr_hw_queues;
	k->shared.stats->start_ns = ub_now_ms() * 1000000;
	k->shared.stats->start_unix_s = (uint64_t)time(NULL);
	return 0;
}

int ub_shared_map_stats(struct ub_keeper *k, struct ub_err *err)
{
	size_t len = ub_stats_bytes(k->device.info.nr_hw_queues);
	struct stat st;
	void *page;

	if (fstat(k->shared.stats_fd, &st) < 0 || (size_t)st.st_size < len)
		return ub_err_set(err, EPROTO, "the server's statistics page is of another size");
	page = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, k->shared.stats_fd, 0);
	if (page == MAP_FAILED)
		return ub_err_errno(err, errno, "the statistics page");
	k->shared.stats = page;
	if (k->shared.stats->version != UB_STATS_VERSION)
		return ub_err_set(err, EPROTO, "the server's statistics are of version %u, not %u",
				  k->shared.stats->version, UB_STATS_VERSION);
	return 0;
}

static unsigned keeper_nr_slots(const struct ub_keeper *k)
{
	return (unsigned)k->device.info.queue_depth + UB_INTERNAL_SLOTS;
}

int ub_shared_map_ledger(struct ub_keeper *k, struct ub_err *err)
{
	struct stat st;
	void *page;

	if (fstat(k->shared.ledger_fd, &st) < 0)
		return ub_err_errno(err, errno, "the ledger");
	page = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		    k->shared.ledger_fd, 0);
	if (page == MAP_FAILED)
		return ub_err_errno(err, errno, "the ledger");
	k->shared.ledger = page;
	k->shared.ledger_bytes = (size_t)st.st_size;
	k->links.ledger = k->shared.ledger;
	return 0;
}

int ub_shared_make_ledger(struct ub_keeper *k, struct ub_err *err)
{
	size_t len = ub_ledger_bytes(k->device.info.nr_hw_queues, keeper_nr_slots(k));
	int ret;

	k->shared.ledger_fd = memfd_create("ublk-bridge-ledger", MFD_CLOEXEC);
	/* Whoever is to send something writes here first, and must not wait for memory then. */
	if (k->shared.ledger_fd < 0 || fallocate(k->shared.ledger_fd, 0, 0, (off_t)len) < 0)
		return ub_err_errno(err, errno, "the ledger of %zu bytes", len);
	ret = ub_shared_map_ledger(k, err);
	if (ret == 0)
		ub_ledger_init(k->shared.ledger, k->device.info.nr_hw_queues, keeper_nr_slots(k));
	return ret;
}

/* Where the tag buffers are locked, the next server has the same ones. */
static int keeper_make_arena(struct ub_keeper *k, struct ub_err *err)
{
	size_t len = ub_device_arena_bytes(k->device.info.nr_hw_queues, k->device.info.queue_depth,
					   k->device.info.max_io_buf_bytes);

	if (!k->recovery.is_on ||
	    ((k->side->caps & UB_CAP_PLACE) && k->device.data_path != UB_DATA_PATH_COPY))
		return 0;
	k->shared.arena_fd = memfd_create("ublk-bridge-buffers", MFD_CLOEXEC);
	if (k->shared.arena_fd < 0 || ftruncate(k->shared.arena_fd, (off_t)len) < 0)
		return ub_err_errno(err, errno, "tag buffers of %zu bytes", len);
	return 0;
}

int ub_shared_make(struct ub_keeper *k, struct ub_err *err)
{
	int ret = keeper_make_stats(k, err);

	if (ret == 0)
		ret = ub_shared_make_ledger(k, err);
	return ret ? ret : keeper_make_arena(k, err);
}

void ub_shared_release(struct ub_keeper *k)
{
	if (k->shared.stats)
		munmap(k->shared.stats, ub_stats_bytes(k->device.info.nr_hw_queues));
	k->shared.stats = NULL;
	if (k->shared.ledger)
		munmap(k->shared.ledger, k->shared.ledger_bytes);
	k->shared.ledger = NULL;
	ub_close(&k->shared.ledger_fd);
	ub_close(&k->shared.stats_fd);
	ub_close(&k->side->store_fd);
	ub_close(&k->shared.arena_fd);
	ub_ctrl_close(&k->device.ctrl);
}
