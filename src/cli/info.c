/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge info: one device, as its keeper knows it. */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include <ublk-bridge/ublk-abi.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "keeper/control.h"
#include "keeper/find.h"
#include "keeper/recipe.h"

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
	default:
		return ub_cli_parse_device(key, arg, "info of", &a->device, &a->err);
	}
}

/* A line a value; an object's lines begin with its name. */
static void info_print(const char *prefix, json_t *object)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		char name[96];

		snprintf(name, sizeof(name), "%s%s", prefix, key);
		if (json_is_object(value)) {
			char deeper[100];

			snprintf(deeper, sizeof(deeper), "%s.", name);
			info_print(deeper, value);
		} else if (json_is_string(value)) {
			printf("%-30s %s\n", name, json_string_value(value));
		} else if (json_is_integer(value)) {
			printf("%-30s %lld\n", name, (long long)json_integer_value(value));
		} else if (json_is_real(value)) {
			printf("%-30s %.3f\n", name, json_real_value(value));
		} else if (json_is_boolean(value)) {
			printf("%-30s %s\n", name, json_is_true(value) ? "yes" : "no");
		} else if (json_is_null(value)) {
			printf("%-30s none\n", name);
		}
	}
}

/*
 * What it is made of, and how that is: the server says it, and no keeper has to be there for that.
 */
static void info_add_health(json_t *info, const struct ub_state *state)
{
	static const char *const healths[] = { "online", "degraded", "offline", "failed" };
	char source[256], why[512] = "";
	unsigned health = UB_ARRAY_SIZE(healths);
	bool has_health = ub_rundir_ask_health(state->name, &health, why, sizeof(why)) == 0 &&
			  health < UB_ARRAY_SIZE(healths);

	ub_recipe_describe_device(state->name, source, sizeof(source));
	json_object_set_new(info, "source", source[0] ? json_string(source) : json_null());
	json_object_set_new(info, "health",
			    has_health ? json_string(healths[health]) : json_null());
	json_object_set_new(info, "health_why",
			    has_health && why[0] ? json_string(why) : json_null());
}

/* Its keeper is gone: what is known without it. NULL: no memory. */
static json_t *info_of_orphan(const struct ub_state *state,
			      const struct ublksrv_ctrl_dev_info *info)
{
	char device[32];
	uint64_t sectors = 0, block = 0, read_only = 0;

	snprintf(device, sizeof(device), "/dev/ublkb%u", info->dev_id);
	ub_cli_sysfs(info->dev_id, "size", &sectors);
	ub_cli_sysfs(info->dev_id, "queue/logical_block_size", &block);
	ub_cli_sysfs(info->dev_id, "ro", &read_only);
	return json_pack("{s:s, s:s, s:i, s:n, s:o, s:s, s:s, s:I, s:i, s:b, s:i, s:i, s:i, s:s}",
			 "name", state->name, "device", device, "id", (int)info->dev_id,
			 "keeper_pid", "server_pid",
			 info->ublksrv_pid > 0 ? json_integer(info->ublksrv_pid) : json_null(),
			 "state", "orphan", "backend", state->backend, "size_bytes",
			 (json_int_t)(sectors << 9), "logical_block_bytes", (int)block, "read_only",
			 (int)(read_only != 0), "queues", (int)info->nr_hw_queues, "depth",
			 (int)info->queue_depth, "max_io_bytes", (int)info->max_io_buf_bytes,
			 "data_path", ub_cli_data_path(info->flags));
}

static json_t *info_get(struct info_args *a)
{
	struct ublksrv_ctrl_dev_info info;
	struct ub_state state;
	json_t *reply = NULL;

	if (ub_device_find_state(a->device, &state, &info, &a->err) != 0)
		return NULL;
	if (!ub_rundir_is_held(state.name)) {
		reply = info_of_orphan(&state, &info);
		if (!reply)
			ub_err_errno(&a->err, ENOMEM, "%s", a->device);
		else
			info_add_health(reply, &state);
		return reply;
	}
	if (ub_control_ask(state.name, json_pack("{s:s}", "verb", "info"), &reply, INFO_TIMEOUT_MS,
			   &a->err) != 0)
		return NULL;
	json_object_del(reply, "ok");
	json_object_del(reply, "version");
	info_add_health(reply, &state);
	return reply;
}

int ub_cli_info(int argc, char **argv)
{
	static const struct argp argp = {
		.options = info_options,
		.parser = info_parse,
		.args_doc = "DEVICE",
		.doc = "Say what a device serves, and how it is."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  Exit status: 0 done, 1 "
		       "failed, 2 wrong usage.",
	};
	struct info_args a = { 0 };
	json_t *reply;

	if (ub_cli_parse(&argp, argc, argv, &a, &a.err) != 0)
		return ub_cli_error(&a.err, UB_EXIT_USAGE);
	reply = info_get(&a);
	if (!reply)
		return ub_cli_error(&a.err, a.err.code == EINVAL ? UB_EXIT_USAGE : UB_EXIT_FAILED);
	if (a.json) {
		json_dumpf(reply, stdout, JSON_INDENT(2));
		printf("\n");
	} else {
		info_print("", reply);
	}
	json_decref(reply);
	return UB_EXIT_DONE;
}
