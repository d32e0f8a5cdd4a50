/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Control commands as far as they go without a device: feature names, and what errors say. */
#include "unit.h"

#include <errno.h>

#include <ublk-bridge/ublk-abi.h>

#include "base/cleanup.h"
#include "ublk/ctrl.h"

static unsigned bit_of(uint64_t flag)
{
	return (unsigned)__builtin_ctzll(flag);
}

static void feature_bits_have_their_names(void **state)
{
	(void)state;
	assert_string_equal(ub_ctrl_feature_name(bit_of(UBLK_F_SUPPORT_ZERO_COPY)),
			    "SUPPORT_ZERO_COPY");
	assert_string_equal(ub_ctrl_feature_name(bit_of(UBLK_F_NEED_GET_DATA)), "NEED_GET_DATA");
	assert_string_equal(ub_ctrl_feature_name(bit_of(UBLK_F_CMD_IOCTL_ENCODE)),
			    "CMD_IOCTL_ENCODE");
	assert_string_equal(ub_ctrl_feature_name(bit_of(UBLK_F_USER_COPY)), "USER_COPY");
	assert_string_equal(ub_ctrl_feature_name(bit_of(UBLK_F_USER_RECOVERY_FAIL_IO)),
			    "USER_RECOVERY_FAIL_IO");
	assert_string_equal(ub_ctrl_feature_name(bit_of(UBLK_F_QUIESCE)), "QUIESCE");
	assert_string_equal(ub_ctrl_feature_name(bit_of(UBLK_F_PER_IO_DAEMON)), "PER_IO_DAEMON");
	assert_string_equal(ub_ctrl_feature_name(bit_of(UBLK_F_BATCH_IO)), "BATCH_IO");
	assert_string_equal(ub_ctrl_feature_name(bit_of(UBLK_F_NO_AUTO_PART_SCAN)),
			    "NO_AUTO_PART_SCAN");
	assert_string_equal(ub_ctrl_feature_name(bit_of(UBLK_F_IO_DESC_SIZE)), "IO_DESC_SIZE");
}

static void every_known_feature_says_since_when(void **state)
{
	(void)state;
	for (unsigned bit = 0; bit <= bit_of(UBLK_F_IO_DESC_SIZE); bit++) {
		assert_non_null(ub_ctrl_feature_name(bit));
		assert_non_null(ub_ctrl_feature_since(bit));
	}
	assert_string_equal(ub_ctrl_feature_since(bit_of(UBLK_F_USER_COPY)), "6.5");
}

static void unknown_features_have_no_name(void **state)
{
	(void)state;
	assert_null(ub_ctrl_feature_name(bit_of(UBLK_F_IO_DESC_SIZE) + 1));
	assert_null(ub_ctrl_feature_since(63));
	assert_null(ub_ctrl_feature_name(64));
}

static void opening_without_the_right_or_the_module_says_what_to_do(void **state)
{
	struct ub_ctrl ctrl;
	struct ub_err err = { 0 };
	int ret;

	(void)state;
	if (geteuid() == 0)
		skip(); /* it would load the module */
	ret = ub_ctrl_open(&ctrl, &err);
	if (ret == 0) {
		ub_ctrl_close(&ctrl);
		skip(); /* somebody gave us the right */
	}
	assert_int_equal(ret, -err.code);
	unit_assert_says(err.text, "/dev/ublk-control");
	unit_assert_says(err.text, "root");
	ub_ctrl_close(&ctrl); /* also of one that never opened */
}

/* ---- commands to a file that is no control device
 * ------------------------------------------------------ */

/* A ring as ub_ctrl_open() makes it, towards another file. */
static void fake_open(struct ub_ctrl *ctrl, const char *path)
{
	memset(ctrl, 0, sizeof(*ctrl));
	ctrl->fd = open(path, O_RDWR | O_CLOEXEC);
	if (ctrl->fd < 0 || io_uring_queue_init(4, &ctrl->ring, IORING_SETUP_SQE128) < 0) {
		ub_close(&ctrl->fd);
		skip(); /* no io_uring here */
	}
	ctrl->has_ring = true;
}

static void a_kernel_without_get_features_is_too_old(void **state)
{
	uint64_t features = 4711;
	struct ub_err err = { 0 };
	struct ub_ctrl ctrl;

	(void)state;
	fake_open(&ctrl, "/dev/zero"); /* it knows no commands */
	assert_int_equal(ub_ctrl_get_features(&ctrl, &features, &err), -EOPNOTSUPP);
	unit_assert_says(err.text, "too old");
	unit_assert_says(err.text, "6.5");
	ub_ctrl_close(&ctrl);
	ub_ctrl_close(&ctrl);
}

static void a_kernel_without_encoded_commands_is_refused(void **state)
{
	uint64_t features = 4711;
	struct ub_err err = { 0 };
	struct ub_ctrl ctrl;
	int ret;

	(void)state;
	fake_open(&ctrl,
		  "/dev/null"); /* since Linux 5.19: it takes every command and does nothing */
	ret = ub_ctrl_get_features(&ctrl, &features, &err);
	ub_ctrl_close(&ctrl);
	assert_int_equal(ret, -EOPNOTSUPP);
	if (strstr(err.text, "too old"))
		skip(); /* this /dev/null knows none */
	unit_assert_says(err.text, "encoded ublk commands");
	assert_int_equal(features, 0);
}

static void a_failed_command_is_named(void **state)
{
	struct ublksrv_ctrl_dev_info info = { .dev_id = 7 };
	struct ub_err err = { 0 };
	struct ub_ctrl ctrl;

	(void)state;
	fake_open(&ctrl, "/dev/zero");
	assert_int_equal(ub_ctrl_get_info(&ctrl, 7, &info, &err), -EOPNOTSUPP);
	unit_assert_says(err.text, "GET_DEV_INFO");
	assert_int_equal(ub_ctrl_add(&ctrl, &info, &err), -EOPNOTSUPP);
	unit_assert_says(err.text, "ADD_DEV");
	ub_ctrl_close(&ctrl);
}

static void a_stuck_ring_sends_no_more(void **state)
{
	struct ublksrv_ctrl_dev_info info;
	struct ub_err err = { 0 };
	struct ub_ctrl ctrl;

	(void)state;
	fake_open(&ctrl, "/dev/null");
	ctrl.stuck = true;
	assert_int_equal(ub_ctrl_get_info(&ctrl, 7, &info, &err), -ETIMEDOUT);
	unit_assert_says(err.text, "did not answer");
	ub_ctrl_close(&ctrl);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(feature_bits_have_their_names),
		cmocka_unit_test(every_known_feature_says_since_when),
		cmocka_unit_test(unknown_features_have_no_name),
		cmocka_unit_test(opening_without_the_right_or_the_module_says_what_to_do),
		cmocka_unit_test(a_kernel_without_get_features_is_too_old),
		cmocka_unit_test(a_kernel_without_encoded_commands_is_refused),
		cmocka_unit_test(a_failed_command_is_named),
		cmocka_unit_test(a_stuck_ring_sends_no_more),
	};

	return cmocka_run_group_tests_name("ctrl", tests, NULL, NULL);
}
