/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding and opening back ends through the checked door, asking them through it, the null one, and
 * reports of their health.
 */
#include "unit.h"

#include <errno.h>
#include <stdatomic.h>

#include "backend/backend.h"
#include "base/cleanup.h"
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

/* ---- asking: an op that is not there, and layers ------------------------- */

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
	assert_string_equal(err.text, "--stall-timeout is for NBD devices: this one is of told");
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

/* Hears everything, and counts. */
struct listener {
	struct ub_host host;
	struct ub_host *own; /* a layer's: where it passes on what it hears */
	unsigned nr_reports, nr_grown, nr_ranges, nr_dropped, nr_forgotten;
	enum ub_health last_health;
	struct ub_backend *last_speaker;
};

static void listener_report(struct ub_host *host, struct ub_backend *be, enum ub_health health,
			    const char *why)
{
	struct listener *l = ub_container_of(host, struct listener, host);

	assert_non_null(why);
	l->nr_reports++;
	l->last_health = health;
	l->last_speaker = be;
}

static void listener_grown(struct ub_host *host, struct ub_backend *be)
{
	(void)be;
	ub_container_of(host, struct listener, host)->nr_grown++;
}

static void listener_ranges(struct ub_host *host, struct ub_backend *be)
{
	(void)be;
	ub_container_of(host, struct listener, host)->nr_ranges++;
}

static uint32_t listener_hold(struct ub_host *host, const struct ub_backend *be, int fd)
{
	(void)host;
	(void)be;
	return (uint32_t)fd + 100;
}

static void listener_drop(struct ub_host *host, uint32_t id)
{
	ub_container_of(host, struct listener, host)->nr_dropped++;
	assert_int_equal(id, 103);
}

static void listener_forget(struct ub_host *host, const struct ub_backend *be)
{
	(void)be;
	ub_container_of(host, struct listener, host)->nr_forgotten++;
}

static bool listener_has_keeper(struct ub_host *host)
{
	(void)host;
	return true;
}

static const struct ub_host all_ears = {
	.report = listener_report,
	.grown = listener_grown,
	.ranges = listener_ranges,
	.hold = listener_hold,
	.drop = listener_drop,
	.forget = listener_forget,
	.has_keeper = listener_has_keeper,
};

static void opened_by(struct ub_backend *be, struct ub_host *host, uint64_t late_ms)
{
	struct ub_backend_config config = told_config;
	struct ub_err err = { 0 };

	told_setup(NULL);
	config.host = host;
	config.late_ms = late_ms;
	assert_int_equal(ub_backend_open(be, &config, &err), 0);
}

static void repeated_reports_are_swallowed(void **state)
{
	struct listener l = { .host = all_ears };
	struct ub_backend be;

	(void)state;
	opened_by(&be, &l.host, 0);
	ub_backend_report(&be, UB_HEALTH_ONLINE, "as it was");
	assert_int_equal(l.nr_reports, 0);
	for (unsigned i = 0; i < 5; i++)
		ub_backend_report(&be, UB_HEALTH_DEGRADED, "short of memory");
	assert_int_equal(l.nr_reports, 1);
	assert_int_equal(l.last_health, UB_HEALTH_DEGRADED);
	ub_backend_report(&be, UB_HEALTH_ONLINE, "well again");
	ub_backend_report(&be, UB_HEALTH_ONLINE, "well again");
	assert_int_equal(l.nr_reports, 2);
	assert_int_equal(l.last_health, UB_HEALTH_ONLINE);
}

static void a_host_hears_all_that_its_back_end_says(void **state)
{
	struct listener l = { .host = all_ears };
	struct ub_backend be;

	(void)state;
	opened_by(&be, &l.host, 0);
	ub_backend_report_grown(&be);
	ub_backend_report_ranges(&be);
	assert_int_equal(ub_backend_hold_socket(&be, 3), 103);
	ub_host_drop_socket(&l.host, 103);
	ub_host_drop_socket(&l.host, 0); /* none */
	ub_host_forget_sockets(&l.host, &be);
	assert_true(ub_host_has_keeper(&l.host));
	assert_int_equal(l.nr_grown, 1);
	assert_int_equal(l.nr_ranges, 1);
	assert_int_equal(l.nr_dropped, 1);
	assert_int_equal(l.nr_forgotten, 1);
}

/* One without a host, and one whose host is deaf. */
static void nobody_need_listen(void **state)
{
	struct ub_host deaf = { .report = NULL }, *hosts[] = { NULL, &deaf };
	struct ub_backend be;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		opened_by(&be, hosts[i], 0);
		ub_backend_report(&be, UB_HEALTH_DEGRADED, "nobody listens");
		ub_backend_report_grown(&be);
		ub_backend_report_ranges(&be);
		assert_int_equal(ub_backend_hold_socket(&be, 3), 0);
		ub_host_drop_socket(hosts[i], 1);
		ub_host_forget_sockets(hosts[i], &be);
		assert_false(ub_host_has_keeper(hosts[i]));
	}
}

/* Its outage is not the device's, nor is its size; once it is promoted they are. */
static void a_destination_is_not_heard_as_the_device(void **state)
{
	struct listener l = { .host = all_ears };
	struct ub_backend be;

	(void)state;
	opened_by(&be, &l.host, 1000);
	ub_backend_report(&be, UB_HEALTH_OFFLINE, "away");
	ub_backend_report_grown(&be);
	assert_int_equal(l.nr_reports, 0);
	assert_int_equal(l.nr_grown, 0);
	ub_backend_report_ranges(&be);
	assert_int_equal(l.nr_ranges, 1);
	atomic_store(&be.is_destination, false);
	ub_backend_report(&be, UB_HEALTH_OFFLINE, "away");
	assert_int_equal(l.nr_reports, 1);
}

static void layer_report(struct ub_host *host, struct ub_backend *be, enum ub_health health,
			 const char *why)
{
	struct listener *l = ub_container_of(host, struct listener, host);

	listener_report(host, be, health, why);
	if (health != UB_HEALTH_OFFLINE) /* an outage it makes up for by itself */
		l->own->report(l->own, be, health, why);
}

static void a_layer_hears_its_child_first(void **state)
{
	struct listener server = { .host = all_ears };
	struct listener layer = { .host = { .report = layer_report }, .own = &server.host };
	struct ub_backend child;

	(void)state;
	opened_by(&child, &layer.host, 0);
	ub_backend_report(&child, UB_HEALTH_OFFLINE, "away");
	assert_int_equal(layer.nr_reports, 1);
	assert_int_equal(server.nr_reports, 0);
	ub_backend_report(&child, UB_HEALTH_FAILED, "gone");
	assert_int_equal(layer.nr_reports, 2);
	assert_int_equal(server.nr_reports, 1);
	assert_ptr_equal(server.last_speaker, &child);
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
		cmocka_unit_test(a_host_hears_all_that_its_back_end_says),
		cmocka_unit_test(nobody_need_listen),
		cmocka_unit_test(a_destination_is_not_heard_as_the_device),
		cmocka_unit_test(a_layer_hears_its_child_first),
	};

	return cmocka_run_group_tests_name("backend", tests, NULL, NULL);
}
