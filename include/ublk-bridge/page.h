/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The statistics page: a memfd that the keeper holds and the server's queue threads write.
 *
 * Each word has one writer, a queue's thread or the back end's own, and plain stores of whole
 * words: nothing is locked, no instruction on the data path reads and writes at once, and whoever
 * has the page reads it without asking anybody. The counters of one queue may be one I/O apart. The
 * page takes 49 KiB a queue, nearly all of it the histograms; the keeper allocates it and the
 * server locks it before the device is there, so that counting never waits for memory.
 */
#ifndef UBLK_BRIDGE_PAGE_H
#define UBLK_BRIDGE_PAGE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "io.h"

#define UB_STATS_MAGIC	 0x73746c62 /* "blts" */
#define UB_STATS_VERSION 3

/*
 * A histogram of nanoseconds: 32 buckets for each power of two, up to 2^42 ns (73 minutes), where
 * what is longer counts, too. A bucket is a thirty-second of its beginning wide, so its middle is
 * at most 1.6 % away from any value in it. src/base/histogram.h has what is done with it.
 */
#define UB_HISTOGRAM_SUB_BITS 5
#define UB_HISTOGRAM_MAX_BITS 42
#define UB_HISTOGRAM_BUCKETS \
	((UB_HISTOGRAM_MAX_BITS - UB_HISTOGRAM_SUB_BITS + 1) << UB_HISTOGRAM_SUB_BITS)

struct ub_histogram {
	_Atomic uint64_t sum_ns;
	_Atomic uint64_t max_ns;
	_Atomic uint64_t buckets[UB_HISTOGRAM_BUCKETS];
};

#define UB_STATS_SIDES 2

/* 1, 2 and 3, 4 to 7, …, 4096: the powers of two up to the largest depth */
#define UB_STATS_BATCH_SIZES 13

/* A back end's part on one queue. Its thread writes. */
struct ub_backend_queue_stats {
	_Atomic uint64_t reconnects; /* connections that took the place of an earlier one */
	_Atomic uint64_t retries;    /* requests that were sent again */
	_Atomic uint64_t requests;   /* sent to the server, those that were sent again included */
	/* from each one's sending to its answer, or to the end of its connection */
	_Atomic uint64_t wait_ns;
	_Atomic uint64_t nr_online; /* a gauge: connections of this queue that work now */
};

/* A back end's, beside its queues. One thread of its own writes, such as the connector of nbd. */
struct ub_backend_stats {
	_Atomic uint64_t nr_connections;  /* a gauge: how many there shall be */
	_Atomic uint64_t nr_outages;	  /* times when none worked, the present one included */
	_Atomic uint64_t failed_attempts; /* to make a connection */
	/*
	 * The nanoseconds of all outages together; during one, with UB_STATS_IN_OUTAGE, the time of
	 * the monotonic clock from which the sum is to be counted. One word, so that a reader never
	 * sees half of a change.
	 */
	_Atomic uint64_t outage;
};

#define UB_STATS_IN_OUTAGE (1ULL << 63)

/*
 * A migration's progress. Queue 0's thread writes, but for what is marked; the server's main thread
 * begins it anew.
 */
struct ub_migration_stats {
	_Atomic uint64_t total_bytes;  /* the device's size */
	_Atomic uint64_t dirty_bytes;  /* still to be copied, as far as is known */
	_Atomic uint64_t copied_bytes; /* read from the source and written to the destination */
	_Atomic uint64_t zeroed_bytes; /* brought to zero there, or found so, without being read */
};

struct ub_queue_stats {
	/* of the application's writes, acknowledged by both sides of a migration */
	_Atomic uint64_t mirrored_bytes;
	_Atomic uint64_t ios[UB_NR_OPS]; /* completed, with or without an error */
	_Atomic uint64_t bytes[UB_NR_OPS];
	_Atomic uint64_t errors[UB_NR_OPS];
	_Atomic uint64_t nr_turns;   /* how often the thread woke up: an io_uring_enter each */
	_Atomic uint64_t nr_submits; /* io_uring_enter calls beside them */
	_Atomic uint64_t nr_copies;  /* pread and pwrite calls of the user-copy data path */
	_Atomic uint64_t in_flight;  /* a gauge, as of the end of the last turn */
	_Atomic uint64_t max_batch;  /* the most commits of one turn */
	/* turns by their number of commits, those without one left out */
	_Atomic uint64_t batches[UB_STATS_BATCH_SIZES];
	struct ub_backend_queue_stats backends[UB_STATS_SIDES];
	struct ub_histogram latency[UB_NR_OPS]; /* from arrival to commit; empty with --no-stats */
} __attribute__((aligned(64)));

struct ub_stats_page {
	uint32_t magic;
	uint32_t version;
	uint32_t nr_queues;
	_Atomic uint32_t lost_links; /* for keepers of version 3: not 0: there are some untold */
	uint64_t start_ns;	     /* of the monotonic clock: when counting began */
	uint64_t start_unix_s;	     /* the same in seconds since 1970 */
	/*
	 * What stands behind the device, and what it is being moved to: these two change their
	 * places. What is counted is the sum of both, a gauge is the present one's.
	 */
	_Atomic uint32_t side; /* of backends[], and of each queue's: the present one */
	struct ub_backend_stats backends[UB_STATS_SIDES];
	struct ub_migration_stats migration;
	struct ub_queue_stats queues[];
};

static inline size_t ub_stats_bytes(unsigned nr_queues)
{
	return sizeof(struct ub_stats_page) + nr_queues * sizeof(struct ub_queue_stats);
}

/* The owner's: no read-modify-write instruction is needed with one writer. */
static inline void ub_stat_set(_Atomic uint64_t *word, uint64_t value)
{
	atomic_store_explicit(word, value, memory_order_release);
}

static inline void ub_stat_add(_Atomic uint64_t *counter, uint64_t n)
{
	ub_stat_set(counter, atomic_load_explicit(counter, memory_order_relaxed) + n);
}

/* Anybody's. */
static inline uint64_t ub_stat_read(const _Atomic uint64_t *word)
{
	return atomic_load_explicit(word, memory_order_acquire);
}

/* Which of the two sides is the present one. */
static inline unsigned ub_stat_side(const struct ub_stats_page *page)
{
	return atomic_load_explicit(&page->side, memory_order_acquire) % UB_STATS_SIDES;
}

/*
 * The owner's: an outage begins (one that has begun goes on), or ends. Times of the monotonic
 * clock.
 */
static inline void ub_stat_outage_begins(struct ub_backend_stats *stats, uint64_t since_ns)
{
	uint64_t sum = ub_stat_read(&stats->outage);

	if (sum & UB_STATS_IN_OUTAGE)
		return;
	ub_stat_add(&stats->nr_outages, 1);
	ub_stat_set(&stats->outage, UB_STATS_IN_OUTAGE | (since_ns - sum));
}

static inline void ub_stat_outage_ends(struct ub_backend_stats *stats, uint64_t now_ns)
{
	uint64_t word = ub_stat_read(&stats->outage);

	if (word & UB_STATS_IN_OUTAGE)
		ub_stat_set(&stats->outage, now_ns - (word & ~UB_STATS_IN_OUTAGE));
}

/* Anybody's: the length of all outages until now_ns. */
static inline uint64_t ub_stat_outage_ns(const struct ub_backend_stats *stats, uint64_t now_ns)
{
	uint64_t word = ub_stat_read(&stats->outage);

	return word & UB_STATS_IN_OUTAGE ? now_ns - (word & ~UB_STATS_IN_OUTAGE) : word;
}

#endif
