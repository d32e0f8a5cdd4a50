/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ublk-bridge metrics: all devices of ours in Prometheus' text format, 0.0.4, or as OpenMetrics
 * text, 1.0.0 (https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md).
 * The samples are the same; a counter's family has the name of its samples in the one, and is named
 * without "_total" in the other.
 *
 * The samples of a family stand together, so every keeper is asked first. One that does not answer
 * has `up 0` and nothing else.
 */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "run/ask-keeper.h"
#include "run/state.h"
#include "run/rundir.h"

#include "config.h"

#define METRICS_TIMEOUT_MS 2000
#define METRICS_PREFIX	   "ublk_bridge_"

struct metrics_device {
	struct ub_state state;
	json_t *stats;	  /* the keeper's answer; NULL: there was none */
	char labels[512]; /* device="…",name="…", escaped */
};

struct metrics {
	struct metrics_device *devices;
	size_t nr;
	bool is_short; /* of memory */
	bool is_open;  /* OpenMetrics are wanted */
	struct ub_err err;
};

/* ---- the devices --------------------------------------------------------- */

/* A label's value: backslash, quote and newline are escaped. What does not fit is cut. */
static const char *metrics_escape(const char *text, char *buf, size_t len)
{
	size_t at = 0;

	for (; *text && at + 3 < len; text++) {
		if (*text == '\\' || *text == '"' || *text == '\n')
			buf[at++] = '\\';
		buf[at++] = *text;
		if (*text == '\n')
			buf[at - 1] = 'n';
	}
	buf[at] = '\0';
	ub_text_clean(buf);
	return buf;
}

static bool metrics_take(const struct ub_state *state, void *arg)
{
	struct metrics *m = arg;
	struct metrics_device *devices = realloc(m->devices, (m->nr + 1) * sizeof(*devices)), *d;
	char name[256];

	m->is_short = !devices;
	if (!devices)
		return false;
	m->devices = devices;
	d = &devices[m->nr++];
	*d = (struct metrics_device){ .state = *state };
	snprintf(d->labels, sizeof(d->labels), "device=\"/dev/ublkb%u\",name=\"%s\"", state->dev_id,
		 metrics_escape(state->name, name, sizeof(name)));
	return true;
}

static int metrics_compare(const void *a, const void *b)
{
	const struct ub_state *one = &((const struct metrics_device *)a)->state;
	const struct ub_state *other = &((const struct metrics_device *)b)->state;

	if (one->dev_id != other->dev_id)
		return one->dev_id < other->dev_id ? -1 : 1;
	return strcmp(one->name, other->name);
}

static void metrics_ask(struct metrics *m)
{
	struct ub_err ignored;

	for (size_t i = 0; i < m->nr; i++)
		ub_control_ask(m->devices[i].state.name,
			       json_pack("{s:s, s:b}", "verb", "stats", "buckets", 1),
			       &m->devices[i].stats, METRICS_TIMEOUT_MS, &ignored);
}

/* ---- families ------------------------------------------------------------ */

static void metrics_head(const struct metrics *m, const char *name, const char *type,
			 const char *unit, const char *help)
{
	const char *suffix = !m->is_open && strcmp(type, "counter") == 0 ? "_total" : "";

	printf("# TYPE %s%s%s %s\n", METRICS_PREFIX, name, suffix, type);
	if (unit && m->is_open)
		printf("# UNIT %s%s %s\n", METRICS_PREFIX, name, unit);
	printf("# HELP %s%s%s %s\n", METRICS_PREFIX, name, suffix, help);
}

/* A number of the answer, by its path of at most two keys. */
static const json_t *metrics_find(const json_t *json, const char *group, const char *key)
{
	return json_object_get(group ? json_object_get(json, group) : json, key);
}

static void metrics_number(const json_t *value)
{
	if (json_is_integer(value))
		printf("%lld\n", (long long)json_integer_value(value));
	else if (json_is_real(value))
		printf("%.9f\n", json_real_value(value));
	else
		printf("%d\n", json_is_true(value));
}

/* Of which devices there is a sample. */
enum metrics_needs { NEEDS_NOTHING, NEEDS_CONNECTIONS, NEEDS_FENCE, NEEDS_MIGRATION };

/* One sample a device. */
struct metrics_family {
	const char *name, *type, *unit;
	const char *group, *key; /* where the answer has it, and in which unit */
	enum metrics_needs needs;
	const char *help;
};

static const struct metrics_family metrics_families[] = {
	{ "in_flight", "gauge", NULL, NULL, "in_flight", NEEDS_NOTHING,
	  "I/Os that the server process has now." },
	{ "size_bytes", "gauge", "bytes", NULL, "size_bytes", NEEDS_NOTHING,
	  "The size of the device." },
	{ "uptime_seconds", "gauge", "seconds", NULL, "uptime_seconds", NEEDS_NOTHING,
	  "How long has been counted." },
	{ "turns", "counter", NULL, NULL, "turns", NEEDS_NOTHING,
	  "Times that a queue's thread woke up." },
	{ "batches", "counter", NULL, "batch", "count", NEEDS_NOTHING,
	  "Groups of I/Os that were given back in one go." },
	{ "batch_max_ios", "gauge", "ios", "batch", "max", NEEDS_NOTHING,
	  "The most I/Os that were given back in one go." },
	{ "backend_up", "gauge", NULL, "backend", "is_online", NEEDS_CONNECTIONS,
	  "Whether a connection to the NBD server works." },
	{ "backend_connections", "gauge", NULL, "backend", "connections_online", NEEDS_CONNECTIONS,
	  "Connections to the NBD server that work." },
	{ "backend_connections_wanted", "gauge", NULL, "backend", "connections", NEEDS_CONNECTIONS,
	  "Connections to the NBD server that there shall be." },
	{ "backend_reconnects", "counter", NULL, "backend", "reconnects", NEEDS_CONNECTIONS,
	  "Connections that took the place of earlier ones." },
	{ "backend_failed_connects", "counter", NULL, "backend", "failed_connects",
	  NEEDS_CONNECTIONS, "Attempts to connect that failed." },
	{ "backend_requests", "counter", NULL, "backend", "requests", NEEDS_CONNECTIONS,
	  "Requests sent to the NBD server." },
	{ "backend_retries", "counter", NULL, "backend", "retries", NEEDS_CONNECTIONS,
	  "Requests that were sent again, because their connection ended unanswered." },
	{ "backend_outages", "counter", NULL, "backend", "outages", NEEDS_CONNECTIONS,
	  "Times in which no connection worked." },
	{ "backend_outage_seconds", "counter", "seconds", "backend", "outage_seconds",
	  NEEDS_CONNECTIONS, "How long no connection worked." },
	{ "backend_wait_seconds", "counter", "seconds", "backend", "wait_seconds",
	  NEEDS_CONNECTIONS, "The time from sending to answer, of all requests together." },
	{ "backend_fence_timeout_seconds", "gauge", "seconds", "fence", "timeout_ms", NEEDS_FENCE,
	  "How long newer changes wait for what a lost connection may still carry out." },
	{ "backend_fence_ranges", "gauge", NULL, "fence", "ranges", NEEDS_FENCE,
	  "What they wait for, where they overlap it." },
	{ "backend_fence_bytes", "gauge", "bytes", "fence", "bytes", NEEDS_FENCE,
	  "How much that is." },
	{ "backend_fence_waiting", "gauge", NULL, "fence", "waiting", NEEDS_FENCE,
	  "Changes that wait for it now." },
	{ "backend_fence_oldest_seconds", "gauge", "seconds", "fence", "oldest_ms", NEEDS_FENCE,
	  "For how long the time of the oldest one counts, where one does." },
	{ "backend_fence_deadline_seconds", "gauge", "seconds", "fence", "deadline_ms", NEEDS_FENCE,
	  "When the last one is over by time, from now, where that is known." },
	{ "backend_fence_late", "counter", NULL, "fence", "late", NEEDS_FENCE,
	  "Waits that time alone has ended." },
	{ "backend_unflushed_bytes", "gauge", "bytes", NULL, "unflushed_bytes", NEEDS_FENCE,
	  "What the NBD server has answered and was not told to flush since." },
	{ "backend_losses", "counter", NULL, "losses", "count", NEEDS_FENCE,
	  "Connections that ended with such bytes." },
	{ "backend_lost_bytes", "counter", "bytes", "losses", "bytes", NEEDS_FENCE,
	  "Of those: as many may be gone." },
	{ "backend_last_loss_timestamp_seconds", "gauge", "seconds", "losses", "last_unix",
	  NEEDS_FENCE, "When that was last, where it was." },
	{ "migration_total_bytes", "gauge", "bytes", "migration", "total_bytes", NEEDS_MIGRATION,
	  "What a migration has to bring to the other side: the device's size." },
	{ "migration_dirty_bytes", "gauge", "bytes", "migration", "dirty_bytes", NEEDS_MIGRATION,
	  "What is still to be copied, as far as is known." },
	{ "migration_copied_bytes", "gauge", "bytes", "migration", "copied_bytes", NEEDS_MIGRATION,
	  "What was read from the source and written to the destination." },
	{ "migration_zeroed_bytes", "gauge", "bytes", "migration", "zeroed_bytes", NEEDS_MIGRATION,
	  "What was brought to zero there, or found so, without being read." },
	{ "migration_mirrored_bytes", "gauge", "bytes", "migration", "mirrored_bytes",
	  NEEDS_MIGRATION, "What programs have written meanwhile, to both sides." },
};

static bool metrics_has(const json_t *stats, enum metrics_needs needs)
{
	switch (needs) {
	case NEEDS_CONNECTIONS:
		return json_integer_value(metrics_find(stats, "backend", "connections")) > 0;
	case NEEDS_FENCE:
		return json_is_object(json_object_get(stats, "fence"));
	case NEEDS_MIGRATION:
		return json_is_object(json_object_get(stats, "migration"));
	default:
		return true;
	}
}

/* Told in seconds. */
static bool metrics_is_in_ms(const char *key)
{
	size_t len = strlen(key);

	return len > 3 && strcmp(key + len - 3, "_ms") == 0;
}

static void metrics_print_family(const struct metrics *m, const struct metrics_family *f)
{
	const char *suffix = strcmp(f->type, "counter") == 0 ? "_total" : "";

	metrics_head(m, f->name, f->type, f->unit, f->help);
	for (size_t i = 0; i < m->nr; i++) {
		const struct metrics_device *d = &m->devices[i];

		const json_t *value;

		if (!d->stats || !metrics_has(d->stats, f->needs))
			continue;
		value = metrics_find(d->stats, f->group, f->key);
		if (json_is_null(value)) /* there is none now */
			continue;
		printf("%s%s%s{%s} ", METRICS_PREFIX, f->name, suffix, d->labels);
		if (metrics_is_in_ms(f->key))
			printf("%.3f\n", json_number_value(value) / 1000);
		else
			metrics_number(value);
	}
}

/* A counter for each operation. */
static void metrics_print_operations(const struct metrics *m, const char *name, const char *unit,
				     const char *key, const char *help)
{
	metrics_head(m, name, "counter", unit, help);
	for (size_t i = 0; i < m->nr; i++) {
		json_t *operations = json_object_get(m->devices[i].stats, "operations"), *value;
		const char *op;

		json_object_foreach(operations, op, value)
		{
			printf("%s%s_total{%s,op=\"%s\"} %lld\n", METRICS_PREFIX, name,
			       m->devices[i].labels, op,
			       (long long)json_integer_value(json_object_get(value, key)));
		}
	}
}

static void metrics_print_syscalls(const struct metrics *m)
{
	metrics_head(m, "syscalls", "counter", NULL,
		     "System calls of the queues' threads, but for the NBD library's.");
	for (size_t i = 0; i < m->nr; i++) {
		json_t *syscalls = json_object_get(m->devices[i].stats, "syscalls"), *value;
		const char *call;

		json_object_foreach(syscalls, call, value)
		{
			printf("%ssyscalls_total{%s,call=\"%s\"} %lld\n", METRICS_PREFIX,
			       m->devices[i].labels, call, (long long)json_integer_value(value));
		}
	}
}

static void metrics_print_histogram(const char *labels, const char *op, const json_t *latency)
{
	static const char name[] = METRICS_PREFIX "io_latency_seconds";
	long long count = json_integer_value(json_object_get(latency, "count"));
	json_t *pair;
	size_t i;

	json_array_foreach(json_object_get(latency, "buckets"), i, pair)
	{
		printf("%s_bucket{%s,op=\"%s\",le=\"%.12g\"} %lld\n", name, labels, op,
		       (double)json_integer_value(json_array_get(pair, 0)) / 1e9,
		       (long long)json_integer_value(json_array_get(pair, 1)));
	}
	printf("%s_bucket{%s,op=\"%s\",le=\"+Inf\"} %lld\n", name, labels, op, count);
	printf("%s_count{%s,op=\"%s\"} %lld\n", name, labels, op, count);
	printf("%s_sum{%s,op=\"%s\"} %.9f\n", name, labels, op,
	       (double)json_integer_value(json_object_get(latency, "sum_ns")) / 1e9);
}

static void metrics_print_latencies(const struct metrics *m)
{
	metrics_head(m, "io_latency_seconds", "histogram", "seconds",
		     "From when the server process sees an I/O until it gives it back.");
	for (size_t i = 0; i < m->nr; i++) {
		const json_t *stats = m->devices[i].stats;
		json_t *value;
		const char *op;

		if (!json_is_true(json_object_get(stats, "has_latencies")))
			continue;
		json_object_foreach(json_object_get(stats, "operations"), op, value)
		{
			metrics_print_histogram(m->devices[i].labels, op,
						json_object_get(value, "latency"));
		}
	}
}

/* A sample for each phase, of which one is 1. */
static void metrics_print_phase(const struct metrics *m)
{
	static const char *const phases[] = { "connecting", "copying", "paused", "in-step",
					      "cutover" };

	metrics_head(m, "migration_phase", "gauge", NULL, "Which phase a migration is in.");
	for (size_t i = 0; i < m->nr; i++) {
		const json_t *stats = m->devices[i].stats;
		const char *now = json_string_value(metrics_find(stats, "migration", "phase"));

		for (size_t j = 0; now && j < UB_ARRAY_SIZE(phases); j++)
			printf("%smigration_phase{%s,phase=\"%s\"} %d\n", METRICS_PREFIX,
			       m->devices[i].labels, phases[j], strcmp(now, phases[j]) == 0);
	}
}

/* It is there without a device, too: that it is missing can be an alert. */
static void metrics_print_build(const struct metrics *m)
{
	metrics_head(m, "build_info", "gauge", NULL, "The version that prints this.");
	printf("%sbuild_info{version=\"%s\"} 1\n", METRICS_PREFIX, PACKAGE_VERSION);
}

static void metrics_print_up(const struct metrics *m)
{
	metrics_head(m, "up", "gauge", NULL, "Whether the device's keeper answers.");
	for (size_t i = 0; i < m->nr; i++)
		printf("%sup{%s} %d\n", METRICS_PREFIX, m->devices[i].labels,
		       m->devices[i].stats != NULL);
}

static void metrics_print_info(const struct metrics *m)
{
	/*
	 * No family of the type info: node_exporter's parser is of the older format, and refuses
	 * that type.
	 */
	metrics_head(m, "info", "gauge", NULL, "What the device is.");
	for (size_t i = 0; i < m->nr; i++) {
		const json_t *stats = m->devices[i].stats;
		const char *path = json_string_value(json_object_get(stats, "data_path"));
		char text[64];

		if (stats)
			printf("%sinfo{%s,backend=\"%s\",data_path=\"%s\",queues=\"%lld\"} 1\n",
			       METRICS_PREFIX, m->devices[i].labels,
			       metrics_escape(m->devices[i].state.backend, text, sizeof(text)),
			       path ? path : "",
			       (long long)json_integer_value(json_object_get(stats, "queues")));
	}
}

static void metrics_print(const struct metrics *m)
{
	metrics_print_build(m);
	metrics_print_up(m);
	metrics_print_info(m);
	metrics_print_operations(m, "ios", NULL, "ios",
				 "I/Os that were completed, with or without an error.");
	metrics_print_operations(m, "bytes", "bytes", "bytes", "Bytes of I/Os without an error.");
	metrics_print_operations(m, "io_errors", NULL, "errors", "I/Os that ended with an error.");
	metrics_print_latencies(m);
	metrics_print_syscalls(m);
	for (size_t i = 0; i < UB_ARRAY_SIZE(metrics_families); i++)
		metrics_print_family(m, &metrics_families[i]);
	metrics_print_phase(m);
	printf("# EOF\n");
}

/* ---- the verb ------------------------------------------------------------ */

enum { METRICS_OPT_OPEN = 256 };

static const struct argp_option metrics_options[] = {
	{ "openmetrics", METRICS_OPT_OPEN, NULL, 0,
	  "OpenMetrics text, not Prometheus' older format", 0 },
	{ 0 },
};

static error_t metrics_parse(int key, char *arg, struct argp_state *state)
{
	struct metrics *m = state->input;

	if (key == METRICS_OPT_OPEN) {
		m->is_open = true;
		return 0;
	}
	if (key == ARGP_KEY_ARG)
		return -ub_err_set(&m->err, EINVAL, "metrics is of all devices, and takes no '%s'",
				   arg);
	return ARGP_ERR_UNKNOWN;
}

int ub_cli_metrics(int argc, char **argv)
{
	static const struct argp argp = {
		.options = metrics_options,
		.parser = metrics_parse,
		.doc = "Print what all devices have done, for Prometheus."
		       "\vExit status: 0 done, 1 failed, 2 wrong usage.",
	};
	struct metrics m = { 0 };

	if (ub_cli_parse(&argp, argc, argv, &m, &m.err) != 0)
		return ub_cli_error(&m.err, UB_EXIT_USAGE);
	if (ub_rundir_check_rights(&m.err) != 0)
		return ub_cli_error(&m.err, UB_EXIT_FAILED);
	ub_state_each(metrics_take, &m);
	if (m.nr)
		qsort(m.devices, m.nr, sizeof(*m.devices), metrics_compare);
	metrics_ask(&m);
	if (!m.is_short)
		metrics_print(&m);
	for (size_t i = 0; i < m.nr; i++)
		json_decref(m.devices[i].stats);
	free(m.devices);
	/* Half a text is none: whoever collects it must not take it for the whole. */
	if (m.is_short || fflush(stdout) != 0) {
		ub_err_errno(&m.err, m.is_short ? ENOMEM : errno, "the metrics cannot be written");
		return ub_cli_error(&m.err, UB_EXIT_FAILED);
	}
	return UB_EXIT_DONE;
}
