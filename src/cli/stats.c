/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge stats: what a device has done, and how long it took. */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/size.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "cli/progress.h"
#include "run/ask-keeper.h"
#include "run/find.h"
#include "run/state.h"

#define STATS_TIMEOUT_MS      5000
#define STATS_DEFAULT_WAIT_MS 1000
#define STATS_MIN_WAIT_MS     100

enum {
	OPT_JSON = 256,
	OPT_WATCH,
};

static const struct argp_option stats_options[] = {
	{ "json", OPT_JSON, NULL, 0, "Print an object; with --watch, one a line", 0 },
	{ "watch", OPT_WATCH, "SECONDS", OPTION_ARG_OPTIONAL,
	  "Print again and again (default: each second), with the rates of that time", 0 },
	{ 0 },
};

struct stats_args {
	const char *device;
	bool json, watch, has_wait;
	uint64_t wait_ms;
	struct ub_err err;
};

static int stats_take_wait(struct stats_args *a, const char *arg)
{
	int ret = ub_duration_parse(arg, "--watch", &a->wait_ms, &a->err);

	a->has_wait = true;
	if (ret == 0 && a->wait_ms < STATS_MIN_WAIT_MS)
		return ub_err_set(&a->err, ERANGE, "--watch: %s is too often: at least 0.1 seconds",
				  arg);
	return ret;
}

static error_t stats_parse(int key, char *arg, struct argp_state *state)
{
	struct stats_args *a = state->input;

	switch (key) {
	case OPT_JSON:
		a->json = true;
		return 0;
	case OPT_WATCH:
		a->watch = true;
		return arg ? -stats_take_wait(a, arg) : 0;
	case ARGP_KEY_ARG:
		/* --watch SECONDS, as watch(1) and iostat(1) have it */
		if (a->watch && a->device && !a->has_wait)
			return -stats_take_wait(a, arg);
		return ub_cli_parse_device(key, arg, "stats of", &a->device, &a->err);
	default:
		return ub_cli_parse_device(key, arg, "stats of", &a->device, &a->err);
	}
}

static uint64_t stats_get(const json_t *object, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(object, key));
}

static const char *stats_string(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? value : "";
}

/* Three digits and a unit; "-" where nothing was measured. */
static const char *stats_time(uint64_t ns, bool is_known, char *buf, size_t len)
{
	static const char *const units[] = { "ns", "us", "ms", "s" };
	double value = (double)ns;
	unsigned unit = 0;

	/* What would be rounded to four digits is one of the next unit. */
	while (value >= 999.5 && unit < 3) {
		value /= 1000;
		unit++;
	}
	if (is_known)
		snprintf(buf, len, "%.*f%s",
			 value >= 99.95 || unit == 0 ? 0 :
			 value >= 9.995		     ? 1 :
						       2,
			 value, units[unit]);
	else
		snprintf(buf, len, "-");
	return buf;
}

/* "1.5M", as lsblk(8) has sizes: ten columns of them fit a terminal. */
static const char *stats_size(uint64_t bytes, char *buf, size_t len)
{
	char *unit;

	ub_size_format(bytes, buf, len);
	unit = strchr(buf, ' ');
	if (unit) {
		unit[0] = unit[1];
		unit[1] = '\0';
	}
	return buf;
}

/*
 * A line of the table: the rates since `before` (NULL: since counting began), the rest since it
 * began.
 */
static void stats_print_operation(const char *op, const json_t *now, const json_t *before,
				  double seconds)
{
	const json_t *latency = json_object_get(now, "latency");
	uint64_t ios = stats_get(now, "ios"), bytes = stats_get(now, "bytes");
	static const char *const columns[] = { "p50_ns", "p99_ns", "p999_ns", "max_ns" };
	char total[32], rate[32], text[32];

	printf("%-12s %9llu %7s %4llu %7.0f %7s", op, (unsigned long long)ios,
	       stats_size(bytes, total, sizeof(total)),
	       (unsigned long long)stats_get(now, "errors"),
	       (double)(ios - stats_get(before, "ios")) / seconds,
	       stats_size((uint64_t)((double)(bytes - stats_get(before, "bytes")) / seconds), rate,
			  sizeof(rate)));
	for (unsigned i = 0; i < sizeof(columns) / sizeof(columns[0]); i++)
		printf(" %6s", stats_time(stats_get(latency, columns[i]),
					  stats_get(latency, "count") > 0, text, sizeof(text)));
	printf("\n");
}

static void stats_print_backend(const json_t *backend)
{
	uint64_t reconnects = stats_get(backend, "reconnects"),
		 outages = stats_get(backend, "outages");

	if (!stats_get(backend, "connections"))
		return;
	printf("server: %s, %llu of %llu connections, %llu reconnect%s, %llu outage%s (%.1f s)\n"
	       "  %llu requests (%llu sent again), %.1f s waited\n",
	       json_is_true(json_object_get(backend, "is_online")) ? "online" : "offline",
	       (unsigned long long)stats_get(backend, "connections_online"),
	       (unsigned long long)stats_get(backend, "connections"),
	       (unsigned long long)reconnects, reconnects == 1 ? "" : "s",
	       (unsigned long long)outages, outages == 1 ? "" : "s",
	       json_number_value(json_object_get(backend, "outage_seconds")),
	       (unsigned long long)stats_get(backend, "requests"),
	       (unsigned long long)stats_get(backend, "retries"),
	       json_number_value(json_object_get(backend, "wait_seconds")));
}

/*
 * What is waited for after lost connections, and what may be gone; nothing where there is nothing.
 */
static void stats_print_fence(const json_t *now)
{
	const json_t *fence = json_object_get(now, "fence"),
		     *losses = json_object_get(now, "losses");
	const json_t *deadline = json_object_get(fence, "deadline_ms");
	time_t last = (time_t)stats_get(losses, "last_unix");
	char size[32], when[32] = "?";
	struct tm tm;

	if (stats_get(fence, "ranges")) {
		printf("fence: %llu ranges of %s may still be written by lost connections, %llu "
		       "changes wait, ",
		       (unsigned long long)stats_get(fence, "ranges"),
		       ub_size_format(stats_get(fence, "bytes"), size, sizeof(size)),
		       (unsigned long long)stats_get(fence, "waiting"));
		if (json_is_integer(deadline))
			printf("for %.1f s at the most\n", json_number_value(deadline) / 1000);
		else
			printf("nobody knows for how long\n");
	}
	if (stats_get(losses, "count") && localtime_r(&last, &tm)) {
		strftime(when, sizeof(when), "%F %T", &tm);
		printf("lost: %s may be gone, which the server had answered and not flushed (%llu "
		       "times, last at "
		       "%s)\n",
		       ub_size_format(stats_get(losses, "bytes"), size, sizeof(size)),
		       (unsigned long long)stats_get(losses, "count"), when);
	}
	if (stats_get(now, "unflushed_bytes"))
		printf("unflushed: %s\n",
		       ub_size_format(stats_get(now, "unflushed_bytes"), size, sizeof(size)));
}

static void stats_print_migration(const json_t *migration)
{
	char text[512];

	if (json_is_object(migration))
		printf("migration to %s: %s\n", stats_string(migration, "destination"),
		       ub_progress_text(NULL, migration, text, sizeof(text)));
}

static void stats_print_table(const json_t *now, const json_t *before)
{
	const json_t *syscalls = json_object_get(now, "syscalls"),
		     *batch = json_object_get(now, "batch");
	double seconds = json_number_value(json_object_get(now, "uptime_seconds"));
	const char *op;
	json_t *value;

	if (before)
		seconds = (double)(stats_get(now, "time_ns") - stats_get(before, "time_ns")) / 1e9;
	if (seconds <= 0)
		seconds = 1e-9;
	printf("%s (%s): %s, up %.0f s, %llu in flight\n", stats_string(now, "device"),
	       stats_string(now, "name"), stats_string(now, "kind"),
	       json_number_value(json_object_get(now, "uptime_seconds")),
	       (unsigned long long)stats_get(now, "in_flight"));
	printf("%-12s %9s %7s %4s %7s %7s %6s %6s %6s %6s\n", "OPERATION", "IOS", "BYTES", "ERR",
	       "IOS/S", "BYTES/S", "P50", "P99", "P99.9", "MAX");
	json_object_foreach(json_object_get(now, "operations"), op, value)
	{
		stats_print_operation(op, value,
				      json_object_get(json_object_get(before, "operations"), op),
				      seconds);
	}
	printf("turns: %llu, system calls: %llu and %llu to copy, batch: %.1f, at most %llu\n",
	       (unsigned long long)stats_get(now, "turns"),
	       (unsigned long long)stats_get(syscalls, "io_uring_enter"),
	       (unsigned long long)stats_get(syscalls, "copy"),
	       json_number_value(json_object_get(batch, "mean")),
	       (unsigned long long)stats_get(batch, "max"));
	stats_print_backend(json_object_get(now, "backend"));
	stats_print_fence(now);
	stats_print_migration(json_object_get(now, "migration"));
}

static void stats_print(const struct stats_args *a, const json_t *now, const json_t *before)
{
	if (a->json) {
		json_dumpf(now, stdout,
			   (a->watch ? JSON_COMPACT : JSON_INDENT(2)) | JSON_REAL_PRECISION(15));
		printf("\n");
	} else {
		if (a->watch && isatty(STDOUT_FILENO))
			printf("\033[H\033[J"); /* to the top, and the rest is cleared */
		else if (before)
			printf("\n");
		stats_print_table(now, before);
	}
	fflush(stdout);
}

/* Prints once, or until the device goes or nobody reads any more. */
static int stats_run(struct stats_args *a, const char *name)
{
	json_t *now, *before = NULL;
	int ret;

	do {
		ret = ub_control_ask(name, json_pack("{s:s}", "verb", "stats"), &now,
				     STATS_TIMEOUT_MS, &a->err);
		if (ret)
			break;
		json_object_del(now, "ok");
		json_object_del(now, "version");
		stats_print(a, now, before);
		json_decref(before);
		before = now;
		if (a->watch)
			poll(NULL, 0, (int)a->wait_ms);
	} while (a->watch && !ferror(stdout));
	json_decref(before);
	return ret;
}

int ub_cli_stats(int argc, char **argv)
{
	static const struct argp argp = {
		.options = stats_options,
		.parser = stats_parse,
		.args_doc = "DEVICE",
		.doc = "Say what a device has done, how fast, and how long it took."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  Exit status: 0 done, 1 "
		       "failed, 2 wrong usage.",
	};
	struct stats_args a = { .wait_ms = STATS_DEFAULT_WAIT_MS };
	struct ub_state state;

	if (ub_cli_parse(&argp, argc, argv, &a, &a.err) != 0)
		return ub_cli_error(&a.err, UB_EXIT_USAGE);
	if (ub_device_find_state(a.device, &state, NULL, &a.err) != 0)
		return ub_cli_error(&a.err, a.err.code == EINVAL ? UB_EXIT_USAGE : UB_EXIT_FAILED);
	return stats_run(&a, state.name) ? ub_cli_error(&a.err, UB_EXIT_FAILED) : UB_EXIT_DONE;
}
