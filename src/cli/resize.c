/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge resize: another size for a device that is live. */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>

#include "base/log.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "run/ask-keeper.h"
#include "run/state.h"
#include "run/find.h"

/* the keeper's own limits are shorter, unless --timeout made them longer */
#define RESIZE_TIMEOUT_MS 300000

enum { OPT_FORCE = 256, OPT_TO_EXPORT };

static const struct argp_option resize_options[] = {
	{ "to-export", OPT_TO_EXPORT, NULL, 0,
	  "As large as the NBD export is now: the default where no SIZE is given", 0 },
	{ "force", OPT_FORCE, NULL, 0,
	  "Shrink it though it is in use: what lies behind the new end is lost", 0 },
	{ 0 },
};

struct resize_args {
	const char *device;
	uint64_t size_bytes; /* 0: the export's */
	bool has_size, to_export, force;
	struct ub_err err;
};

static error_t resize_parse(int key, char *arg, struct argp_state *state)
{
	struct resize_args *a = state->input;

	switch (key) {
	case OPT_FORCE:
		a->force = true;
		return 0;
	case OPT_TO_EXPORT:
		a->to_export = true;
		return 0;
	case ARGP_KEY_ARG:
		if (!a->device)
			break;
		if (a->has_size)
			return -ub_err_set(&a->err, EINVAL,
					   "resize takes a device and a size, not also '%s'", arg);
		a->has_size = true;
		return -ub_size_parse(arg, "SIZE", &a->size_bytes, &a->err);
	case ARGP_KEY_END:
		if (a->has_size && a->to_export)
			return -ub_err_set(&a->err, EINVAL,
					   "a SIZE and --to-export exclude each other");
		return 0;
	default:
		break;
	}
	return ub_cli_parse_device(key, arg, "resize", &a->device, &a->err);
}

static int resize_run(struct resize_args *a)
{
	json_t *request, *reply;
	struct ub_state state;
	json_int_t is, was;
	char size[32], before[32];

	if (ub_device_find_state(a->device, &state, NULL, &a->err) != 0)
		return a->err.code == EINVAL ? UB_EXIT_USAGE : UB_EXIT_FAILED;
	request = json_pack("{s:s, s:b}", "verb", "resize", "force", a->force);
	if (a->has_size)
		json_object_set_new(request, "size_bytes", json_integer((json_int_t)a->size_bytes));
	if (ub_control_ask(state.name, request, &reply, RESIZE_TIMEOUT_MS, &a->err) != 0)
		return a->err.code == EBUSY ? UB_EXIT_BUSY : UB_EXIT_FAILED;
	is = json_integer_value(json_object_get(reply, "size_bytes"));
	was = json_integer_value(json_object_get(reply, "was_bytes"));
	json_decref(reply);
	ub_size_format((uint64_t)is, size, sizeof(size));
	if (is == was)
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u has %s already", state.dev_id, size);
	else
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: now %s (was %s)", state.dev_id, size,
		       ub_size_format((uint64_t)was, before, sizeof(before)));
	return UB_EXIT_DONE;
}

int ub_cli_resize(int argc, char **argv)
{
	static const struct argp argp = {
		.options = resize_options,
		.parser = resize_parse,
		.args_doc = "DEVICE [SIZE]",
		.doc = "Give a device another size while it is in use (Linux 6.16 or later)."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  SIZE is in bytes, or has "
		       "one of K M G T P E behind it"
		       " (powers of 1024).  Exit status: 0 done, 1 failed, 2 wrong usage, 3 busy.",
	};
	struct resize_args a = { 0 };
	int status = UB_EXIT_USAGE;

	if (ub_cli_parse(&argp, argc, argv, &a, &a.err) == 0)
		status = resize_run(&a);
	return status == UB_EXIT_DONE ? status : ub_cli_error(&a.err, status);
}
