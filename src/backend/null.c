/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Back ends with nothing behind them. Queue threads; know the contract alone.
 *
 *   null    takes every I/O and does nothing, for measuring the core alone: a READ returns what the
 *           tag's buffer held before
 *   error   fails every I/O: it takes over a device whose servers die one after the other, so that
 *           what waits fails instead of hanging
 */
#include <errno.h>

#include "backend/backend.h"

#define NULL_MAX_IO_BYTES    (1U << 20)
#define NULL_MAX_RANGE_BYTES (1U << 30)

static int null_open(struct ub_backend *be, const struct ub_backend_config *cfg, struct ub_err *err)
{
	(void)err;
	be->limits.size_bytes = cfg->size_bytes;
	be->limits.logical_block_bytes = cfg->logical_block_bytes;
	return 0;
}

static int null_get_limits(struct ub_backend *be, struct ub_limits *limits, struct ub_err *err)
{
	uint32_t block = be->limits.logical_block_bytes ? be->limits.logical_block_bytes : 512;

	(void)err;
	/* It can do everything: what it could not do the core would answer. */
	*limits = (struct ub_limits){
		.size_bytes = be->limits.size_bytes,
		.logical_block_bytes = block,
		.physical_block_bytes = 4096,
		.max_io_bytes = NULL_MAX_IO_BYTES,
		.max_discard_bytes = NULL_MAX_RANGE_BYTES,
		.max_zeroes_bytes = NULL_MAX_RANGE_BYTES,
		.can_flush = 1,
		.can_fua = 1,
		.can_trim = 1,
		.can_zero = 1,
		.multi_conn = 1,
	};
	return 0;
}

static int null_queue_init(struct ub_backend_queue *bq, unsigned nr_slots, struct ub_err *err)
{
	(void)err;
	bq->nr_slots = nr_slots;
	return 0;
}

static void null_queue_destroy(struct ub_backend_queue *bq)
{
	(void)bq;
}

static void null_close(struct ub_backend *be)
{
	(void)be;
}

static int null_resize(struct ub_backend *be, uint64_t size_bytes, uint32_t flags,
		       struct ub_err *err)
{
	(void)be;
	(void)size_bytes;
	(void)flags;
	(void)err;
	return 0; /* there is nothing behind it that has a size */
}

static void null_submit(struct ub_backend_queue *bq, struct ub_io *io)
{
	(void)bq;
	ub_io_complete(io, (int32_t)io->len_bytes);
}

const struct ub_backend_ops ub_backend_null = {
	.name = "null",
	.open = null_open,
	.get_limits = null_get_limits,
	.queue_init = null_queue_init,
	.queue_destroy = null_queue_destroy,
	.close = null_close,
	.resize = null_resize,
	.submit = null_submit,
};

/* ---- error --------------------------------------------------------------- */

static int error_set_live(struct ub_backend *be, struct ub_err *err)
{
	(void)err;
	ub_backend_report(be, UB_HEALTH_FAILED,
			  "failed: its servers died one after the other; all I/O fails");
	return 0;
}

/*
 * Nothing is to be copied: and so the tag buffers, which a device of memory does not have locked,
 * are not locked.
 */
static int error_place(struct ub_backend_queue *bq, struct ub_io *io)
{
	(void)bq;
	(void)io;
	return -EIO;
}

static void error_submit(struct ub_backend_queue *bq, struct ub_io *io)
{
	(void)bq;
	ub_io_complete(io, -EIO);
}

const struct ub_backend_ops ub_backend_error = {
	.name = "error",
	.caps = UB_CAP_PLACE,
	.open = null_open,
	.get_limits = null_get_limits,
	.set_live = error_set_live,
	.queue_init = null_queue_init,
	.queue_destroy = null_queue_destroy,
	.close = null_close,
	.place = error_place,
	.submit = error_submit,
};
