/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Histograms of nanoseconds, log-linear: <ublk-bridge/page.h> says how. One thread records, any
 * other may copy. Neither allocates nor locks.
 */
#ifndef UB_BASE_HISTOGRAM_H
#define UB_BASE_HISTOGRAM_H

#include <ublk-bridge/page.h>

/* What was recorded by one or several, as it was when it was copied. */
struct ub_histogram_copy {
	uint64_t count, sum_ns, max_ns;
	uint64_t buckets[UB_HISTOGRAM_BUCKETS];
};

/* The bucket of a value; the last one of all that is too long. */
static inline unsigned ub_histogram_index(uint64_t ns)
{
	unsigned bits;

	if (ns < 1ULL << UB_HISTOGRAM_SUB_BITS)
		return (unsigned)ns;
	if (ns >= 1ULL << UB_HISTOGRAM_MAX_BITS)
		return UB_HISTOGRAM_BUCKETS - 1;
	bits = 63 - (unsigned)__builtin_clzll(ns) - UB_HISTOGRAM_SUB_BITS;
	/* The leading one of what the shift leaves counts as one power more. */
	return (bits << UB_HISTOGRAM_SUB_BITS) + (unsigned)(ns >> bits);
}

/* Its owner's thread. */
static inline void ub_histogram_record(struct ub_histogram *h, uint64_t ns)
{
	ub_stat_add(&h->buckets[ub_histogram_index(ns)], 1);
	ub_stat_add(&h->sum_ns, ns);
	if (ns > ub_stat_read(&h->max_ns))
		ub_stat_set(&h->max_ns, ns);
}

/* Adds what h has now to a copy (a zeroed one at first). */
void ub_histogram_add(struct ub_histogram_copy *copy, const struct ub_histogram *h);

/*
 * The value that so many of a thousand do not exceed, at most 1.6 % off and never above the
 * maximum; 0 of nothing.
 */
uint64_t ub_histogram_quantile(const struct ub_histogram_copy *copy, unsigned permille);

/*
 * How many were shorter than 2^bits ns; exact. bits: UB_HISTOGRAM_SUB_BITS to UB_HISTOGRAM_MAX_BITS
 * - 1.
 */
uint64_t ub_histogram_below(const struct ub_histogram_copy *copy, unsigned bits);

#endif
