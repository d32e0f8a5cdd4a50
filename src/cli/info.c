/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge info: one device, as its keeper knows it, and who uses it. */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "cli/view.h"
#include "run/ask-keeper.h"
#include "run/state.h"
#include "run/find.h"
#include "helper/helper.h"
#include "ublk/ctrl.h"

#define INFO_TIMEOUT_MS	 5000
#define INFO_HOLDERS_MS	 2000
#define INFO_KEY_COLUMNS 24

enum { OPT_JSON = 256 };

static const struct argp_option info_options[] = {
	{ "json", OPT_JSON, NULL, 0, "Print an object", 0 },
	{ 0 },
};

struct info_args {
	const char *device;
	bool json;
	struct ub_cli_view view;
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

/* ---- what is known ------------------------------------------------------- */

/* "mounted on /mnt; opened by fio (pid 77)"; null: nobody does, or it cannot be told in time. */
static json_t *info_users(uint32_t id)
{
	struct ub_loop loop;
	char number[16], who[512];
	int ret;

	ub_loop_init(&loop);
	snprintf(number, sizeof(number), "%u", id);
	ret = ub_helper_run(&loop, (const char *const[]){ "holders", number, NULL },
			    "looking for holders", who, sizeof(who), INFO_HOLDERS_MS, NULL, NULL);
	return ret == UB_EXIT_BUSY && who[0] ? json_string(who) : json_null();
}

static json_t *info_take(json_t *object, const char *key)
{
	json_t *value = json_object_get(object, key);

	return value ? json_incref(value) : json_null();
}

/* Since when it is served, and over how many connections: the statistics have that. */
static void info_add_stats(json_t *info, const char *name)
{
	struct ub_err ignored = { 0 };
	json_t *stats = NULL, *backend;
	bool is_nbd;

	if (ub_control_ask(name, json_pack("{s:s}", "verb", "stats"), &stats, INFO_TIMEOUT_MS,
			   &ignored) != 0)
		stats = NULL;
	backend = json_object_get(stats, "backend");
	is_nbd = json_integer_value(json_object_get(backend, "connections")) > 0;
	json_object_set_new(info, "uptime_seconds", info_take(stats, "uptime_seconds"));
	json_object_set_new(info, "connections",
			    is_nbd ? info_take(backend, "connections") : json_null());
	json_object_set_new(info, "connections_online",
			    is_nbd ? info_take(backend, "connections_online") : json_null());
	json_decref(stats);
}

/* What it is made of, and how that is: no keeper has to be there for that. */
static void info_add_view(json_t *info, const struct ub_cli_view *view)
{
	const char *health = ub_cli_view_health(view);

	json_object_set_new(info, "status", json_string(ub_cli_view_state(view)));
	json_object_set_new(info, "source",
			    view->source[0] ? json_string(view->source) : json_null());
	json_object_set_new(info, "health", health ? json_string(health) : json_null());
	json_object_set_new(info, "health_why",
			    health && view->why[0] ? json_string(view->why) : json_null());
	json_object_set_new(info, "used_by", info_users(view->info.dev_id));
}

/* Its keeper is gone: what is known without it. NULL: no memory. */
static json_t *info_of_orphan(const struct ub_cli_view *view)
{
	const struct ublksrv_ctrl_dev_info *info = &view->info;
	uint64_t block = 0;
	char device[32];

	ub_cli_view_device(view, device, sizeof(device));
	ub_cli_sysfs(info->dev_id, "queue/logical_block_size", &block);
	return json_pack("{s:s, s:s, s:i, s:n, s:o, s:s, s:s, s:I, s:i, s:b, s:i, s:i, s:i, s:s}",
			 "name", view->state.name, "device", device, "id", (int)info->dev_id,
			 "keeper_pid", "server_pid",
			 info->ublksrv_pid > 0 ? json_integer(info->ublksrv_pid) : json_null(),
			 "state", "orphan", "backend", view->state.backend, "size_bytes",
			 (json_int_t)view->size_bytes, "logical_block_bytes", (int)block,
			 "read_only", (int)view->read_only, "queues", (int)info->nr_hw_queues,
			 "depth", (int)info->queue_depth, "max_io_bytes",
			 (int)info->max_io_buf_bytes, "data_path", ub_cli_data_path(info->flags));
}

static int info_look(struct info_args *a)
{
	struct ub_state state;
	struct ub_ctrl ctrl;
	int ret = ub_device_find_state(a->device, &state, NULL, &a->err);

	if (ret == 0)
		ret = ub_ctrl_open(&ctrl, &a->err);
	if (ret)
		return ret;
	if (!ub_cli_view_get(&ctrl, state.dev_id, &a->view) || !a->view.has_state)
		ret = ub_err_set(&a->err, ENODEV, "/dev/ublkb%u has just gone", state.dev_id);
	ub_ctrl_close(&ctrl);
	return ret;
}

static json_t *info_get(struct info_args *a)
{
	const char *name = a->view.state.name;
	json_t *reply = NULL;

	if (info_look(a) != 0)
		return NULL;
	if (!a->view.has_keeper) {
		reply = info_of_orphan(&a->view);
		if (!reply)
			ub_err_errno(&a->err, ENOMEM, "%s", a->device);
		else
			info_add_view(reply, &a->view);
		return reply;
	}
	if (ub_control_ask(name, json_pack("{s:s}", "verb", "info"), &reply, INFO_TIMEOUT_MS,
			   &a->err) != 0)
		return NULL;
	json_object_del(reply, "ok");
	json_object_del(reply, "version");
	info_add_view(reply, &a->view);
	info_add_stats(reply, name);
	return reply;
}

/* ---- in words ------------------------------------------------------------ */

static bool info_ends_with(const char *key, const char *ending)
{
	size_t len = strlen(key), ending_len = strlen(ending);

	return len > ending_len && strcmp(key + len - ending_len, ending) == 0;
}

/* "fence.timeout_ms" becomes "fence timeout": the value has the unit. */
static const char *info_key(const char *prefix, const char *key, char *buf, size_t len)
{
	static const char *const units[] = { "_bytes", "_ms", "_seconds", "_unix" };

	snprintf(buf, len, "%s%s", prefix, key);
	for (unsigned i = 0; i < UB_ARRAY_SIZE(units); i++) {
		if (info_ends_with(buf, units[i]))
			buf[strlen(buf) - strlen(units[i])] = '\0';
	}
	for (char *c = buf; *c; c++)
		*c = *c == '_' ? ' ' : *c;
	return buf;
}

static const char *info_value(const char *key, const json_t *value, char *buf, size_t len)
{
	json_int_t number = json_integer_value(value);
	char text[32];

	if (json_is_string(value))
		snprintf(buf, len, "%s", json_string_value(value));
	else if (json_is_boolean(value))
		snprintf(buf, len, "%s", json_is_true(value) ? "yes" : "no");
	else if (json_is_null(value))
		snprintf(buf, len, "none");
	else if (info_ends_with(key, "_seconds") || strcmp(key, "seconds") == 0)
		ub_cli_duration((uint64_t)(json_number_value(value) * 1000), buf, len);
	else if (info_ends_with(key, "_ms"))
		ub_cli_duration((uint64_t)json_number_value(value), buf, len);
	else if ((info_ends_with(key, "_bytes") || strcmp(key, "bytes") == 0) && number >= 1024)
		snprintf(buf, len, "%s (%lld bytes)",
			 ub_size_format((uint64_t)number, text, sizeof(text)), (long long)number);
	else if (info_ends_with(key, "bytes"))
		snprintf(buf, len, "%lld bytes", (long long)number);
	else if (json_is_integer(value))
		snprintf(buf, len, "%lld", (long long)number);
	else
		snprintf(buf, len, "%.3f", json_real_value(value));
	return buf;
}

static void info_line(const char *prefix, const char *key, const json_t *value)
{
	char name[96], text[1024];

	printf("  %-*s %s\n", INFO_KEY_COLUMNS, info_key(prefix, key, name, sizeof(name)),
	       info_value(key, value, text, sizeof(text)));
}

/* A line a value; an object's lines begin with its name. */
static void info_print_rest(const char *prefix, json_t *object)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		char deeper[100];

		snprintf(deeper, sizeof(deeper), "%s%s ", prefix, key);
		if (json_is_object(value))
			info_print_rest(deeper, value);
		else
			info_line(prefix, key, value);
	}
}

/* "1 of 1", or "1 of 1 (4 were asked for)". */
static void info_print_connections(json_t *info)
{
	json_int_t online = json_integer_value(json_object_get(info, "connections_online"));
	json_int_t all = json_integer_value(json_object_get(info, "connections"));
	json_int_t asked = json_integer_value(json_object_get(info, "connections_asked"));

	if (all)
		printf("  %-*s %lld of %lld", INFO_KEY_COLUMNS, "connections", (long long)online,
		       (long long)all);
	if (all && asked > all)
		printf(" (%lld were asked for)", (long long)asked);
	if (all)
		printf("\n");
	json_object_del(info, "connections_online");
	json_object_del(info, "connections");
	json_object_del(info, "connections_asked");
}

/* First what everybody asks; then the rest, as it comes. */
static void info_print(const struct info_args *a, json_t *info)
{
	static const char *const first[] = { "source",	"size_bytes",	"read_only",
					     "used_by", "memory_bytes", "uptime_seconds" };
	static const char *const said[] = { "device", "name", "status", "health", "health_why" };
	const char *state = ub_cli_view_state(&a->view);
	bool is_healthy = ub_cli_view_is_healthy(&a->view);

	printf("/dev/ublkb%u (%s): %s%s%s\n", a->view.info.dev_id, a->view.state.name,
	       ub_cli_colour(is_healthy ? UB_CLI_GREEN : UB_CLI_RED), state,
	       ub_cli_colour(UB_CLI_PLAIN));
	ub_cli_view_print_remarks(&a->view);
	for (unsigned i = 0; i < UB_ARRAY_SIZE(first); i++) {
		json_t *value = json_object_get(info, first[i]);

		if (value && (!json_is_null(value) || strcmp(first[i], "used_by") == 0))
			info_line("", first[i], value);
		json_object_del(info, first[i]);
	}
	info_print_connections(info);
	for (unsigned i = 0; i < UB_ARRAY_SIZE(said); i++)
		json_object_del(info, said[i]);
	info_print_rest("", info);
}

int ub_cli_info(int argc, char **argv)
{
	static const struct argp argp = {
		.options = info_options,
		.parser = info_parse,
		.args_doc = "DEVICE",
		.doc = "Say what a device serves, to whom, and how it is."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  Exit status: 0 done, 1 "
		       "failed, 2 wrong usage.",
	};
	struct info_args a = { 0 };
	json_t *reply;

	if (ub_cli_parse(&argp, argc, argv, &a, &a.err) != 0)
		return ub_cli_error(&a.err, UB_EXIT_USAGE);
	reply = info_get(&a);
	if (!reply)
		return ub_cli_error(&a.err, ub_cli_find_status(&a.err));
	if (a.json)
		ub_cli_print_json(reply);
	else
		info_print(&a, reply);
	json_decref(reply);
	return UB_EXIT_DONE;
}
