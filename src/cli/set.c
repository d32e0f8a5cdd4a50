/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge set: changes settings of a device that is live. */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "backend/nbd/options.h"
#include "base/log.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "run/ask-keeper.h"
#include "run/state.h"
#include "run/find.h"

#define SET_TIMEOUT_MS 10000

enum { OPT_OUTAGE_LIMIT = 256, OPT_STALL_TIMEOUT, OPT_FENCE_TIMEOUT, OPT_LOG_LEVEL };

static const struct argp_option set_options[] = {
	{ "outage-limit", OPT_OUTAGE_LIMIT, "DURATION", 0,
	  "I/O waits so long for its server, in an outage that has begun already, too; none: for "
	  "ever",
	  0 },
	{ "stall-timeout", OPT_STALL_TIMEOUT, "DURATION", 0,
	  "No answer for so long: another connection is tried", 0 },
	{ "fence-timeout", OPT_FENCE_TIMEOUT, "DURATION", 0,
	  "Newer changes wait so long for what a lost connection may still carry, also for what it "
	  "has by now; 0: not at all",
	  0 },
	{ "log-level", OPT_LOG_LEVEL, "LEVEL", 0,
	  "What keeper and server say: error, warning, notice or debug", 0 },
	{ 0 },
};

struct set_args {
	const char *device;
	json_t *request;
	struct ub_err err;
};

static int set_duration(struct set_args *a, const char *option, const char *member, const char *arg)
{
	uint64_t ms;
	int ret = ub_duration_parse(arg, option, &ms, &a->err);

	return ret ? ret : json_object_set_new(a->request, member, json_integer((json_int_t)ms));
}

static int set_stall_timeout(struct set_args *a, const char *arg)
{
	int ret = set_duration(a, "--stall-timeout", "stall_timeout_ms", arg);

	if (ret == 0 &&
	    json_integer_value(json_object_get(a->request, "stall_timeout_ms")) < NBD_MIN_STALL_MS)
		return ub_err_set(&a->err, ERANGE,
				  "--stall-timeout: %s is too short: %d ms is the least", arg,
				  NBD_MIN_STALL_MS);
	return ret;
}

static int set_log_level(struct set_args *a, const char *arg)
{
	enum ub_log_level level;

	if (ub_log_level_parse(arg, &level) != 0)
		return ub_err_set(&a->err, EINVAL,
				  "--log-level: '%s' is none of error, warning, notice and debug",
				  arg);
	return json_object_set_new(a->request, "log_level", json_string(arg));
}

static error_t set_parse(int key, char *arg, struct argp_state *state)
{
	struct set_args *a = state->input;

	switch (key) {
	case OPT_OUTAGE_LIMIT:
		if (strcmp(arg, "none") == 0)
			return -json_object_set_new(a->request, "outage_limit_ms", json_null());
		return -set_duration(a, "--outage-limit", "outage_limit_ms", arg);
	case OPT_STALL_TIMEOUT:
		return -set_stall_timeout(a, arg);
	case OPT_FENCE_TIMEOUT:
		return -set_duration(a, "--fence-timeout", "fence_timeout_ms", arg);
	case OPT_LOG_LEVEL:
		return -set_log_level(a, arg);
	case ARGP_KEY_END:
		if (json_object_size(a->request) == 0)
			return -ub_err_set(&a->err, EINVAL,
					   "set what? See 'ublk-bridge set --help'");
		return 0;
	default:
		return ub_cli_parse_device(key, arg, "set of", &a->device, &a->err);
	}
}

static int set_run(struct set_args *a)
{
	struct ub_state state;
	json_t *reply;

	if (ub_device_find_state(a->device, &state, NULL, &a->err) != 0)
		return a->err.code == EINVAL ? UB_EXIT_USAGE : UB_EXIT_FAILED;
	json_object_set_new(a->request, "verb", json_string("set"));
	if (ub_control_ask(state.name, json_incref(a->request), &reply, SET_TIMEOUT_MS, &a->err) !=
	    0)
		return UB_EXIT_FAILED;
	json_decref(reply);
	return UB_EXIT_DONE;
}

int ub_cli_set(int argc, char **argv)
{
	static const struct argp argp = {
		.options = set_options,
		.parser = set_parse,
		.args_doc = "DEVICE",
		.doc = "Change settings of a device while it is in use."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  DURATION: seconds, or with "
		       "ms, s, m, h.  All"
		       " that is given is changed, or nothing.  Exit status: 0 done, 1 failed, 2 "
		       "wrong usage.",
	};
	struct set_args a = { .request = json_object() };
	int status = UB_EXIT_USAGE;

	if (ub_cli_parse(&argp, argc, argv, &a, &a.err) == 0)
		status = set_run(&a);
	json_decref(a.request);
	return status == UB_EXIT_DONE ? status : ub_cli_error(&a.err, status);
}
