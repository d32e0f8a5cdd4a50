/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The statistics page: a memfd that the keeper holds and the server's queue threads write.
 *
 * One writer a queue, plain stores of whole words (relaxed atomics): nothing is locked, and whoever has
 * the page reads it without asking anybody. The counters of one queue may be one I/O apart.
 */
#ifndef UBLK_BRIDGE_STATS_H
#define UBLK_BRIDGE_STATS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "io.h"

#define UB_STATS_MAGIC	 0x73746c62 /* "blts" */
#define UB_STATS_VERSION 1

struct ub_queue_stats {
	_Atomic uint64_t ios[UB_NR_OPS]; /* completed, with or without an error */
	_Atomic uint64_t bytes[UB_NR_OPS];
	_Atomic uint64_t errors[UB_NR_OPS];
	_Atomic uint64_t nr_turns; /* how often the thread woke up */
} __attribute__((aligned(64)));

struct ub_stats_page {
	uint32_t magic;
	uint32_t version;
	uint32_t nr_queues;
	uint32_t reserved;
	struct ub_queue_stats queues[];
};

static inline size_t ub_stats_bytes(unsigned nr_queues)
{
	return sizeof(struct ub_stats_page) + nr_queues * sizeof(struct ub_queue_stats);
}

/* The owner's increment: no read-modify-write instruction is needed with one writer. */
static inline void ub_stat_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

static inline uint64_t ub_stat_read(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

#endif
