/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is read out of a histogram. Any thread; knows nobody. */
#include "base/histogram.h"

#include <assert.h>

void ub_histogram_add(struct ub_histogram_copy *copy, const struct ub_histogram *h)
{
	uint64_t max_ns;

	for (unsigned i = 0; i < UB_HISTOGRAM_BUCKETS; i++) {
		uint64_t n = ub_stat_read(&h->buckets[i]);

		copy->buckets[i] += n;
		copy->count += n; /* and not a counter of its own: it must agree with the buckets */
	}
	copy->sum_ns += ub_stat_read(&h->sum_ns);
	max_ns = ub_stat_read(&h->max_ns);
	if (max_ns > copy->max_ns)
		copy->max_ns = max_ns;
}

/* The middle of a bucket. */
static uint64_t histogram_middle(unsigned index)
{
	unsigned bits;
	uint64_t first;

	if (index < 2U << UB_HISTOGRAM_SUB_BITS)
		return index; /* one value wide */
	bits = (index >> UB_HISTOGRAM_SUB_BITS) - 1;
	first = (uint64_t)(index - (bits << UB_HISTOGRAM_SUB_BITS)) << bits;
	return first + (1ULL << bits) / 2;
}

uint64_t ub_histogram_quantile(const struct ub_histogram_copy *copy, unsigned permille)
{
	/* Rounded up, and without the product of both, which might not fit. */
	uint64_t rank = copy->count / 1000 * permille +
			(copy->count % 1000 * permille + 999) / 1000,
		 seen = 0, value;
	unsigned i = 0;

	if (copy->count == 0)
		return 0;
	if (rank == 0)
		rank = 1;
	while (i < UB_HISTOGRAM_BUCKETS && seen + copy->buckets[i] < rank)
		seen += copy->buckets[i++];
	/*
	 * Past the last one only if somebody wrote nonsense into the page, and the sum did not fit.
	 */
	value = i < UB_HISTOGRAM_BUCKETS ? histogram_middle(i) : copy->max_ns;
	return value < copy->max_ns ? value : copy->max_ns;
}

uint64_t ub_histogram_below(const struct ub_histogram_copy *copy, unsigned bits)
{
	unsigned end = (bits - UB_HISTOGRAM_SUB_BITS + 1) << UB_HISTOGRAM_SUB_BITS;
	uint64_t n = 0;

	assert(bits >= UB_HISTOGRAM_SUB_BITS && bits < UB_HISTOGRAM_MAX_BITS);
	for (unsigned i = 0; i < end; i++)
		n += copy->buckets[i];
	return n;
}
