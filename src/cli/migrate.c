/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ublk-bridge migrate: moves a device that is in use to something else behind it.
 *
 * The keeper does it. This asks it to, looks every now and then how far it is, and goes on looking
 * when the keeper is another one meanwhile: the device may be recovered or upgraded under it.
 */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/size.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "cli/hints.h"
#include "cli/nbd-options.h"
#include "cli/progress.h"
#include "cli/watch.h"
#include "run/ask-keeper.h"
#include "run/state.h"
#include "run/find.h"
#include "run/ranges.h"

#define MIGRATE_TIMEOUT_MS	  60000 /* of what is asked once */
#define MIGRATE_LOOK_TIMEOUT_MS	  2000
#define MIGRATE_REST_MS		  100
#define MIGRATE_MIRROR_TIMEOUT_MS 1000
#define MIGRATE_MIN_MIRROR_MS	  100
#define MIGRATE_MAX_MIRROR_MS	  3600000

enum {
	OPT_MEM = 256,
	OPT_WAIT,
	OPT_COMPLETE,
	OPT_CANCEL,
	OPT_STATUS,
	OPT_JSON,
	OPT_RATE,
	OPT_MIRROR_TIMEOUT,
};

static const struct argp_option migrate_options[] = {
	{ NULL, 0, NULL, 0, "The destination:", 1 },
	{ "mem", OPT_MEM, "SIZE", 0, "Memory, as large as the device or larger", 1 },
	{ NULL, 0, NULL, 0, "The migration:", 5 },
	{ "wait-for-cutover", OPT_WAIT, NULL, 0,
	  "Return when both sides agree, and keep them so until --complete", 5 },
	{ "rate-limit", OPT_RATE, "SIZE/s", 0,
	  "Copy no more than so much a second, 0: as fast as it goes (the default); alone: of the "
	  "one that runs",
	  5 },
	{ "mirror-timeout", OPT_MIRROR_TIMEOUT, "DURATION", 0,
	  "A destination that takes longer for a write is left out until it answers again "
	  "(default: 1s)",
	  5 },
	{ NULL, 0, NULL, 0, "One that runs:", 6 },
	{ "complete", OPT_COMPLETE, NULL, 0,
	  "Cut over now, where --wait-for-cutover was given; returns when that is done", 6 },
	{ "cancel", OPT_CANCEL, NULL, 0, "Give it up: the device stays where it is", 6 },
	{ "status", OPT_STATUS, NULL, 0, "Say how far it is, or how the last one ended", 6 },
	{ "json", OPT_JSON, NULL, 0, "With --status: print an object", 6 },
	{ 0 },
};

enum migrate_action {
	MIGRATE_START,
	MIGRATE_COMPLETE,
	MIGRATE_CANCEL,
	MIGRATE_STATUS,
	MIGRATE_RATE
};

struct migrate_args {
	const char *device;
	const char *first_uri; /* a destination that came before the device */
	enum migrate_action action;
	unsigned nr_actions; /* of --complete, --cancel and --status */
	bool wait, json, has_rate, has_mirror_timeout;
	unsigned nr_mem;
	uint64_t mem_bytes, rate_bytes, mirror_timeout_ms;
	struct ub_cli_nbd nbd;
	struct ub_state state; /* of the device */
	struct ub_err err;
};

/* ---- the command line ---------------------------------------------------- */

/* "64M/s", "64M", "0". */
static int migrate_rate(struct migrate_args *a, const char *arg)
{
	size_t len = strlen(arg);
	char size[32];

	if (len > 2 && strcmp(arg + len - 2, "/s") == 0)
		len -= 2;
	if (len >= sizeof(size))
		return ub_err_set(&a->err, EINVAL,
				  "--rate-limit: '%s' is not a size a second, such as 64M/s", arg);
	snprintf(size, sizeof(size), "%.*s", (int)len, arg);
	a->has_rate = true;
	a->rate_bytes = 0;
	return strcmp(size, "0") == 0 ?
		       0 :
		       ub_size_parse(size, "--rate-limit", &a->rate_bytes, &a->err);
}

static int migrate_mirror_timeout(struct migrate_args *a, const char *arg)
{
	int ret = ub_duration_parse(arg, "--mirror-timeout", &a->mirror_timeout_ms, &a->err);

	a->has_mirror_timeout = true;
	if (ret == 0 && (a->mirror_timeout_ms < MIGRATE_MIN_MIRROR_MS ||
			 a->mirror_timeout_ms > MIGRATE_MAX_MIRROR_MS))
		return ub_err_set(&a->err, ERANGE,
				  "--mirror-timeout: %s is out of range: give one from 100ms to 1h",
				  arg);
	return ret;
}

static int migrate_word(struct migrate_args *a, char *arg)
{
	if (ub_cli_is_uri(arg)) {
		a->first_uri = a->device ? a->first_uri : arg;
		return ub_cli_nbd_take_uri(&a->nbd, arg);
	}
	if (a->first_uri)
		return ub_err_set(&a->err, EINVAL,
				  "the device comes before its destination: ublk-bridge migrate %s "
				  "%.300s",
				  arg, a->first_uri);
	if (a->device)
		return ub_err_set(&a->err, EINVAL,
				  "'%s' is no destination: give --mem SIZE, an NBD URI or [ "
				  "COMMAND ARGS... ]",
				  arg);
	a->device = arg;
	return 0;
}

static int migrate_action(struct migrate_args *a, enum migrate_action action)
{
	a->action = action;
	a->nr_actions++;
	return 0;
}

static error_t migrate_parse(int key, char *arg, struct argp_state *state)
{
	struct migrate_args *a = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->nbd;
		return 0;
	case OPT_MEM:
		a->nr_mem++;
		return -ub_size_parse(arg, "--mem", &a->mem_bytes, &a->err);
	case OPT_WAIT:
		a->wait = true;
		return 0;
	case OPT_COMPLETE:
		return migrate_action(a, MIGRATE_COMPLETE);
	case OPT_CANCEL:
		return migrate_action(a, MIGRATE_CANCEL);
	case OPT_STATUS:
		return migrate_action(a, MIGRATE_STATUS);
	case OPT_JSON:
		a->json = true;
		return 0;
	case OPT_RATE:
		return -migrate_rate(a, arg);
	case OPT_MIRROR_TIMEOUT:
		return -migrate_mirror_timeout(a, arg);
	case ARGP_KEY_ARG:
		return -migrate_word(a, arg);
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* --complete, --cancel or --status, or a rate alone. */
static int migrate_check_action(struct migrate_args *a)
{
	if (a->nr_actions > 1)
		return ub_err_set(&a->err, EINVAL,
				  "--complete, --cancel and --status exclude each other");
	if (a->nr_mem + a->nbd.nr_named)
		return ub_err_set(&a->err, EINVAL,
				  "--complete, --cancel and --status are of a migration that runs: "
				  "they take no "
				  "destination");
	if (a->wait || a->has_rate || a->has_mirror_timeout)
		return ub_err_set(&a->err, EINVAL,
				  "--wait-for-cutover, --rate-limit and --mirror-timeout do not go "
				  "with "
				  "--complete, --cancel and --status");
	return 0;
}

static int migrate_check_destination(struct migrate_args *a)
{
	unsigned nr = a->nr_mem + a->nbd.nr_named;

	if (nr > 1)
		return ub_err_set(&a->err, EINVAL,
				  "two destinations are named: give one NBD server or one --mem");
	if (nr == 1)
		return 0;
	if (!a->has_rate)
		return ub_err_set(&a->err, EINVAL,
				  "migrate %s where to? Give --mem SIZE, an NBD URI or [ COMMAND "
				  "ARGS... ]",
				  a->device);
	if (a->wait || a->has_mirror_timeout)
		return ub_err_set(&a->err, EINVAL,
				  "%s is of a migration that begins: it wants a destination",
				  a->wait ? "--wait-for-cutover" : "--mirror-timeout");
	a->action = MIGRATE_RATE;
	return 0;
}

static int migrate_check(struct migrate_args *a)
{
	int ret;

	if (!a->device)
		return ub_err_set(&a->err, EINVAL,
				  "migrate which device? Give a number, /dev/ublkbN or a --name");
	if (a->json && a->action != MIGRATE_STATUS)
		return ub_err_set(&a->err, EINVAL, "--json goes with --status");
	ret = a->nr_actions ? migrate_check_action(a) : migrate_check_destination(a);
	return ret ? ret : ub_cli_nbd_check(&a->nbd);
}

/* ---- what is asked for --------------------------------------------------- */

/* Bytes that need not be valid text; null: no memory. */
static json_t *migrate_hex(const char *text)
{
	cleanup_free char *hex = ub_text_to_hex(text);

	return hex ? json_string(hex) : json_null();
}

/* The server is the keeper's to start, where it would run here. 0 or -errno. */
static int migrate_add_command(struct migrate_args *a, json_t *destination)
{
	json_t *words = json_array();
	char dir[4096];

	for (char **word = a->nbd.command; *word; word++)
		json_array_append_new(words, migrate_hex(*word));
	json_object_set_new(destination, "command_hex", words);
	if (!getcwd(dir, sizeof(dir)))
		return ub_err_errno(&a->err, errno, "the working directory");
	json_object_set_new(destination, "dir_hex", migrate_hex(dir));
	json_object_set_new(destination, "restart_command", json_boolean(a->nbd.restart_command));
	return 0;
}

/* NULL with a->err. */
static json_t *migrate_destination(struct migrate_args *a)
{
	cleanup_free char *nbd = NULL;
	json_t *destination;

	if (a->nr_mem)
		return json_pack("{s:s, s:I}", "kind", "mem", "size_bytes",
				 (json_int_t)a->mem_bytes);
	nbd = nbd_options_to_json(&a->nbd.options);
	destination = nbd ? json_pack("{s:s, s:s}", "kind", "nbd", "nbd", nbd) : NULL;
	if (!destination) {
		ub_err_set(&a->err, EINVAL, "the destination: a name in it is not UTF-8");
		return NULL;
	}
	if (a->nbd.command && migrate_add_command(a, destination) != 0) {
		json_decref(destination);
		return NULL;
	}
	return destination;
}

static json_t *migrate_request(struct migrate_args *a)
{
	json_t *destination = migrate_destination(a);

	if (!destination)
		return NULL;
	return json_pack("{s:s, s:o, s:b, s:I, s:I}", "verb", "migrate", "destination", destination,
			 "wait", (int)a->wait, "rate_bytes", (json_int_t)a->rate_bytes,
			 "mirror_timeout_ms", (json_int_t)a->mirror_timeout_ms);
}

/* 0, or an exit status with a->err. request is consumed. */
static int migrate_ask(struct migrate_args *a, json_t *request)
{
	json_t *reply;

	if (ub_control_ask(a->state.name, request, &reply, MIGRATE_TIMEOUT_MS, &a->err) != 0)
		return a->err.code == EBUSY ? UB_EXIT_BUSY : UB_EXIT_FAILED;
	json_decref(reply);
	return UB_EXIT_DONE;
}

/* ---- the actions --------------------------------------------------------- */

/* How the last one ended, or null: the caller's to json_decref(). NULL with a->err. */
static json_t *migrate_last(struct migrate_args *a)
{
	json_t *info, *last;

	if (ub_control_ask(a->state.name, json_pack("{s:s}", "verb", "info"), &info,
			   MIGRATE_LOOK_TIMEOUT_MS, &a->err) != 0)
		return NULL;
	last = json_object_get(info, "last_migration");
	last = last ? json_incref(last) : json_null();
	json_decref(info);
	return last;
}

/*
 * What lost connections may still write where the device was moved from, or should have been moved
 * to: somebody else may use that next. wait: until it is over, or nobody knows when, or a signal.
 */
static void migrate_await_rest(const struct migrate_args *a, bool wait)
{
	struct ub_ledger_view ledger = { 0 };
	struct ub_ranges_wait patience = { 0 };
	struct ub_state state;
	bool is_told = false;
	struct ub_ranges r;
	char what[200];

	if (ub_state_read(a->state.name, &state) != 0 || ub_ledger_view_open(&state, &ledger) != 0)
		return;
	for (;;) {
		ub_ledger_view_read_other(&ledger, UINT64_MAX, &r);
		if (ub_ranges_wait(&patience, &r, ub_now_ms()) == UB_RANGES_OVER)
			break;
		if (!is_told)
			ub_log(UB_LOG_NOTICE,
			       "/dev/ublkb%u: where it was %s, %s: nobody else should use that "
			       "before%s",
			       state.dev_id, wait ? "migrated from" : "to be migrated to",
			       ub_ranges_describe_wait(&r, what, sizeof(what)),
			       wait ? "; waiting" : "");
		is_told = true;
		if (!wait || ub_cli_watch_has_signal())
			break;
		if (ub_ranges_wait(&patience, &r, ub_now_ms()) == UB_RANGES_TOO_LONG) {
			ub_log(UB_LOG_WARNING,
			       "/dev/ublkb%u: where it was migrated from, %s may still be written: "
			       "its server has not been "
			       "seen since",
			       state.dev_id, ub_ranges_describe(&r, what, sizeof(what)));
			break;
		}
		poll(NULL, 0, MIGRATE_REST_MS);
	}
	ub_ledger_view_close(&ledger);
}

static bool migrate_has_moved(const json_t *last)
{
	const char *result = json_string_value(json_object_get(last, "result"));

	return result && strcmp(result, "moved") == 0;
}

/* Says how it ended; an exit status, with a->err if it is another than 0. */
static int migrate_tell_end(struct migrate_args *a, const json_t *last)
{
	char text[400];

	ub_progress_result(last, text, sizeof(text));
	if (migrate_has_moved(last)) {
		printf("/dev/ublkb%u: %s\n", a->state.dev_id, text);
		fflush(stdout);
		migrate_await_rest(a, true);
		return UB_EXIT_DONE;
	}
	migrate_await_rest(a, false);
	ub_err_set(&a->err, ECANCELED, "/dev/ublkb%u stays where it is: the migration %s%s",
		   a->state.dev_id, text, ub_cli_watch_has_signal() ? " (by a signal)" : "");
	return UB_EXIT_FAILED;
}

/* Looks on until it is over, or both sides agree. */
static int migrate_follow(struct migrate_args *a, const json_t *before, bool until_in_step)
{
	json_t *last = NULL;
	int ret = ub_cli_watch(&a->state, before, until_in_step, &last, &a->err);
	int status = UB_EXIT_FAILED;

	if (ret == 1) {
		printf("/dev/ublkb%u: both sides agree: cut over with 'ublk-bridge migrate %s "
		       "--complete'\n",
		       a->state.dev_id, a->state.name);
		status = UB_EXIT_DONE;
	} else if (ret == 2) {
		status = migrate_tell_end(a, last);
	}
	json_decref(last);
	return status;
}

static int migrate_start(struct migrate_args *a)
{
	json_t *request = migrate_request(a), *before;
	int status;

	if (!request)
		return UB_EXIT_FAILED;
	before = migrate_last(a);
	if (!before) {
		json_decref(request);
		return UB_EXIT_FAILED;
	}
	ub_cli_watch_catch_signals();
	status = migrate_ask(a, request);
	if (status == UB_EXIT_DONE)
		status = migrate_follow(a, before, a->wait);
	json_decref(before);
	return status;
}

static int migrate_complete(struct migrate_args *a)
{
	json_t *before = migrate_last(a);
	int status = before ? migrate_ask(a, json_pack("{s:s}", "verb", "migrate-complete")) :
			      UB_EXIT_FAILED;

	if (status == UB_EXIT_DONE)
		status = migrate_follow(a, before, false);
	json_decref(before);
	return status;
}

/* The answer comes with the end. Who is asked later may be another keeper, and know of none. */
static int migrate_cancel(struct migrate_args *a)
{
	int status = migrate_ask(a, json_pack("{s:s}", "verb", "migrate-cancel"));

	if (status == UB_EXIT_DONE)
		migrate_await_rest(a, false);
	return status;
}

static void migrate_print_status(const struct migrate_args *a, const json_t *info)
{
	const json_t *migration = json_object_get(info, "migration"),
		     *last = json_object_get(info, "last_migration");
	const char *destination = json_string_value(json_object_get(migration, "destination"));
	char text[512];

	if (json_is_object(migration))
		printf("/dev/ublkb%u: to %s: %s\n", a->state.dev_id,
		       destination ? destination : "?",
		       ub_progress_text(NULL, migration, text, sizeof(text)));
	else if (json_is_object(last))
		printf("/dev/ublkb%u: no migration; the last one %s\n", a->state.dev_id,
		       ub_progress_result(last, text, sizeof(text)));
	else
		printf("/dev/ublkb%u: no migration\n", a->state.dev_id);
}

static int migrate_status(struct migrate_args *a)
{
	static const char *const members[] = { "name", "device", "backend", "migration",
					       "last_migration" };
	json_t *info, *object;

	if (ub_control_ask(a->state.name, json_pack("{s:s}", "verb", "info"), &info,
			   MIGRATE_LOOK_TIMEOUT_MS, &a->err) != 0)
		return UB_EXIT_FAILED;
	if (a->json) {
		object = json_object();
		for (unsigned i = 0; i < UB_ARRAY_SIZE(members); i++) {
			json_t *value = json_object_get(info, members[i]);

			json_object_set_new(object, members[i],
					    value ? json_incref(value) : json_null());
		}
		ub_cli_print_json(object);
		json_decref(object);
	} else {
		migrate_print_status(a, info);
	}
	json_decref(info);
	return UB_EXIT_DONE;
}

static int migrate_run(struct migrate_args *a)
{
	if (ub_device_find_state(a->device, &a->state, NULL, &a->err) != 0)
		return a->err.code == EINVAL ? UB_EXIT_USAGE : UB_EXIT_FAILED;
	switch (a->action) {
	case MIGRATE_START:
		return migrate_start(a);
	case MIGRATE_COMPLETE:
		return migrate_complete(a);
	case MIGRATE_CANCEL:
		return migrate_cancel(a);
	case MIGRATE_STATUS:
		return migrate_status(a);
	case MIGRATE_RATE:
		return migrate_ask(a, json_pack("{s:s, s:I}", "verb", "migrate-rate", "rate_bytes",
						(json_int_t)a->rate_bytes));
	}
	return UB_EXIT_USAGE;
}

int ub_cli_migrate(int argc, char **argv)
{
	static const struct argp_child children[] = { { &ub_cli_nbd_argp, 0, NULL, 0 }, { 0 } };
	static const struct argp argp = {
		.options = migrate_options,
		.parser = migrate_parse,
		.args_doc = "DEVICE [NBD-URI | [ COMMAND ARGS... ]]",
		.children = children,
		.doc = "Migrate a device, while it is in use, to memory or an NBD export."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  SIZE is in bytes, or has "
		       "one of K M G T P E behind it"
		       " (powers of 1024).  --fd and --command name no destination: their "
		       "connection cannot be made again."
		       "  A signal (SIGINT, SIGTERM) cancels the migration that was begun here."
		       "  Exit status: 0 done, 1 failed, 2 wrong usage, 3 busy.",
	};
	struct migrate_args a = {
		.mirror_timeout_ms = MIGRATE_MIRROR_TIMEOUT_MS,
		.nbd = { .fd = -1, .is_destination = true, .err = &a.err },
	};
	int status;

	nbd_options_init(&a.nbd.options);
	if (ub_cli_nbd_take_command(&a.nbd, &argc, argv) != 0 ||
	    ub_cli_parse(&argp, argc, argv, &a, &a.err) != 0 || migrate_check(&a) != 0)
		status = UB_EXIT_USAGE;
	else
		status = migrate_run(&a);
	ub_cli_nbd_destroy(&a.nbd);
	return status == UB_EXIT_DONE ? status : ub_cli_error(&a.err, status);
}
