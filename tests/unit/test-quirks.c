/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which kernel has which quirks, by the features that it names. */
#include "unit.h"

#include <ublk-bridge/ublk-abi.h>

#include "ublk/quirks.h"

#define FEATURES_6_12 0x1feULL	  /* as GET_FEATURES says there */
#define FEATURES_7    0x1fffffULL /* 7.3 */

static void linux_6_12_has_them_all(void **state)
{
	const struct ub_quirks q = ub_quirks_of(FEATURES_6_12);

	(void)state;
	assert_true(q.rings_must_be_held);
	assert_true(q.half_fetched_is_fatal);
	assert_true(q.start_twice_is_einval);
	assert_true(q.full_queue_hides_death);
	assert_true(q.scan_in_start_hangs);
}

static void linux_7_has_none(void **state)
{
	const struct ub_quirks q = ub_quirks_of(FEATURES_7);

	(void)state;
	assert_false(q.rings_must_be_held);
	assert_false(q.half_fetched_is_fatal);
	assert_false(q.start_twice_is_einval);
	assert_false(q.full_queue_hides_death);
	assert_false(q.scan_in_start_hangs);
}

static void between_the_two_only_the_scan_is_one(void **state)
{
	const struct ub_quirks q = ub_quirks_of(FEATURES_7 & ~UBLK_F_NO_AUTO_PART_SCAN);

	(void)state;
	assert_false(q.rings_must_be_held);
	assert_false(q.full_queue_hides_death);
	assert_true(q.scan_in_start_hangs);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(linux_6_12_has_them_all),
		cmocka_unit_test(linux_7_has_none),
		cmocka_unit_test(between_the_two_only_the_scan_is_one),
	};

	return cmocka_run_group_tests_name("quirks", tests, NULL, NULL);
}
