/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What ublk's parameters become, and which data path is taken. */
#include "good-limits.h"
#include "unit.h"

#include <errno.h>

#include "ublk/datapath.h"
#include "ublk/params.h"

static void parameters_say_what_the_limits_say(void **state)
{
	struct ub_limits limits = good_limits();
	struct ublk_params p;

	(void)state;
	limits.logical_block_bytes = 1024;
	limits.optimal_io_bytes = 1 << 16;
	limits.discard_granularity_bytes = 8192;
	memset(&p, 0xff, sizeof(p));
	ub_params_from_limits(&limits, 256 << 10, &p);
	assert_int_equal(p.len, sizeof(p));
	assert_int_equal(p.types, UBLK_PARAM_TYPE_BASIC | UBLK_PARAM_TYPE_DISCARD);
	assert_int_equal(p.basic.logical_bs_shift, 10);
	assert_int_equal(p.basic.physical_bs_shift, 12);
	assert_int_equal(p.basic.io_min_shift, 12);
	assert_int_equal(p.basic.io_opt_shift, 16);
	assert_int_equal(p.basic.max_sectors,
			 512); /* as ADD_DEV returned it, not the back end's 1M */
	assert_int_equal(p.basic.dev_sectors, (16 << 20) / 512);
	assert_int_equal(p.basic.chunk_sectors, 0);
	assert_int_equal(p.basic.virt_boundary_mask, 0);
	assert_int_equal(p.discard.discard_granularity, 8192);
	assert_int_equal(p.discard.discard_alignment, 0);
	assert_int_equal(p.discard.max_discard_sectors, (128 << 20) / 512);
	assert_int_equal(p.discard.max_write_zeroes_sectors, (16 << 20) / 512);
	assert_int_equal(p.discard.max_discard_segments, 1);
	assert_int_equal(p.discard.reserved0, 0);
	assert_int_equal(p.devt.char_major, 0);
	assert_int_equal(p.zoned.max_open_zones, 0);
}

static void huge_sizes_keep_all_their_sectors(void **state)
{
	struct ub_limits limits = good_limits();
	struct ublk_params p;

	(void)state;
	limits.size_bytes = (uint64_t)INT64_MAX - 511;
	ub_params_from_limits(&limits, 1 << 20, &p);
	assert_true(p.basic.dev_sectors == limits.size_bytes / 512);
}

static void a_writable_device_has_a_cache_and_fua(void **state)
{
	struct ub_limits limits = good_limits();
	struct ublk_params p;

	(void)state;
	limits.can_flush = limits.can_fua = 0; /* the core makes up for them */
	ub_params_from_limits(&limits, 1 << 20, &p);
	assert_int_equal(p.basic.attrs, UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA);
	limits.rotational = 1;
	ub_params_from_limits(&limits, 1 << 20, &p);
	assert_int_equal(p.basic.attrs,
			 UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA | UBLK_ATTR_ROTATIONAL);
}

static void a_read_only_device_takes_no_writes_of_any_kind(void **state)
{
	struct ub_limits limits = good_limits();
	struct ublk_params p;

	(void)state;
	limits.read_only = 1;
	ub_params_from_limits(&limits, 1 << 20, &p);
	assert_int_equal(p.basic.attrs, UBLK_ATTR_READ_ONLY);
	assert_int_equal(p.types, UBLK_PARAM_TYPE_BASIC);
}

static void discard_parameters_are_there_for_either_ability(void **state)
{
	struct ub_limits limits = good_limits();
	struct ublk_params p;

	(void)state;
	limits.can_trim = 0;
	limits.max_discard_bytes = 0;
	ub_params_from_limits(&limits, 1 << 20, &p);
	assert_int_equal(p.types, UBLK_PARAM_TYPE_BASIC | UBLK_PARAM_TYPE_DISCARD);
	assert_int_equal(p.discard.max_discard_sectors, 0);
	assert_int_equal(p.discard.max_write_zeroes_sectors, (16 << 20) / 512);
	assert_int_equal(p.discard.discard_granularity, 512); /* never 0: the driver refuses that */
	limits.can_zero = 0;
	limits.max_zeroes_bytes = 0;
	ub_params_from_limits(&limits, 1 << 20, &p);
	assert_int_equal(p.types, UBLK_PARAM_TYPE_BASIC);
}

static void no_optimal_io_becomes_one_physical_block(void **state)
{
	struct ub_limits limits = good_limits();
	struct ublk_params p;

	(void)state;
	ub_params_from_limits(&limits, 1 << 20, &p);
	assert_int_equal(p.basic.io_opt_shift, 12);
}

/* ---- the data path
 * ----------------------------------------------------------------------------------- */

static void data_path_names_read_back(void **state)
{
	struct ub_err err = { 0 };

	(void)state;
	for (unsigned i = 0; i < UB_NR_DATA_PATHS; i++) {
		enum ub_data_path path = UB_NR_DATA_PATHS;

		assert_int_equal(ub_data_path_parse(ub_data_path_name(i), &path, &err), 0);
		assert_int_equal(path, i);
	}
}

static void unknown_data_paths_are_refused(void **state)
{
	static const char *const bad[] = { "", "Copy", "zero-copy", "copy ", "user" };
	enum ub_data_path path = UB_DATA_PATH_COPY;
	struct ub_err err = { 0 };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(ub_data_path_parse(bad[i], &path, &err), -EINVAL);
		unit_assert_says(err.text, "auto, copy, get-data or user-copy");
		assert_int_equal(path, UB_DATA_PATH_COPY);
	}
}

static void auto_becomes_a_real_path_that_the_kernel_has(void **state)
{
	static const uint64_t features[] = { 0, UBLK_F_NEED_GET_DATA, UBLK_F_USER_COPY,
					     UBLK_F_NEED_GET_DATA | UBLK_F_USER_COPY, UINT64_MAX };
	static const uint32_t caps[] = { 0, UB_CAP_PLACE };
	struct ub_err err = { 0 };

	(void)state;
	for (size_t f = 0; f < sizeof(features) / sizeof(features[0]); f++) {
		for (size_t c = 0; c < sizeof(caps) / sizeof(caps[0]); c++) {
			enum ub_data_path path = UB_DATA_PATH_AUTO;

			assert_int_equal(ub_data_path_choose(&path, features[f], caps[c], &err), 0);
			assert_in_range(path, UB_DATA_PATH_COPY, UB_DATA_PATH_USER_COPY);
			assert_int_equal(ub_data_path_flag(path) & ~features[f], 0);
			if (features[f] == 0)
				assert_int_equal(path, UB_DATA_PATH_COPY);
		}
	}
}

static void a_path_that_the_kernel_lacks_is_refused(void **state)
{
	enum ub_data_path path = UB_DATA_PATH_GET_DATA;
	struct ub_err err = { 0 };

	(void)state;
	assert_int_equal(ub_data_path_choose(&path, ~UBLK_F_NEED_GET_DATA, 0, &err), -EOPNOTSUPP);
	unit_assert_says(err.text, "--data-path get-data");
	unit_assert_says(err.text, "6.0");
	path = UB_DATA_PATH_USER_COPY;
	assert_int_equal(ub_data_path_choose(&path, ~UBLK_F_USER_COPY, 0, &err), -EOPNOTSUPP);
	unit_assert_says(err.text, "--data-path user-copy");
	unit_assert_says(err.text, "6.5");
}

static void a_forced_path_is_kept(void **state)
{
	struct ub_err err = { 0 };

	(void)state;
	for (unsigned i = UB_DATA_PATH_COPY; i < UB_NR_DATA_PATHS; i++) {
		enum ub_data_path path = i;

		assert_int_equal(ub_data_path_choose(&path, UINT64_MAX, UB_CAP_PLACE, &err), 0);
		assert_int_equal(path, i);
	}
}

static void each_path_has_its_own_flag(void **state)
{
	(void)state;
	assert_int_equal(ub_data_path_flag(UB_DATA_PATH_COPY), 0);
	assert_int_equal(ub_data_path_flag(UB_DATA_PATH_GET_DATA), UBLK_F_NEED_GET_DATA);
	assert_int_equal(ub_data_path_flag(UB_DATA_PATH_USER_COPY), UBLK_F_USER_COPY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parameters_say_what_the_limits_say),
		cmocka_unit_test(huge_sizes_keep_all_their_sectors),
		cmocka_unit_test(a_writable_device_has_a_cache_and_fua),
		cmocka_unit_test(a_read_only_device_takes_no_writes_of_any_kind),
		cmocka_unit_test(discard_parameters_are_there_for_either_ability),
		cmocka_unit_test(no_optimal_io_becomes_one_physical_block),
		cmocka_unit_test(data_path_names_read_back),
		cmocka_unit_test(unknown_data_paths_are_refused),
		cmocka_unit_test(auto_becomes_a_real_path_that_the_kernel_has),
		cmocka_unit_test(a_path_that_the_kernel_lacks_is_refused),
		cmocka_unit_test(a_forced_path_is_kept),
		cmocka_unit_test(each_path_has_its_own_flag),
	};

	return cmocka_run_group_tests_name("params", tests, NULL, NULL);
}
