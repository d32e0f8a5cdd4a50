/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge info: one device, as its keeper knows it. */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "keeper/control.h"
#include "keeper/find.h"

#define INFO_TIMEOUT_MS 5000

enum { OPT_JSON = 256 };

static const struct argp_option info_options[] = {
	{ "json", OPT_JSON, NULL, 0, "Print an object", 0 },
	{ 0 },
};

struct info_args {
	const char *device;
	bool json;
	struct ub_err err;
};

static error_t info_parse(int key, char *arg, struct argp_state *state)
{
	struct info_args *a = state->input;

	switch (key) {
	case OPT_JSON:
		a->json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (a->device)
			return -ub_err_set(&a->err, EINVAL, "info takes one device, not also '%s'", arg);
		a->device = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		return -ub_err_set(&a->err, EINVAL, "info of which device? Give a number, /dev/ublkbN or a --name");
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* A line a value; an object's lines begin with its name. */
static void info_print(const char *prefix, json_t *object)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value) {
		char name[96];

		snprintf(name, sizeof(name), "%s%s", prefix, key);
		if (json_is_object(value)) {
			char deeper[100];

			snprintf(deeper, sizeof(deeper), "%s.", name);
			info_print(deeper, value);
		} else if (json_is_string(value)) {
			printf("%-22s %s\n", name, json_string_value(value));
		} else if (json_is_integer(value)) {
			printf("%-22s %lld\n", name, (long long)json_integer_value(value));
		} else if (json_is_boolean(value)) {
			printf("%-22s %s\n", name, json_is_true(value) ? "yes" : "no");
		} else if (json_is_null(value)) {
			printf("%-22s none\n", name);
		}
	}
}

int ub_cli_info(int argc, char **argv)
{
	static const struct argp argp = {
		.options = info_options,
		.parser = info_parse,
		.args_doc = "DEVICE",
		.doc = "Say what a device serves, and how it is."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  Exit status: 0 done, 1 failed, 2 wrong usage.",
	};
	struct info_args a = { 0 };
	struct ub_state state;
	json_t *reply;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a) != 0)
		return ub_cli_error(&a.err, UB_EXIT_USAGE);
	if (ub_device_find_state(a.device, &state, &a.err) != 0)
		return ub_cli_error(&a.err, a.err.code == EINVAL ? UB_EXIT_USAGE : UB_EXIT_FAILED);
	if (ub_control_ask(state.name, json_pack("{s:s}", "verb", "info"), &reply, INFO_TIMEOUT_MS, &a.err) != 0)
		return ub_cli_error(&a.err, UB_EXIT_FAILED);
	json_object_del(reply, "ok");
	json_object_del(reply, "version");
	if (a.json) {
		json_dumpf(reply, stdout, JSON_INDENT(2));
		printf("\n");
	} else {
		info_print("", reply);
	}
	json_decref(reply);
	return UB_EXIT_DONE;
}
