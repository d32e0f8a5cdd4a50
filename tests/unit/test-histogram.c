/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Histograms: how far off they are, their edges, and outages that are counted in one word. */
#include "unit.h"

#include "base/histogram.h"

#define NS_PER_HOUR 3600000000000ULL

static struct ub_histogram histogram;
static struct ub_histogram_copy copy;

static int begin(void **state)
{
	(void)state;
	memset(&histogram, 0, sizeof(histogram));
	memset(&copy, 0, sizeof(copy));
	return 0;
}

/*
 * What is said of a value that is the only one, with a larger one recorded so that the maximum does
 * not help.
 */
static uint64_t said_of(uint64_t ns)
{
	struct ub_histogram_copy one = { 0 };

	memset(&histogram, 0, sizeof(histogram));
	ub_histogram_record(&histogram, ns);
	ub_histogram_record(&histogram, UINT64_MAX / 2);
	ub_histogram_add(&one, &histogram);
	return ub_histogram_quantile(&one, 500);
}

static void assert_close(uint64_t said, uint64_t ns)
{
	uint64_t off = said > ns ? said - ns : ns - said;

	if (off > ns / 100 * 3 + ns % 100 * 3 / 100)
		fail_msg("%llu is said to be %llu", (unsigned long long)ns,
			 (unsigned long long)said);
}

static void the_error_is_at_most_3_percent(void **state)
{
	uint64_t seed = 4711;

	(void)state;
	for (uint64_t ns = 0; ns < 70000; ns++)
		assert_close(said_of(ns), ns);
	for (uint64_t power = 1 << 16; power <= NS_PER_HOUR; power *= 2) {
		assert_close(said_of(power - 1), power - 1);
		assert_close(said_of(power), power);
		assert_close(said_of(power + 1), power + 1);
		for (unsigned i = 0; i < 1000; i++) {
			uint64_t ns = power + unit_random(&seed) % power;

			assert_close(said_of(ns < NS_PER_HOUR ? ns : NS_PER_HOUR),
				     ns < NS_PER_HOUR ? ns : NS_PER_HOUR);
		}
	}
}

static void small_values_are_exact(void **state)
{
	(void)state;
	for (uint64_t ns = 0; ns < 64; ns++)
		assert_int_equal(said_of(ns), ns);
}

static void buckets_follow_each_other(void **state)
{
	unsigned last = 0;

	(void)state;
	assert_int_equal(ub_histogram_index(0), 0);
	for (uint64_t ns = 1; ns < 1 << 20; ns++) {
		unsigned index = ub_histogram_index(ns);

		assert_true(index == last || index == last + 1);
		last = index;
	}
	for (unsigned bits = 20; bits < UB_HISTOGRAM_MAX_BITS; bits++)
		assert_int_equal(ub_histogram_index(1ULL << bits),
				 ub_histogram_index((1ULL << bits) - 1) + 1);
	assert_int_equal(ub_histogram_index((1ULL << UB_HISTOGRAM_MAX_BITS) - 1),
			 UB_HISTOGRAM_BUCKETS - 1);
}

static void what_is_too_long_counts_in_the_last_bucket(void **state)
{
	(void)state;
	ub_histogram_record(&histogram, 1ULL << UB_HISTOGRAM_MAX_BITS);
	ub_histogram_record(&histogram, UINT64_MAX / 2);
	assert_int_equal(ub_stat_read(&histogram.buckets[UB_HISTOGRAM_BUCKETS - 1]), 2);
	ub_histogram_add(&copy, &histogram);
	assert_int_equal(copy.count, 2);
	assert_int_equal(copy.max_ns, UINT64_MAX / 2);
	assert_true(ub_histogram_quantile(&copy, 999) > NS_PER_HOUR);
}

static void nothing_has_no_quantiles(void **state)
{
	(void)state;
	ub_histogram_add(&copy, &histogram);
	assert_int_equal(copy.count, 0);
	assert_int_equal(ub_histogram_quantile(&copy, 500), 0);
	assert_int_equal(ub_histogram_quantile(&copy, 1000), 0);
}

static void quantiles_are_ranks(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 990; i++)
		ub_histogram_record(&histogram, 10);
	for (unsigned i = 0; i < 9; i++)
		ub_histogram_record(&histogram, 20);
	ub_histogram_record(&histogram, 1000003);
	ub_histogram_add(&copy, &histogram);
	assert_int_equal(copy.count, 1000);
	assert_int_equal(copy.sum_ns, 9900 + 180 + 1000003);
	assert_int_equal(copy.max_ns, 1000003);
	assert_int_equal(ub_histogram_quantile(&copy, 0), 10);
	assert_int_equal(ub_histogram_quantile(&copy, 990), 10);
	assert_int_equal(ub_histogram_quantile(&copy, 991), 20);
	assert_int_equal(ub_histogram_quantile(&copy, 999), 20);
	/* The middle of the last one's bucket lies above it, and is not said. */
	assert_true(ub_histogram_quantile(&copy, 1000) <= 1000003);
	assert_close(ub_histogram_quantile(&copy, 1000), 1000003);
}

static void a_quantile_is_never_above_the_maximum(void **state)
{
	(void)state;
	ub_histogram_record(&histogram, 1 << 20);
	ub_histogram_add(&copy, &histogram);
	assert_int_equal(ub_histogram_quantile(&copy, 500), 1 << 20);
}

static void several_are_added_up(void **state)
{
	static struct ub_histogram other;

	(void)state;
	ub_histogram_record(&histogram, 5);
	ub_histogram_record(&other, 500000);
	ub_histogram_record(&other, 7);
	ub_histogram_add(&copy, &histogram);
	ub_histogram_add(&copy, &other);
	assert_int_equal(copy.count, 3);
	assert_int_equal(copy.sum_ns, 500012);
	assert_int_equal(copy.max_ns, 500000);
	assert_int_equal(ub_histogram_quantile(&copy, 500), 7);
}

static void below_a_power_of_two_is_exact(void **state)
{
	(void)state;
	for (unsigned bits = 10; bits < 37; bits++) {
		ub_histogram_record(&histogram, (1ULL << bits) - 1);
		ub_histogram_record(&histogram, 1ULL << bits);
	}
	ub_histogram_add(&copy, &histogram);
	for (unsigned bits = 10; bits < 37; bits++)
		assert_int_equal(ub_histogram_below(&copy, bits), 2 * (bits - 10) + 1);
	assert_int_equal(ub_histogram_below(&copy, UB_HISTOGRAM_MAX_BITS - 1), copy.count);
}

static void outages_add_up(void **state)
{
	struct ub_backend_stats stats = { 0 };

	(void)state;
	assert_int_equal(ub_stat_outage_ns(&stats, 1000), 0);
	ub_stat_outage_ends(&stats, 1000); /* of none: nothing */
	assert_int_equal(ub_stat_outage_ns(&stats, 2000), 0);
	ub_stat_outage_begins(&stats, 5000);
	assert_int_equal(ub_stat_outage_ns(&stats, 5000), 0);
	assert_int_equal(ub_stat_outage_ns(&stats, 5300), 300);
	ub_stat_outage_begins(&stats, 5200); /* it has begun */
	assert_int_equal(ub_stat_outage_ns(&stats, 5300), 300);
	ub_stat_outage_ends(&stats, 5400);
	assert_int_equal(ub_stat_outage_ns(&stats, 9000), 400);
	ub_stat_outage_begins(&stats, 10000);
	assert_int_equal(ub_stat_outage_ns(&stats, 10001), 401);
	ub_stat_outage_ends(&stats, 10100);
	assert_int_equal(ub_stat_outage_ns(&stats, 20000), 500);
	assert_int_equal(ub_stat_read(&stats.nr_outages), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(the_error_is_at_most_3_percent, begin),
		cmocka_unit_test_setup(small_values_are_exact, begin),
		cmocka_unit_test_setup(buckets_follow_each_other, begin),
		cmocka_unit_test_setup(what_is_too_long_counts_in_the_last_bucket, begin),
		cmocka_unit_test_setup(nothing_has_no_quantiles, begin),
		cmocka_unit_test_setup(quantiles_are_ranks, begin),
		cmocka_unit_test_setup(a_quantile_is_never_above_the_maximum, begin),
		cmocka_unit_test_setup(several_are_added_up, begin),
		cmocka_unit_test_setup(below_a_power_of_two_is_exact, begin),
		cmocka_unit_test_setup(outages_add_up, begin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
