/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a back end may say of itself, and what is refused. */
#include "good-limits.h"
#include "unit.h"

#include <errno.h>

#include "backend/limits.h"

/* One field of good limits is changed: is it refused, with a message that says why? */
#define assert_refused(field, value, part) \
	do { \
		struct ub_limits limits_ = good_limits(); \
		struct ub_err err_ = { 0 }; \
\
		limits_.field = (value); \
		assert_int_equal(ub_limits_check(&limits_, &err_), -EINVAL); \
		assert_int_equal(err_.code, EINVAL); \
		unit_assert_says(err_.text, part); \
	} while (0)

#define assert_accepted(field, value) \
	do { \
		struct ub_limits limits_ = good_limits(); \
		struct ub_err err_ = { 0 }; \
\
		limits_.field = (value); \
		if (ub_limits_check(&limits_, &err_)) \
			fail_msg(#field " " #value ": %s", err_.text); \
	} while (0)

static void logical_blocks_go_from_512_to_4096(void **state)
{
	(void)state;
	assert_accepted(logical_block_bytes, 512);
	assert_accepted(logical_block_bytes, 1024);
	assert_accepted(logical_block_bytes, 4096);
	assert_refused(logical_block_bytes, 0, "logical block of 0");
	assert_refused(logical_block_bytes, 1, "logical block of 1 ");
	assert_refused(logical_block_bytes, 256, "logical block of 256");
	assert_refused(logical_block_bytes, 513, "logical block of 513");
	assert_refused(logical_block_bytes, 3072, "logical block of 3072");
	assert_refused(logical_block_bytes, 8192, "logical block of 8192");
}

static void physical_blocks_go_from_the_logical_to_1m(void **state)
{
	struct ub_limits limits = good_limits();
	struct ub_err err = { 0 };

	(void)state;
	assert_accepted(physical_block_bytes, 512);
	assert_accepted(physical_block_bytes, 1 << 20);
	assert_refused(physical_block_bytes, 0, "physical block of 0");
	assert_refused(physical_block_bytes, 256, "physical block of 256");
	assert_refused(physical_block_bytes, 5000, "physical block of 5000");
	assert_refused(physical_block_bytes, 2 << 20, "physical block of 2097152");
	limits.logical_block_bytes = 4096;
	limits.physical_block_bytes = 2048;
	assert_int_equal(ub_limits_check(&limits, &err), -EINVAL);
	unit_assert_says(err.text, "logical block (4096)");
}

static void optimal_io_is_none_or_a_power_of_two(void **state)
{
	(void)state;
	assert_accepted(optimal_io_bytes, 0);
	assert_accepted(optimal_io_bytes, 4096);
	assert_accepted(optimal_io_bytes, 1 << 28);
	assert_refused(optimal_io_bytes, 2048, "optimal I/O of 2048");
	assert_refused(optimal_io_bytes, 12288, "optimal I/O of 12288");
	assert_refused(optimal_io_bytes, 1 << 29, "optimal I/O of 536870912");
}

static void sizes_are_whole_blocks_below_8e(void **state)
{
	struct ub_limits limits = good_limits();
	struct ub_err err = { 0 };

	(void)state;
	assert_accepted(size_bytes, 512);
	assert_accepted(size_bytes, (uint64_t)INT64_MAX - 511);
	assert_refused(size_bytes, 0, "above 0");
	assert_refused(size_bytes, 1ULL << 63, "below 8E");
	assert_refused(size_bytes, 511, "multiple");
	assert_refused(size_bytes, (16 << 20) + 1, "--block-size");
	limits.logical_block_bytes = 4096;
	limits.size_bytes = 4608; /* nine sectors */
	assert_int_equal(ub_limits_check(&limits, &err), -EINVAL);
	unit_assert_says(err.text, "multiple of the block size 4096");
}

static void the_largest_io_is_whole_blocks_from_4096_on(void **state)
{
	(void)state;
	assert_accepted(max_io_bytes, 4096);
	assert_accepted(max_io_bytes, 4096 + 512);
	assert_refused(max_io_bytes, 0, "largest I/O of 0");
	assert_refused(max_io_bytes, 3584, "largest I/O of 3584");
	assert_refused(max_io_bytes, 4097, "largest I/O of 4097");
}

static void discard_granularity_is_none_or_a_power_of_two(void **state)
{
	(void)state;
	assert_accepted(discard_granularity_bytes, 0);
	assert_accepted(discard_granularity_bytes, 512);
	assert_accepted(discard_granularity_bytes, 1U << 31);
	assert_refused(discard_granularity_bytes, 256, "discard granularity of 256");
	assert_refused(discard_granularity_bytes, 1536, "discard granularity of 1536");
}

static void ranges_are_whole_blocks_up_to_1g(void **state)
{
	(void)state;
	assert_accepted(max_discard_bytes, 512);
	assert_accepted(max_discard_bytes, 1 << 30);
	assert_refused(max_discard_bytes, 0, "largest discard of 0");
	assert_refused(max_discard_bytes, 256, "largest discard of 256");
	assert_refused(max_discard_bytes, 4608 + 1, "whole blocks");
	assert_refused(max_discard_bytes, (1 << 30) + 512, "at most 1G");
	assert_accepted(max_zeroes_bytes, 512);
	assert_refused(max_zeroes_bytes, 0, "largest write of zeroes of 0");
	assert_refused(max_zeroes_bytes, 1000, "whole blocks");
	assert_refused(max_zeroes_bytes, (1 << 30) + 512, "at most 1G");
}

static void a_range_without_the_ability_is_refused(void **state)
{
	struct ub_limits limits = good_limits();
	struct ub_err err = { 0 };

	(void)state;
	assert_refused(can_trim, 0, "discard");
	assert_refused(can_zero, 0, "zeroes");
	limits.can_trim = limits.can_zero = 0;
	limits.max_discard_bytes = limits.max_zeroes_bytes = 0;
	assert_int_equal(ub_limits_check(&limits, &err), 0);
}

/* ---- the parameters
 * -------------------------------------------------------------------------------- */

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(logical_blocks_go_from_512_to_4096),
		cmocka_unit_test(physical_blocks_go_from_the_logical_to_1m),
		cmocka_unit_test(optimal_io_is_none_or_a_power_of_two),
		cmocka_unit_test(sizes_are_whole_blocks_below_8e),
		cmocka_unit_test(the_largest_io_is_whole_blocks_from_4096_on),
		cmocka_unit_test(discard_granularity_is_none_or_a_power_of_two),
		cmocka_unit_test(ranges_are_whole_blocks_up_to_1g),
		cmocka_unit_test(a_range_without_the_ability_is_refused),
	};

	return cmocka_run_group_tests_name("limits", tests, NULL, NULL);
}
