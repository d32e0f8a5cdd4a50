/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The statistics page as JSON. */
#include "keeper/job/stats.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/histogram.h"
#include "keeper/job/verbs.h"
#include "keeper/keeper.h"

#define NS_PER_S 1000000000ULL

static const char *const stats_ops[UB_NR_OPS] = {
	[UB_OP_READ] = "read",
	[UB_OP_WRITE] = "write",
	[UB_OP_FLUSH] = "flush",
	[UB_OP_DISCARD] = "discard",
	[UB_OP_WRITE_ZEROES] = "write_zeroes",
};

static json_t *stats_integer(uint64_t value)
{
	return json_integer((json_int_t)value);
}

/* Seconds with a fraction; a double has whole nanoseconds for the first hundred days. */
static json_t *stats_seconds(uint64_t ns)
{
	return json_real((double)ns / (double)NS_PER_S);
}

static json_t *stats_buckets(const struct ub_histogram_copy *copy)
{
	json_t *array = json_array();

	for (unsigned bits = UB_STATS_FIRST_BUCKET_BITS; bits <= UB_STATS_LAST_BUCKET_BITS; bits++)
		json_array_append_new(array, json_pack("[I, I]", (json_int_t)(1ULL << bits),
						       (json_int_t)ub_histogram_below(copy, bits)));
	return array;
}

static json_t *stats_latency(const struct ub_histogram_copy *copy, bool buckets)
{
	static const struct {
		const char *name;
		unsigned permille;
	} quantiles[] = {
		{ "p50_ns", 500 }, { "p90_ns", 900 }, { "p99_ns", 990 }, { "p999_ns", 999 }
	};
	json_t *json = json_object();

	json_object_set_new(json, "count", stats_integer(copy->count));
	for (unsigned i = 0; i < UB_ARRAY_SIZE(quantiles); i++)
		json_object_set_new(json, quantiles[i].name,
				    stats_integer(
					    ub_histogram_quantile(copy, quantiles[i].permille)));
	json_object_set_new(json, "max_ns", stats_integer(copy->max_ns));
	json_object_set_new(json, "sum_ns", stats_integer(copy->sum_ns));
	if (buckets)
		json_object_set_new(json, "buckets", stats_buckets(copy));
	return json;
}

static json_t *stats_operation(const struct ub_stats_page *page, unsigned nr_queues, unsigned op,
			       struct ub_histogram_copy *copy, bool buckets)
{
	uint64_t ios = 0, bytes = 0, errors = 0;

	*copy = (struct ub_histogram_copy){ 0 };
	for (unsigned i = 0; i < nr_queues; i++) {
		const struct ub_queue_stats *q = &page->queues[i];

		/* What is counted last is read first: no error is of an I/O that is not counted. */
		errors += ub_stat_read(&q->errors[op]);
		bytes += ub_stat_read(&q->bytes[op]);
		ios += ub_stat_read(&q->ios[op]);
		ub_histogram_add(copy, &q->latency[op]);
	}
	return json_pack("{s:I, s:I, s:I, s:o}", "ios", (json_int_t)ios, "bytes", (json_int_t)bytes,
			 "errors", (json_int_t)errors, "latency", stats_latency(copy, buckets));
}

static json_t *stats_operations(const struct ub_stats_page *page, unsigned nr_queues, bool buckets)
{
	struct ub_histogram_copy *copy = malloc(sizeof(*copy));
	cleanup_free void *free_copy = copy;
	json_t *json = json_object();

	for (unsigned op = 0; copy && op < UB_NR_OPS; op++)
		json_object_set_new(json, stats_ops[op],
				    stats_operation(page, nr_queues, op, copy, buckets));
	return json;
}

/*
 * How much was given back in one go: turns with commits, and those by the power of two they begin
 * with.
 */
static json_t *stats_batch(const struct ub_stats_page *page, unsigned nr_queues)
{
	json_t *json = json_object(), *sizes = json_object();
	uint64_t count = 0, max = 0, commits = 0;

	for (unsigned size = 0; size < UB_STATS_BATCH_SIZES; size++) {
		uint64_t nr = 0;
		char name[16];

		for (unsigned i = 0; i < nr_queues; i++)
			nr += ub_stat_read(&page->queues[i].batches[size]);
		snprintf(name, sizeof(name), "%u", 1U << size);
		json_object_set_new(sizes, name, stats_integer(nr));
		count += nr;
	}
	for (unsigned i = 0; i < nr_queues; i++) {
		uint64_t most = ub_stat_read(&page->queues[i].max_batch);

		max = most > max ? most : max;
		for (unsigned op = 0; op < UB_NR_OPS; op++)
			commits += ub_stat_read(&page->queues[i].ios[op]);
	}
	json_object_set_new(json, "count", stats_integer(count));
	json_object_set_new(json, "mean", json_real(count ? (double)commits / (double)count : 0));
	json_object_set_new(json, "max", stats_integer(max));
	json_object_set_new(json, "sizes", sizes);
	return json;
}

static json_t *stats_backend(const struct ub_stats_page *page, unsigned nr_queues, uint64_t now_ns)
{
	const struct ub_backend_stats *be = &page->backends[ub_stat_side(page)];
	const struct ub_backend_stats *other = &page->backends[!ub_stat_side(page)];
	uint64_t reconnects = 0, retries = 0, requests = 0, wait_ns = 0, online = 0;

	for (unsigned i = 0; i < nr_queues; i++) {
		online += ub_stat_read(&page->queues[i].backends[ub_stat_side(page)].nr_online);
		for (unsigned side = 0; side < UB_STATS_SIDES; side++) {
			const struct ub_backend_queue_stats *q = &page->queues[i].backends[side];

			reconnects += ub_stat_read(&q->reconnects);
			retries += ub_stat_read(&q->retries);
			requests += ub_stat_read(&q->requests);
			wait_ns += ub_stat_read(&q->wait_ns);
		}
	}
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:o, s:o}", "connections",
			 (json_int_t)ub_stat_read(&be->nr_connections), "connections_online",
			 (json_int_t)online, "reconnects", (json_int_t)reconnects,
			 "failed_connects",
			 (json_int_t)(ub_stat_read(&be->failed_attempts) +
				      ub_stat_read(&other->failed_attempts)),
			 "requests", (json_int_t)requests, "retries", (json_int_t)retries,
			 "outages",
			 (json_int_t)(ub_stat_read(&be->nr_outages) +
				      ub_stat_read(&other->nr_outages)),
			 "is_online", !(ub_stat_read(&be->outage) & UB_STATS_IN_OUTAGE),
			 "outage_seconds",
			 stats_seconds(ub_stat_outage_ns(be, now_ns) +
				       ub_stat_outage_ns(other, now_ns)),
			 "wait_seconds", stats_seconds(wait_ns));
}

json_t *ub_stats_to_json(const struct ub_stats_page *page, unsigned nr_queues, uint64_t now_ns,
			 bool buckets)
{
	uint64_t in_flight = 0, turns = 0, submits = 0, copies = 0;

	for (unsigned i = 0; i < nr_queues; i++) {
		in_flight += ub_stat_read(&page->queues[i].in_flight);
		turns += ub_stat_read(&page->queues[i].nr_turns);
		submits += ub_stat_read(&page->queues[i].nr_submits);
		copies += ub_stat_read(&page->queues[i].nr_copies);
	}
	return json_pack("{s:I, s:o, s:I, s:o, s:I, s:I, s:{s:I, s:I}, s:o, s:o}", "time_ns",
			 (json_int_t)now_ns, "uptime_seconds",
			 stats_seconds(now_ns - page->start_ns), "since",
			 (json_int_t)page->start_unix_s, "operations",
			 stats_operations(page, nr_queues, buckets), "in_flight",
			 (json_int_t)in_flight, "turns", (json_int_t)turns, "syscalls",
			 "io_uring_enter", (json_int_t)(turns + submits), "copy",
			 (json_int_t)copies, "batch", stats_batch(page, nr_queues), "backend",
			 stats_backend(page, nr_queues, now_ns));
}

int ub_verb_stats(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
		  json_t *reply, struct ub_err *err)
{
	struct timespec now;
	char device[32];
	json_t *stats;

	(void)caller;
	if (!k->shared.stats)
		return ub_err_set(err, EAGAIN,
				  "nothing is counted yet: the device is being attached");
	clock_gettime(CLOCK_MONOTONIC, &now);
	snprintf(device, sizeof(device), "/dev/ublkb%u", k->device.info.dev_id);
	json_object_set_new(reply, "name", json_string(k->rundir.name));
	json_object_set_new(reply, "device", json_string(device));
	json_object_set_new(reply, "id", json_integer(k->device.info.dev_id));
	json_object_set_new(reply, "kind", json_string(k->side->o->kind));
	json_object_set_new(reply, "size_bytes",
			    json_integer((json_int_t)k->side->limits.size_bytes));
	json_object_set_new(reply, "data_path",
			    json_string(ub_data_path_name(k->device.data_path)));
	json_object_set_new(reply, "queues", json_integer(k->device.info.nr_hw_queues));
	json_object_set_new(reply, "has_latencies", json_boolean(!k->opts->no_stats));
	json_object_set_new(reply, "migration", ub_migrate_to_json(k));
	ub_verb_show_ranges(k, reply);
	stats = ub_stats_to_json(k->shared.stats, k->device.info.nr_hw_queues,
				 (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec,
				 json_is_true(json_object_get(args, "buckets")));
	json_object_update(reply, stats);
	json_decref(stats);
	return 0;
}
