/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The null back end: takes every I/O and does nothing, for measuring the core alone.
 *
 * A READ returns whatever the tag's buffer held before. Queue threads; knows the contract alone.
 */
#include "backend/registry.h"

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

static int null_resize(struct ub_backend *be, uint64_t size_bytes, uint32_t flags, struct ub_err *err)
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
