/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding and opening back ends through the checked door, asking them through it, the null one, and
 * reports of their health.
 */
#include "unit.h"

#include <errno.h>

#include "backend/backend.h"
#include "base/step.h"

/* A back end that does as it is told. */
static struct {
	int open_ret, limits_ret;
	struct ub_limits limits;
	unsigned nr_opens, nr_closes;
} told;

static int told_open(struct ub_backend *be, const struct ub_backend_config *cfg, struct ub_err *err)
{
	(void)be;
	(void)cfg;
	told.nr_opens++;
	return told.open_ret ? ub_err_set(err, -told.open_ret, "told to fail") : 0;
}

static int told_get_limits(struct ub_backend *be, struct ub_limits *limits, struct ub_err *err)
{
	(void)be;
	*limits = told.limits;
	return told.limits_ret ? ub_err_set(err, -told.limits_ret, "told to have no limits") : 0;
}

static void told_close(struct ub_backend *be)
{
	(void)be;
	told.nr_closes++;
}

static int told_queue_init(struct ub_backend_queue *bq, unsigned nr_slots, struct ub_err *err)
{
	(void)bq;
	(void)nr_slots;
	(void)err;
	return 0;
}

static void told_queue_destroy(struct ub_backend_queue *bq)
{
	(void)bq;
}

static void told_submit(struct ub_backend_queue *bq, struct ub_io *io)
{
	(void)bq;
	(void)io;
}

static const struct ub_backend_ops backend_told = {
	.name = "told",
	.open = told_open,
	.get_limits = told_get_limits,
	.queue_init = told_queue_init,
	.queue_destroy = told_queue_destroy,
	.close = told_close,
	.submit = told_submit,
};

const struct ub_backend_ops *const ub_backends[] = { &ub_backend_null, &backend_told, NULL };

void ub_io_complete(struct ub_io *io, int32_t res)
{
	io->result = res;
}

static int told_setup(void **state)
{
	(void)state;
	memset(&told, 0, sizeof(told));
	told.limits = (struct ub_limits){ .size_bytes = 1 << 20,
					  .logical_block_bytes = 512,
					  .physical_block_bytes = 512,
					  .max_io_bytes = 4096 };
	return 0;
}

static const struct ub_backend_config told_config = { .kind = "told", .options = "", .fd = -1 };

static void back_ends_are_found_by_name(void **state)
{
	struct ub_err err = { 0 };

	(void)state;
	assert_ptr_equal(ub_backend_find("null", &err), &ub_backend_null);
	assert_ptr_equal(ub_backend_find("told", &err), &backend_told);
	assert_int_equal(err.code, 0);
}

static void an_unknown_name_lists_those_that_there_are(void **state)
{
	static const char *const bad[] = { "", "nul", "nulls", "Null" };
	struct ub_err err = { 0 };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_null(ub_backend_find(bad[i], &err));
		assert_int_equal(err.code, EINVAL);
		unit_assert_says(err.text, "null, told");
	}
}

static void opening_an_unknown_one_can_be_closed(void **state)
{
	const struct ub_backend_config config = { .kind = "none", .options = "", .fd = -1 };
	struct ub_backend be;
	struct ub_err err = { 0 };

	(void)state;
	memset(&be, 0xff, sizeof(be));
	assert_int_equal(ub_backend_open(&be, &config, &err), -EINVAL);
	ub_backend_close(&be);
	assert_int_equal(told.nr_closes, 0);
}

static void opening_takes_checked_limits(void **state)
{
	struct ub_backend be;
	struct ub_err err = { 0 };

	(void)state;
	assert_int_equal(ub_backend_open(&be, &told_config, &err), 0);
	assert_memory_equal(&be.limits, &told.limits, sizeof(be.limits));
	ub_backend_close(&be);
	ub_backend_close(&be);
	assert_int_equal(told.nr_opens, 1);
	assert_int_equal(told.nr_closes, 1);
}

static void limits_that_make_no_sense_are_refused(void **state)
{
	struct ub_backend be;
	struct ub_err err = { 0 };

	(void)state;
	told.limits.size_bytes = 1000;
	assert_int_equal(ub_backend_open(&be, &told_config, &err), -EINVAL);
	unit_assert_says(err.text, "size of 1000 bytes");
	ub_backend_close(&be);
	assert_int_equal(told.nr_closes, 1);
}

static void failures_of_the_back_end_come_through(void **state)
{
	struct ub_backend be;
	struct ub_err err = { 0 };

	(void)state;
	told.open_ret = -ECONNREFUSED;
	assert_int_equal(ub_backend_open(&be, &told_config, &err), -ECONNREFUSED);
	assert_string_equal(err.text, "told to fail");
	ub_backend_close(&be); /* accepts what a failed open left */
	assert_int_equal(told.nr_closes, 1);
	told.open_ret = 0;
	told.limits_ret = -EPROTO;
	assert_int_equal(ub_backend_open(&be, &told_config, &err), -EPROTO);
	ub_backend_close(&be);
	assert_int_equal(told.nr_closes, 2);
}

static int fail_backend_open(const char *name)
{
	return strcmp(name, "backend-open") == 0 ? EIO : 0;
}

static void the_opening_step_can_be_made_to_fail(void **state)
{
	struct ub_backend be;
	struct ub_err err = { 0 };

	(void)state;
	ub_step_hook = fail_backend_open;
	assert_int_equal(ub_backend_open(&be, &told_config, &err), -EIO);
	ub_step_hook = NULL;
	assert_int_equal(told.nr_opens, 0);
	ub_backend_close(&be);
}

static void read_only_comes_from_either_side(void **state)
{
	struct ub_backend_config config = told_config;
	struct ub_backend be;
	struct ub_err err = { 0 };

	(void)state;
	config.read_only = true;
	assert_int_equal(ub_backend_open(&be, &config, &err), 0);
	assert_int_equal(be.limits.read_only, 1);
	ub_backend_close(&be);
	told.limits.read_only = 1;
	assert_int_equal(ub_backend_open(&be, &told_config, &err), 0);
	assert_int_equal(be.limits.read_only, 1);
	ub_backend_close(&be);
}

/* ---- null ---------------------------------------------------------------- */

static void null_has_the_size_that_was_asked_for(void **state)
{
	struct ub_backend_config config = { .kind = "null", .options = "", .fd = -1 };
	struct ub_backend be;
	struct ub_err err = { 0 };

	(void)state;
	config.size_bytes = 5ULL << 40;
	config.logical_block_bytes = 4096;
	assert_int_equal(ub_backend_open(&be, &config, &err), 0);
	assert_true(be.limits.size_bytes == config.size_bytes);
	assert_int_equal(be.limits.logical_block_bytes, 4096);
	ub_backend_close(&be);
	config.logical_block_bytes = 0;
	assert_int_equal(ub_backend_open(&be, &config, &err), 0);
	assert_int_equal(be.limits.logical_block_bytes, 512);
	ub_backend_close(&be);
	config.size_bytes = 0;
	assert_int_equal(ub_backend_open(&be, &config, &err), -EINVAL);
	ub_backend_close(&be);
}

static void null_completes_everything_in_full(void **state)
{
	struct ub_backend_config config = { .kind = "null", .options = "", .fd = -1 };
	struct ub_backend_queue bq = { .qid = 0 };
	struct ub_backend be;
	struct ub_err err = { 0 };

	(void)state;
	config.size_bytes = 1 << 20;
	assert_int_equal(ub_backend_open(&be, &config, &err), 0);
	bq.backend = &be;
	assert_int_equal(be.ops->queue_init(&bq, 16, &err), 0);
	for (unsigned op = 0; op < UB_NR_OPS; op++) {
		struct ub_io io = { .op = (uint8_t)op, .len_bytes = op == UB_OP_FLUSH ? 0 : 8192 };

		io.result = -1;
		be.ops->submit(&bq, &io);
		assert_int_equal(io.result, io.len_bytes);
	}
	be.ops->queue_destroy(&bq);
	ub_backend_close(&be);
}

/* ---- asking: an op that is not there, and layers --------------------------- */

/* What has everything, and remembers who was asked what. */
static struct {
	struct ub_backend *asked;
	uint64_t number;
} rich;

static char *rich_get_identity(struct ub_backend *be)
{
	rich.asked = be;
	return strdup("rich");
}

static int rich_set_live(struct ub_backend *be, struct ub_err *err)
{
	rich.asked = be;
	return ub_err_set(err, EIO, "not yet");
}

static int rich_take_socket(struct ub_backend *be, int fd)
{
	rich.asked = be;
	rich.number = (uint64_t)fd;
	return 0;
}

static int rich_set(struct ub_backend *be, const struct ub_settings *settings, struct ub_err *err)
{
	(void)err;
	rich.asked = be;
	rich.number = settings->stall_timeout_ms;
	return 0;
}

static int rich_get_size(struct ub_backend *be, uint64_t *size_bytes, struct ub_err *err)
{
	(void)err;
	rich.asked = be;
	*size_bytes = 8192;
	return 0;
}

static int rich_resize(struct ub_backend *be, uint64_t size_bytes, uint32_t flags,
		       struct ub_err *err)
{
	(void)flags;
	(void)err;
	rich.asked = be;
	rich.number = size_bytes;
	return 0;
}

static void rich_note(struct ub_backend *be)
{
	rich.asked = be;
}

static bool rich_has_settled(struct ub_backend *be)
{
	rich.asked = be;
	return false;
}

static void rich_fenced(struct ub_backend *be, uint64_t event)
{
	rich.asked = be;
	rich.number = event;
}

static uint64_t rich_count(struct ub_backend *be)
{
	rich.asked = be;
	return 17;
}

static void rich_describe_outage(struct ub_backend *be, char *buf, size_t len)
{
	rich.asked = be;
	snprintf(buf, len, "away");
}

static const struct ub_backend_ops backend_rich = {
	.name = "rich",
	.get_identity = rich_get_identity,
	.set_live = rich_set_live,
	.take_socket = rich_take_socket,
	.set = rich_set,
	.get_size = rich_get_size,
	.resize = rich_resize,
	.promote = rich_note,
	.reset = rich_note,
	.has_settled = rich_has_settled,
	.fenced = rich_fenced,
	.nr_losses = rich_count,
	.describe_outage = rich_describe_outage,
	.latency_ns = rich_count,
};

static const struct ub_settings stall_timeout = { .which = UB_SET_STALL_TIMEOUT,
						  .stall_timeout_ms = 5 };

static void what_a_back_end_lacks_has_an_answer(void **state)
{
	struct ub_backend be = { .ops = &backend_told };
	struct ub_err err = { 0 };
	uint64_t size = 0;
	char *identity = ub_backend_get_identity(&be), buf[16] = "?";

	(void)state;
	assert_string_equal(identity, "");
	free(identity);
	assert_int_equal(ub_backend_set_live(&be, &err), 0);
	assert_false(ub_backend_takes_sockets(&be));
	assert_int_equal(ub_backend_set(&be, &stall_timeout, &err), -EOPNOTSUPP);
	assert_string_equal(err.text, "a device of told has no stall-timeout");
	assert_false(ub_backend_is_resizable(&be));
	assert_false(ub_backend_knows_size(&be));
	assert_int_equal(ub_backend_get_size(&be, &size, &err), 0);
	assert_true(size == UINT64_MAX);
	ub_backend_promote(&be);
	ub_backend_reset(&be);
	assert_true(ub_backend_has_settled(&be));
	ub_backend_fenced(&be, 1);
	assert_true(ub_backend_nr_losses(&be) == 0);
	ub_backend_describe_outage(&be, buf, sizeof(buf));
	assert_string_equal(buf, "");
	assert_true(ub_backend_latency_ns(&be) == 0);
}

/* The same calls, of `be`: who has answered? */
static void assert_all_answered_by(struct ub_backend *be, const struct ub_backend *who)
{
	struct ub_err err = { 0 };
	uint64_t size = 0;
	char *identity = ub_backend_get_identity(be), buf[16];

#define assert_answer(condition) \
	do { \
		assert_true(condition); \
		assert_ptr_equal(rich.asked, who); \
		rich.asked = NULL; \
	} while (0)

	assert_answer(strcmp(identity, "rich") == 0);
	free(identity);
	assert_answer(ub_backend_set_live(be, &err) == -EIO);
	assert_true(ub_backend_takes_sockets(be));
	assert_answer(ub_backend_take_socket(be, 3) == 0 && rich.number == 3);
	assert_answer(ub_backend_set(be, &stall_timeout, &err) == 0 && rich.number == 5);
	assert_true(ub_backend_is_resizable(be));
	assert_true(ub_backend_knows_size(be));
	assert_answer(ub_backend_get_size(be, &size, &err) == 0 && size == 8192);
	assert_answer(ub_backend_resize(be, 4096, 0, &err) == 0 && rich.number == 4096);
	ub_backend_promote(be);
	assert_answer(true);
	ub_backend_reset(be);
	assert_answer(true);
	assert_answer(!ub_backend_has_settled(be));
	ub_backend_fenced(be, 9);
	assert_answer(rich.number == 9);
	assert_answer(ub_backend_nr_losses(be) == 17);
	ub_backend_describe_outage(be, buf, sizeof(buf));
	assert_answer(strcmp(buf, "away") == 0);
	assert_answer(ub_backend_latency_ns(be) == 17);
#undef assert_answer
}

static void what_it_has_is_asked_of_it(void **state)
{
	struct ub_backend be = { .ops = &backend_rich };

	(void)state;
	assert_all_answered_by(&be, &be);
}

static void what_a_layer_does_not_define_is_asked_of_what_lies_below(void **state)
{
	struct ub_backend bottom = { .ops = &backend_rich };
	struct ub_backend middle = { .ops = &backend_told, .below = &bottom };
	struct ub_backend top = { .ops = &backend_told, .below = &middle };

	(void)state;
	assert_all_answered_by(&top, &bottom);
	middle.ops = &backend_rich;
	assert_all_answered_by(&top, &middle);
}

static void one_that_is_not_open_is_told_of_nothing(void **state)
{
	struct ub_backend be = { .ops = NULL };

	(void)state;
	assert_false(ub_backend_takes_sockets(&be));
	ub_backend_fenced(&be, 1);
}

/* ---- reports ------------------------------------------------------------- */

static unsigned nr_reports;
static enum ub_health last_health;

static void reporter(enum ub_health health, const char *why)
{
	assert_non_null(why);
	nr_reports++;
	last_health = health;
}

static void repeated_reports_are_swallowed(void **state)
{
	struct ub_backend be = { .ops = &backend_told };

	(void)state;
	ub_backend_set_reporter(reporter);
	ub_backend_report(&be, UB_HEALTH_ONLINE, "as it was");
	assert_int_equal(nr_reports, 0);
	for (unsigned i = 0; i < 5; i++)
		ub_backend_report(&be, UB_HEALTH_DEGRADED, "short of memory");
	assert_int_equal(nr_reports, 1);
	assert_int_equal(last_health, UB_HEALTH_DEGRADED);
	ub_backend_report(&be, UB_HEALTH_ONLINE, "well again");
	ub_backend_report(&be, UB_HEALTH_ONLINE, "well again");
	assert_int_equal(nr_reports, 2);
	assert_int_equal(last_health, UB_HEALTH_ONLINE);
	ub_backend_set_reporter(NULL);
	ub_backend_report(&be, UB_HEALTH_DEGRADED, "nobody listens");
	ub_backend_report(&be, UB_HEALTH_ONLINE, "nobody listens");
	assert_int_equal(nr_reports, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(back_ends_are_found_by_name),
		cmocka_unit_test(an_unknown_name_lists_those_that_there_are),
		cmocka_unit_test_setup(opening_an_unknown_one_can_be_closed, told_setup),
		cmocka_unit_test_setup(opening_takes_checked_limits, told_setup),
		cmocka_unit_test_setup(limits_that_make_no_sense_are_refused, told_setup),
		cmocka_unit_test_setup(failures_of_the_back_end_come_through, told_setup),
		cmocka_unit_test_setup(the_opening_step_can_be_made_to_fail, told_setup),
		cmocka_unit_test_setup(read_only_comes_from_either_side, told_setup),
		cmocka_unit_test(null_has_the_size_that_was_asked_for),
		cmocka_unit_test(null_completes_everything_in_full),
		cmocka_unit_test(what_a_back_end_lacks_has_an_answer),
		cmocka_unit_test(what_it_has_is_asked_of_it),
		cmocka_unit_test(what_a_layer_does_not_define_is_asked_of_what_lies_below),
		cmocka_unit_test(one_that_is_not_open_is_told_of_nothing),
		cmocka_unit_test(repeated_reports_are_swallowed),
	};

	return cmocka_run_group_tests_name("backend", tests, NULL, NULL);
}
