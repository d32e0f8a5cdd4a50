/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The statistics page as JSON: queues are added up, and the answer stays small. */
#include "unit.h"

#include "base/histogram.h"
#include "keeper/job/stats.h"

#define NR_QUEUES   64
#define NS_PER_S    1000000000ULL
#define REPLY_BYTES (400 << 10) /* what control.sock holds for a client */

static struct ub_stats_page *page;

static int page_make(void **state)
{
	(void)state;
	page = aligned_alloc(64, (ub_stats_bytes(NR_QUEUES) + 63) & ~(size_t)63);
	assert_non_null(page);
	memset(page, 0, ub_stats_bytes(NR_QUEUES));
	page->start_ns = 5 * NS_PER_S;
	page->start_unix_s = 1700000000;
	return 0;
}

static int page_free(void **state)
{
	(void)state;
	free(page);
	return 0;
}

/* The value at a path such as "operations.read.ios". */
static json_t *get(json_t *json, const char *path)
{
	char copy[128], *rest = copy, *key;

	snprintf(copy, sizeof(copy), "%s", path);
	while (json && (key = strsep(&rest, ".")))
		json = json_object_get(json, key);
	if (!json)
		fail_msg("there is no %s", path);
	return json;
}

static long long integer(json_t *json, const char *path)
{
	json_t *value = get(json, path);

	assert_true(json_is_integer(value));
	return json_integer_value(value);
}

/* To the microsecond. */
static long long micros(json_t *json, const char *path)
{
	return (long long)(json_number_value(get(json, path)) * 1e6 + 0.5);
}

static void queues_are_added_up(void **state)
{
	json_t *json;

	(void)state;
	for (unsigned i = 0; i < NR_QUEUES; i++) {
		struct ub_queue_stats *q = &page->queues[i];

		ub_stat_add(&q->ios[UB_OP_WRITE], 3);
		ub_stat_add(&q->bytes[UB_OP_WRITE], 4096);
		ub_stat_add(&q->errors[UB_OP_WRITE], 2);
		ub_histogram_record(&q->latency[UB_OP_WRITE], 1000 + i);
		ub_stat_add(&q->nr_turns, 10);
		ub_stat_add(&q->nr_submits, 2);
		ub_stat_add(&q->nr_copies, 7);
		ub_stat_set(&q->in_flight, 1);
		ub_stat_set(&q->max_batch, i);
		ub_stat_add(&q->batches[2], 1);
		ub_stat_add(&q->batches[0], 1);
		ub_stat_add(&q->backends[0].reconnects, 1);
		ub_stat_add(&q->backends[0].retries, 4);
		ub_stat_add(&q->backends[0].requests, 5);
		ub_stat_add(&q->backends[0].wait_ns, NS_PER_S / 4);
		ub_stat_set(&q->backends[0].nr_online, 1);
	}
	json = ub_stats_to_json(page, NR_QUEUES, 7 * NS_PER_S + NS_PER_S / 2, false);
	assert_int_equal(integer(json, "time_ns"), 7500000000);
	assert_int_equal(micros(json, "uptime_seconds"), 2500000);
	assert_int_equal(integer(json, "since"), 1700000000);
	assert_int_equal(integer(json, "operations.write.ios"), 3 * NR_QUEUES);
	assert_int_equal(integer(json, "operations.write.bytes"), 4096 * NR_QUEUES);
	assert_int_equal(integer(json, "operations.write.errors"), 2 * NR_QUEUES);
	assert_int_equal(integer(json, "operations.write.latency.count"), NR_QUEUES);
	assert_int_equal(integer(json, "operations.write.latency.sum_ns"),
			 1000 * NR_QUEUES + NR_QUEUES * (NR_QUEUES - 1) / 2);
	assert_int_equal(integer(json, "operations.write.latency.max_ns"), 1000 + NR_QUEUES - 1);
	assert_in_range(integer(json, "operations.write.latency.p50_ns"), 1001, 1062);
	assert_null(json_object_get(get(json, "operations.write.latency"), "buckets"));
	assert_int_equal(integer(json, "operations.read.ios"), 0);
	assert_int_equal(integer(json, "operations.read.latency.p999_ns"), 0);
	assert_int_equal(integer(json, "turns"), 10 * NR_QUEUES);
	assert_int_equal(integer(json, "syscalls.io_uring_enter"), 12 * NR_QUEUES);
	assert_int_equal(integer(json, "syscalls.copy"), 7 * NR_QUEUES);
	assert_int_equal(integer(json, "in_flight"), NR_QUEUES);
	assert_int_equal(integer(json, "batch.count"), 2 * NR_QUEUES);
	assert_int_equal(micros(json, "batch.mean"), 1500000);
	assert_int_equal(integer(json, "batch.max"), NR_QUEUES - 1);
	assert_int_equal(integer(json, "batch.sizes.1"), NR_QUEUES);
	assert_int_equal(integer(json, "batch.sizes.4"), NR_QUEUES);
	assert_int_equal(integer(json, "backend.reconnects"), NR_QUEUES);
	assert_int_equal(integer(json, "backend.retries"), 4 * NR_QUEUES);
	assert_int_equal(integer(json, "backend.requests"), 5 * NR_QUEUES);
	assert_int_equal(integer(json, "backend.connections_online"), NR_QUEUES);
	assert_int_equal(micros(json, "backend.wait_seconds"), 16000000);
	json_decref(json);
}

static void an_outage_grows_while_it_lasts(void **state)
{
	json_t *json;

	(void)state;
	ub_stat_outage_begins(&page->backends[0], 10 * NS_PER_S);
	json = ub_stats_to_json(page, NR_QUEUES, 13 * NS_PER_S, false);
	assert_int_equal(micros(json, "backend.outage_seconds"), 3000000);
	assert_true(json_is_false(get(json, "backend.is_online")));
	assert_int_equal(integer(json, "backend.outages"), 1);
	json_decref(json);
	ub_stat_outage_ends(&page->backends[0], 14 * NS_PER_S);
	json = ub_stats_to_json(page, NR_QUEUES, 20 * NS_PER_S, false);
	assert_int_equal(micros(json, "backend.outage_seconds"), 4000000);
	assert_true(json_is_true(get(json, "backend.is_online")));
	json_decref(json);
}

static void coarse_buckets_are_cumulative(void **state)
{
	json_t *json, *buckets, *pair;
	size_t i;

	(void)state;
	ub_histogram_record(&page->queues[0].latency[UB_OP_READ], 5);
	ub_histogram_record(&page->queues[1].latency[UB_OP_READ], 1024);
	ub_histogram_record(&page->queues[2].latency[UB_OP_READ], 1500);
	ub_histogram_record(&page->queues[3].latency[UB_OP_READ], 3600 * NS_PER_S);
	json = ub_stats_to_json(page, NR_QUEUES, 20 * NS_PER_S, true);
	buckets = get(json, "operations.read.latency.buckets");
	assert_int_equal(json_array_size(buckets),
			 UB_STATS_LAST_BUCKET_BITS - UB_STATS_FIRST_BUCKET_BITS + 1);
	json_array_foreach(buckets, i, pair)
	{
		assert_int_equal(json_integer_value(json_array_get(pair, 0)),
				 1LL << (UB_STATS_FIRST_BUCKET_BITS + i));
		assert_int_equal(json_integer_value(json_array_get(pair, 1)), i == 0 ? 1 : 3);
	}
	json_decref(json);
}

static void the_largest_answer_fits(void **state)
{
	json_t *json;
	char *text;

	(void)state;
	/* many digits, sums that overflow, as many queues as there can be */
	memset(page, 0xbf, ub_stats_bytes(NR_QUEUES));
	json = ub_stats_to_json(page, NR_QUEUES, UINT64_MAX / 4, true);
	text = json_dumps(json, JSON_COMPACT);
	assert_non_null(text);
	assert_in_range(strlen(text), 1000, REPLY_BYTES);
	free(text);
	json_decref(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(queues_are_added_up, page_make, page_free),
		cmocka_unit_test_setup_teardown(an_outage_grows_while_it_lasts, page_make,
						page_free),
		cmocka_unit_test_setup_teardown(coarse_buckets_are_cumulative, page_make,
						page_free),
		cmocka_unit_test_setup_teardown(the_largest_answer_fits, page_make, page_free),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
