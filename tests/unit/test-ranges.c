/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a ledger says: in numbers, in words, as JSON; and that of another process. */
#include "unit.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "backend/nbd/options.h"
#include "run/ranges.h"
#include "run/state.h"

#define NR_QUEUES 2
#define NR_SLOTS  8
#define SIZE	  (1ULL << 20)
#define NOW	  1000000ULL
#define TIMEOUT	  30000

static struct ub_ledger *ledger;

static int ledger_setup(void **state)
{
	(void)state;
	ledger = calloc(1, ub_ledger_bytes(NR_QUEUES, NR_SLOTS));
	ub_ledger_init(ledger, NR_QUEUES, NR_SLOTS);
	for (unsigned side = 0; side < UB_LEDGER_SIDES; side++)
		ub_ledger_side(ledger, side)->timeout_ms = TIMEOUT;
	return 0;
}

static int ledger_teardown(void **state)
{
	(void)state;
	free(ledger);
	return 0;
}

static void add_range(unsigned side, unsigned i, uint64_t start, uint64_t end, uint64_t clock_ms)
{
	struct ub_ledger_range *r = ub_ledger_range(ledger, side, i);

	r->start = start;
	r->end = end;
	r->clock_ms = clock_ms;
	r->conn = clock_ms ? UB_LEDGER_NO_CONN : 3;
	r->state = UB_RANGE;
}

static void nothing_is_all_zeroes(void **state)
{
	static const struct ub_ranges zeroes;
	struct ub_ranges r;
	unsigned nr = 7;
	uint64_t bytes = 7;

	(void)state;
	memset(&r, 0x55, sizeof(r));
	ub_ranges_read(NULL, 0, SIZE, NOW, &r);
	assert_memory_equal(&r, &zeroes, sizeof(r));
	ub_ranges_read_sent(NULL, 0, SIZE, &nr, &bytes);
	assert_true(nr == 0 && bytes == 0);
	ub_ranges_read(ledger, 0, SIZE, NOW, &r);
	assert_true(r.nr == 0 && r.timeout_ms == TIMEOUT && r.left_ms == 0);
}

static void ranges_are_counted_with_their_clocks(void **state)
{
	struct ub_ranges r;
	char text[96];

	(void)state;
	add_range(0, 0, 0, 4096, NOW - 20000);
	ub_ranges_read(ledger, 0, SIZE, NOW, &r);
	assert_true(r.nr == 1 && r.bytes == 4096 && r.oldest_ms == 20000 && r.left_ms == 10000);
	assert_string_equal(ub_ranges_describe(&r, text, sizeof(text)), "1 range of 4 KiB");
	assert_string_equal(ub_ranges_describe_end(&r, text, sizeof(text)),
			    "for 10.0 s at the most");
	add_range(0, 17, 8192, 8704, NOW - 1500);
	ub_ledger_range(ledger, 0, 17)->state = UB_RANGE_DONE;
	ub_ranges_read(ledger, 0, SIZE, NOW, &r);
	assert_true(r.nr == 2 && r.nr_no_clock == 0 && r.bytes == 4096 + 512);
	assert_true(r.oldest_ms == 20000 && r.left_ms == 28500);
	assert_string_equal(ub_ranges_describe(&r, text, sizeof(text)),
			    "2 ranges of 4.5 KiB together");
	/* One that is over by now, and is still to be taken out. */
	add_range(0, 3, 0, 512, NOW - TIMEOUT - 5);
	ub_ranges_read(ledger, 0, SIZE, NOW, &r);
	assert_true(r.nr == 3 && r.oldest_ms == TIMEOUT + 5 && r.left_ms == 28500);
	/* Of the whole device, for what is known; and nobody knows for how long. */
	add_range(0, 127, 0, UINT64_MAX, 0);
	ub_ranges_read(ledger, 0, SIZE, NOW, &r);
	assert_true(r.nr == 4 && r.nr_no_clock == 1 && r.bytes == 4096 + 512 + 512 + SIZE);
	assert_string_equal(ub_ranges_describe_end(&r, text, sizeof(text)),
			    "nobody knows for how long: the server has not been seen since");
	ub_ranges_read(ledger, 1, SIZE, NOW, &r);
	assert_int_equal(r.nr, 0);
}

static void what_is_in_flight_and_unflushed_is_summed_up(void **state)
{
	struct ub_ledger_conn *conn = ub_ledger_conn(ledger, 1, 5);
	struct ub_ledger_sent *sent = ub_ledger_sent(ledger, 1, 1, 7); /* the last one */
	struct ub_ranges r;
	uint64_t bytes;
	unsigned nr;

	(void)state;
	conn->unflushed_bytes = 8192;
	conn->state = UB_CONN_OPEN;
	conn = ub_ledger_conn(ledger, 1, 6);
	conn->unflushed_bytes = 1 << 20;
	conn->state = UB_CONN_LOST; /* counted as a loss by now */
	ub_ledger_side(ledger, 1)->nr_losses = 2;
	ub_ledger_side(ledger, 1)->lost_bytes = 1 << 20;
	ub_ledger_side(ledger, 1)->last_loss_unix_s = 1700000000;
	ub_ranges_read(ledger, 1, SIZE, NOW, &r);
	assert_true(r.unflushed_bytes == 8192 && r.nr_losses == 2 && r.lost_bytes == 1 << 20);
	sent->start = 4096;
	sent->end = 12288;
	sent->state = UB_SENT;
	ub_ranges_read_sent(ledger, 1, SIZE, &nr, &bytes);
	assert_true(nr == 1 && bytes == 8192);
	ub_ranges_read_sent(ledger, 0, SIZE, &nr, &bytes);
	assert_int_equal(nr, 0);
}

static void a_detach_waits_and_not_for_ever(void **state)
{
	struct ub_ranges r = { .nr = 2, .bytes = 8192, .timeout_ms = 1000, .left_ms = 500 };
	struct ub_ranges_wait w = { 0 };
	char text[200];

	(void)state;
	assert_int_equal(ub_ranges_wait(&w, &r, 100), UB_RANGES_WAIT);
	assert_int_equal(ub_ranges_wait(&w, &r, 2100), UB_RANGES_WAIT);
	assert_int_equal(ub_ranges_wait(&w, &r, 2101), UB_RANGES_TOO_LONG);
	assert_int_equal(ub_ranges_wait(&w, &r, 2102), UB_RANGES_TOO_LONG);
	r.nr = 0;
	assert_int_equal(ub_ranges_wait(&w, &r, 2103), UB_RANGES_OVER);
	r.nr = 2;
	/* Where no time counts: as long as it would last. */
	r.nr_no_clock = 2;
	assert_int_equal(ub_ranges_wait(&w, &r, 3000), UB_RANGES_WAIT);
	r.nr_no_clock = 1;
	assert_int_equal(ub_ranges_wait(&w, &r, 3500), UB_RANGES_WAIT);
	r.nr_no_clock = 2;
	assert_int_equal(ub_ranges_wait(&w, &r, 3600), UB_RANGES_WAIT);
	assert_int_equal(ub_ranges_wait(&w, &r, 4600), UB_RANGES_WAIT);
	assert_int_equal(ub_ranges_wait(&w, &r, 4601), UB_RANGES_TOO_LONG);
	/* Nobody wants to wait. */
	r.timeout_ms = 0;
	assert_int_equal(ub_ranges_wait(&w, &r, 4602), UB_RANGES_OVER);
	r.nr_no_clock = 0;
	assert_string_equal(ub_ranges_describe_wait(&r, text, sizeof(text)),
			    "2 ranges of 8 KiB together may still be written by lost connections, "
			    "for 0.5 s at "
			    "the most");
}

static void what_is_not_waited_for_is_told(void **state)
{
	struct ub_ledger_sent *sent = ub_ledger_sent(ledger, 0, 0, 0);
	char text[120];

	(void)state;
	assert_string_equal(ub_ranges_describe_rest(NULL, SIZE, text, sizeof(text)), "");
	assert_string_equal(ub_ranges_describe_rest(ledger, SIZE, text, sizeof(text)), "");
	add_range(0, 0, 0, 4096, 0);
	assert_string_equal(ub_ranges_describe_rest(ledger, SIZE, text, sizeof(text)),
			    "1 range, 4096 bytes of the old server may still be written");
	sent->end = 512;
	sent->state = UB_SENT;
	assert_string_equal(ub_ranges_describe_rest(ledger, SIZE, text, sizeof(text)),
			    "2 ranges, 4608 bytes of the old server may still be written");
}

static void assert_json(const struct ub_ranges *r, const struct nbd_options *o, const char *want)
{
	json_t *object = json_object();
	char *text;

	ub_ranges_to_json(r, o, object);
	text = json_dumps(object, JSON_COMPACT);
	assert_string_equal(text, want);
	free(text);
	json_decref(object);
}

static void json_has_null_where_nothing_is_known(void **state)
{
	struct ub_ranges r = { 0 };
	struct nbd_options o;

	(void)state;
	nbd_options_init(&o);
	assert_json(NULL, &o, "{\"fence\":null,\"unflushed_bytes\":null,\"losses\":null}");
	assert_json(&r, &o,
		    "{\"fence\":{\"policy\":\"time\",\"timeout_ms\":30000,\"command\":null,"
		    "\"ranges\":0,\"bytes\":0,"
		    "\"waiting\":0,\"late\":0,\"oldest_ms\":null,\"deadline_ms\":null},\"unflushed_"
		    "bytes\":0,"
		    "\"losses\":{\"count\":0,\"bytes\":0,\"last_unix\":null}}");
	r.timeout_ms = 5;
	assert_json(&r, NULL,
		    "{\"fence\":{\"timeout_ms\":5,\"ranges\":0,\"bytes\":0,\"waiting\":0,\"late\":"
		    "0,"
		    "\"oldest_ms\":null,\"deadline_ms\":null},\"unflushed_bytes\":0,"
		    "\"losses\":{\"count\":0,\"bytes\":0,\"last_unix\":null}}");
	o.fence_policy = NBD_FENCE_CLOSE;
	o.fence_command = strdup("off");
	r = (struct ub_ranges){ .nr = 2,
				.bytes = 8192,
				.oldest_ms = 100,
				.left_ms = 29900,
				.nr_waiting = 1,
				.nr_late = 3,
				.unflushed_bytes = 5,
				.nr_losses = 1,
				.lost_bytes = 6,
				.last_loss_unix_s = 7 };
	assert_json(&r, &o,
		    "{\"fence\":{\"policy\":\"close\",\"timeout_ms\":30000,\"command\":\"off\","
		    "\"ranges\":2,\"bytes\":8192,"
		    "\"waiting\":1,\"late\":3,\"oldest_ms\":100,\"deadline_ms\":29900},\"unflushed_"
		    "bytes\":5,"
		    "\"losses\":{\"count\":1,\"bytes\":6,\"last_unix\":7}}");
	/* One without a clock: when all are over, nobody knows. */
	r.nr_no_clock = 1;
	o.fence_policy = NBD_FENCE_TIME;
	free(o.fence_command);
	o.fence_command = NULL;
	r.nr_losses = 0;
	assert_json(&r, &o,
		    "{\"fence\":{\"policy\":\"time\",\"timeout_ms\":30000,\"command\":null,"
		    "\"ranges\":2,\"bytes\":8192,"
		    "\"waiting\":1,\"late\":3,\"oldest_ms\":100,\"deadline_ms\":null},\"unflushed_"
		    "bytes\":5,"
		    "\"losses\":{\"count\":0,\"bytes\":6,\"last_unix\":7}}");
}

/* ---- another process's: here this one ------------------------------------ */

static int make_memfd(const char *name, size_t len, const void *bytes, size_t nr)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	assert_int_equal(pwrite(fd, bytes, nr, 0), nr);
	return fd;
}

static void the_ledger_of_a_keeper_is_found(void **state)
{
	size_t len = ub_ledger_bytes(NR_QUEUES, NR_SLOTS);
	const struct ub_stats_page page = { .magic = UB_STATS_MAGIC, .side = 1 };
	struct ub_state s = { .dev_id = 4711, .keeper_pid = getpid(), .server_pid = getpid() };
	struct ub_ledger_view view;
	struct ub_ranges r;
	char dir[] = "/dev/shm/ub-ranges-XXXXXX";
	struct ub_rundir rundir = UB_RUNDIR_NONE;
	struct ub_err err;
	int ledger_fd, stats_fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	setenv("UBLK_BRIDGE_RUNDIR", dir, 1);
	snprintf(s.name, sizeof(s.name), "seven");
	assert_int_equal(ub_rundir_lock(&rundir, s.name, &err), 0);
	assert_int_equal(ub_ledger_view_open(&s, &view), -ENOENT);
	assert_null(view.page);
	ub_ledger_view_read(&view, SIZE, &r);
	assert_int_equal(r.nr, 0);
	add_range(1, 0, 0, 4096, ub_ledger_side(ledger, 1)->timeout_ms);
	ledger_fd = make_memfd(UB_LEDGER_MEMFD, len, ledger, len);
	/* without the page that names the side */
	assert_int_equal(ub_ledger_view_open(&s, &view), -ENOENT);
	stats_fd = make_memfd(UB_STATS_MEMFD, ub_stats_bytes(1), &page, sizeof(page));
	assert_int_equal(ub_ledger_view_open(&s, &view), 0);
	ub_ledger_view_read(&view, SIZE, &r);
	assert_true(r.nr == 1 && r.bytes == 4096);
	ub_ledger_view_close(&view);
	ub_ledger_view_close(&view);
	/* A process that is no server of this device is believed nothing. */
	ub_rundir_remove(&rundir);
	assert_int_equal(ub_ledger_view_open(&s, &view), -ENOENT);
	/* Nor is a page that says more than it has. */
	rundir = (struct ub_rundir)UB_RUNDIR_NONE;
	assert_int_equal(ub_rundir_lock(&rundir, s.name, &err), 0);
	assert_int_equal(ftruncate(ledger_fd, (off_t)len - 1), 0);
	assert_int_not_equal(ub_ledger_view_open(&s, &view), 0);
	assert_null(view.page);
	ub_rundir_remove(&rundir);
	close(ledger_fd);
	close(stats_fd);
	rmdir(dir);
}

int main(void)
{
#define LEDGER_TEST(fn) cmocka_unit_test_setup_teardown(fn, ledger_setup, ledger_teardown)
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(nothing_is_all_zeroes),
		LEDGER_TEST(ranges_are_counted_with_their_clocks),
		LEDGER_TEST(what_is_in_flight_and_unflushed_is_summed_up),
		LEDGER_TEST(a_detach_waits_and_not_for_ever),
		LEDGER_TEST(what_is_not_waited_for_is_told),
		LEDGER_TEST(json_has_null_where_nothing_is_known),
		LEDGER_TEST(the_ledger_of_a_keeper_is_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
