/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ublk-bridge list: every ublk device that the kernel knows, ours or not, and run directories that
 * have none.
 */
#include <argp.h>
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ublk-bridge/backend.h>

#include "base/cleanup.h"
#include "base/size.h"
#include "cli/cli.h"
#include "run/ask-server.h"
#include "run/cookie.h"
#include "run/describe.h"
#include "run/ranges.h"
#include "run/rundir.h"
#include "run/state.h"
#include "ublk/ctrl.h"

enum { OPT_JSON = 256 };

static const struct argp_option list_options[] = {
	{ "json", OPT_JSON, NULL, 0, "Print an array of objects", 0 },
	{ 0 },
};

struct list_args {
	bool json;
	struct ub_err err;
};

struct list_row {
	struct ublksrv_ctrl_dev_info info;
	uint64_t size_bytes; /* 0: it has no disk */
	bool read_only;
	struct ub_state state;
	bool has_state, has_keeper;
	bool has_health;
	unsigned health; /* enum ub_health */
	char why[512];
	char source[256]; /* what it is made of; "": nobody knows */
	bool has_ranges;  /* an NBD device's, where it could be looked at */
	struct ub_ranges ranges;
};

static error_t list_parse(int key, char *arg, struct argp_state *state)
{
	struct list_args *a = state->input;

	if (key == OPT_JSON)
		a->json = true;
	else if (key == ARGP_KEY_ARG)
		return -ub_err_set(&a->err, EINVAL, "list takes no argument, such as '%s'", arg);
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

static int list_compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* The ids of all /dev/ublkcN, sorted; how many, or -errno. */
static int list_find(uint32_t **ids, struct ub_err *err)
{
	DIR *dir = opendir("/dev");
	struct dirent *entry;
	int nr = 0;

	*ids = NULL;
	if (!dir)
		return ub_err_errno(err, errno, "/dev");
	while ((entry = readdir(dir))) {
		uint32_t *more;
		unsigned id;

		if (sscanf(entry->d_name, "ublkc%u", &id) != 1)
			continue;
		more = realloc(*ids, ((size_t)nr + 1) * sizeof(**ids));
		if (!more) {
			closedir(dir);
			return ub_err_errno(err, ENOMEM, "the list of devices");
		}
		*ids = more;
		more[nr++] = id;
	}
	closedir(dir);
	if (nr)
		qsort(*ids, (size_t)nr, sizeof(**ids), list_compare);
	return nr;
}

bool ub_cli_sysfs(uint32_t id, const char *name, uint64_t *value)
{
	char path[64];
	FILE *file;
	bool found;

	snprintf(path, sizeof(path), "/sys/block/ublkb%u/%s", id, name);
	file = fopen(path, "re");
	if (!file)
		return false;
	found = fscanf(file, "%" SCNu64, value) == 1;
	fclose(file);
	return found;
}

/*
 * False when the device is gone by now. Only commands that take no lock of the device: GET_PARAMS
 * would wait for a STOP that hangs, so what is asked of a disk is asked of sysfs.
 */
static void list_look_at_ledger(struct list_row *row)
{
	struct ub_ledger_view view;

	if (!row->has_state || strcmp(row->state.backend, "nbd") != 0 ||
	    ub_ledger_view_open(&row->state, &view) != 0)
		return;
	row->has_ranges = true;
	ub_ledger_view_read(&view, row->size_bytes, &row->ranges);
	ub_ledger_view_close(&view);
}

static bool list_get(struct ub_ctrl *ctrl, uint32_t id, struct list_row *row)
{
	struct ub_err ignored;
	uint64_t sectors, read_only;

	memset(row, 0, sizeof(*row));
	if (ub_ctrl_get_info(ctrl, id, &row->info, &ignored) != 0)
		return false;
	if (ub_cli_sysfs(id, "size", &sectors))
		row->size_bytes = sectors << 9;
	row->read_only = ub_cli_sysfs(id, "ro", &read_only) && read_only;
	row->has_state = ub_cookie_is_ours(row->info.ublksrv_flags) &&
			 ub_state_find(row->info.ublksrv_flags, &row->state) == 0;
	row->has_keeper = row->has_state && ub_rundir_is_held(row->state.name);
	row->has_health = row->has_state && ub_rundir_ask_health(row->state.name, &row->health,
								 row->why, sizeof(row->why)) == 0;
	list_look_at_ledger(row);
	if (row->has_state)
		ub_describe_device(row->state.name, row->source, sizeof(row->source));
	return true;
}

static const char *list_state(const struct list_row *row)
{
	static const char *const names[] = { "dead", "live", "quiesced", "fail-io" };

	return row->info.state < 4 ? names[row->info.state] : "unknown";
}

/* How what stands behind it is; NULL: it cannot be asked. */
static const char *list_health(const struct list_row *row)
{
	static const char *const names[] = {
		[UB_HEALTH_ONLINE] = "online",
		[UB_HEALTH_DEGRADED] = "degraded",
		[UB_HEALTH_OFFLINE] = "offline",
		[UB_HEALTH_FAILED] = "failed",
	};

	return row->has_health && row->health < UB_ARRAY_SIZE(names) ? names[row->health] : NULL;
}

const char *ub_cli_data_path(uint64_t flags)
{
	if (flags & (UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG))
		return "zero-copy";
	if (flags & UBLK_F_USER_COPY)
		return "user-copy";
	return flags & UBLK_F_NEED_GET_DATA ? "get-data" : "copy";
}

/* What an operator can do about it; NULL: all is well. */
static const char *list_remedy(const struct list_row *row)
{
	if (row->info.state == UBLK_S_DEV_DEAD && !row->has_keeper)
		return "nobody serves it: detach it";
	if (row->has_state && !row->has_keeper)
		return row->info.state == UBLK_S_DEV_LIVE ?
			       "its keeper is gone: recover it" :
			       "nobody serves it: recover it, or detach it with --force";
	return NULL;
}

static void list_print_head(bool *has_head)
{
	if (!*has_head)
		printf("%-14s %-16s %-8s %-10s %6s %6s %-9s %8s %s\n", "DEVICE", "NAME", "STATE",
		       "SIZE", "QUEUES", "DEPTH", "PATH", "SERVER", "BACKEND");
	*has_head = true;
}

/* What lost connections may still do, or may have lost. */
static void list_print_ranges(const struct ub_ranges *r)
{
	char what[200];

	if (r->nr)
		printf("  %s\n", ub_ranges_describe_wait(r, what, sizeof(what)));
	if (r->nr_losses)
		printf("  %s may be gone, which the server had answered and not flushed\n",
		       ub_size_format(r->lost_bytes, what, sizeof(what)));
}

static void list_print(const struct list_row *row)
{
	char device[32], size[32];
	const char *remedy = list_remedy(row);
	bool ours = ub_cookie_is_ours(row->info.ublksrv_flags);

	snprintf(device, sizeof(device), "/dev/ublkb%u", row->info.dev_id);
	printf("%-14s %-16s %-8s %-10s %6u %6u %-9s %8d %s\n", device,
	       row->has_state ? row->state.name : "-", list_state(row),
	       ub_size_format(row->size_bytes, size, sizeof(size)), row->info.nr_hw_queues,
	       row->info.queue_depth, ub_cli_data_path(row->info.flags), row->info.ublksrv_pid,
	       row->has_state ? row->state.backend :
	       ours	      ? "(run directory lost)" :
				"(another program's)");
	if (row->source[0])
		printf("  %s%s%s\n", row->source, list_health(row) ? ": " : "",
		       list_health(row) ? list_health(row) : "");
	if (row->has_health && row->health != UB_HEALTH_ONLINE)
		printf("  %s\n", row->why); /* which begins with the server's name, and how it is */
	list_print_ranges(&row->ranges);
	if (remedy)
		printf("  %s (ublk-bridge %s %u)\n", remedy,
		       row->info.state == UBLK_S_DEV_DEAD ? "detach" : "recover", row->info.dev_id);
}

static json_t *list_json(const struct list_row *row)
{
	char device[32];
	json_t *json;

	snprintf(device, sizeof(device), "/dev/ublkb%u", row->info.dev_id);
	json = json_pack("{s:i, s:s, s:s?, s:s, s:I, s:b, s:i, s:i, s:i, s:s, s:i, s:o, s:b, s:s?, "
			 "s:s?, s:s?, s:s?, s:s?}",
			 "id", (int)row->info.dev_id, "device", device, "name",
			 row->has_state ? row->state.name : NULL, "state", list_state(row),
			 "size_bytes", (json_int_t)row->size_bytes, "read_only",
			 (int)row->read_only, "queues", (int)row->info.nr_hw_queues, "depth",
			 (int)row->info.queue_depth, "max_io_bytes",
			 (int)row->info.max_io_buf_bytes, "data_path",
			 ub_cli_data_path(row->info.flags), "server_pid",
			 (int)row->info.ublksrv_pid, "keeper_pid",
			 row->has_keeper ? json_integer(row->state.keeper_pid) : json_null(),
			 "ours", (int)ub_cookie_is_ours(row->info.ublksrv_flags), "backend",
			 row->has_state ? row->state.backend : NULL, "health", list_health(row),
			 "health_why", row->has_health && row->why[0] ? row->why : NULL, "remedy",
			 list_remedy(row), "source", row->source[0] ? row->source : NULL);
	ub_ranges_to_json(row->has_ranges ? &row->ranges : NULL, NULL, json);
	return json;
}

/* ---- run directories without a device ------------------------------------ */

/* What is wrong with it; NULL: nothing, or it is somebody's who attaches or detaches just now. */
static const char *list_stale(const char *name, const struct list_row rows[], int nr)
{
	struct ub_state state;
	int ret = ub_state_read(name, &state);
	bool is_held = ub_rundir_is_held(name);

	/* In the rows by its cookie, even if the name in it is another's. */
	for (int i = 0; i < nr && ret == 0; i++) {
		if (rows[i].has_state && rows[i].state.cookie == state.cookie &&
		    strcmp(rows[i].state.name, name) == 0)
			return NULL;
	}
	if (is_held)
		return ret == -EBADMSG ?
			       "its state.json cannot be understood, and a keeper holds it" :
			       NULL;
	if (ret == 0)
		return "its device is gone";
	return ret == -EBADMSG ? "its state.json cannot be understood" :
				 "its state.json cannot be read";
}

static const char *list_stale_remedy(const char *name)
{
	return ub_rundir_is_held(name) ?
		       NULL :
		       "detach it by its name, or attach another device with that name";
}

static void list_print_stale(const char *name, const char *why)
{
	const char *remedy = list_stale_remedy(name);

	printf("%-14s %-16s %-8s %-10s %6s %6s %-9s %8s %s\n", "-", name, "stale", "-", "-", "-",
	       "-", "-", "-");
	if (remedy)
		printf("  %s: %s (ublk-bridge detach %s)\n", why, remedy, name);
	else
		printf("  %s\n", why);
}

static json_t *list_stale_json(const char *name, const char *why)
{
	json_t *json;

	json = json_pack("{s:n, s:n, s:s, s:s, s:n, s:n, s:n, s:n, s:n, s:n, s:n, s:n, s:b, s:n, "
			 "s:n, s:s, s:s?, s:n}",
			 "id", "device", "name", name, "state", "stale", "size_bytes", "read_only",
			 "queues", "depth", "max_io_bytes", "data_path", "server_pid", "keeper_pid",
			 "ours", 1, "backend", "health", "health_why", why, "remedy",
			 list_stale_remedy(name), "source");
	ub_ranges_to_json(NULL, NULL, json);
	return json;
}

/* How many there are. */
static int list_all_stale(const struct list_row rows[], int nr_rows, json_t *array, bool *has_head)
{
	char **names;
	int nr = ub_rundir_names(&names);

	for (int i = 0; i < nr; i++) {
		const char *why = list_stale(names[i], rows, nr_rows);

		if (why && array)
			json_array_append_new(array, list_stale_json(names[i], why));
		else if (why) {
			list_print_head(has_head);
			list_print_stale(names[i], why);
		}
		free(names[i]);
	}
	free(names);
	return nr;
}

static int list_all(struct ub_ctrl *ctrl, bool json, struct ub_err *err)
{
	json_t *array = json ? json_array() : NULL;
	cleanup_free struct list_row *rows = NULL;
	cleanup_free uint32_t *ids = NULL;
	bool has_head = false;
	int nr = list_find(&ids, err), nr_rows = 0;

	assert(ids || nr <= 0);
	if (nr > 0)
		rows = calloc((size_t)nr, sizeof(*rows));
	if (nr > 0 && !rows)
		nr = ub_err_errno(err, ENOMEM, "the list of devices");
	assert(rows || nr <= 0);
	for (int i = 0; i < nr; i++) {
		struct list_row *row = &rows[nr_rows];

		if (!list_get(ctrl, ids[i], row))
			continue;
		nr_rows++;
		if (json) {
			json_array_append_new(array, list_json(row));
		} else {
			list_print_head(&has_head);
			list_print(row);
		}
	}
	if (nr >= 0) {
		int ret = list_all_stale(rows, nr_rows, array, &has_head);

		if (ret < 0)
			nr = ub_err_errno(err, -ret, "the run directories");
	}
	if (json && nr >= 0) {
		json_dumpf(array, stdout, JSON_INDENT(2));
		printf("\n");
	}
	json_decref(array);
	return nr < 0 ? nr : 0;
}

int ub_cli_list(int argc, char **argv)
{
	static const struct argp argp = {
		.options = list_options,
		.parser = list_parse,
		.doc = "List every ublk device of this machine, whoever made it."
		       "\vExit status: 0 done, 1 failed, 2 wrong usage.",
	};
	struct list_args a = { 0 };
	struct ub_ctrl ctrl;
	int ret;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a) != 0)
		return ub_cli_error(&a.err, UB_EXIT_USAGE);
	if (ub_rundir_check_rights(&a.err) != 0 || ub_ctrl_open(&ctrl, &a.err) != 0)
		return ub_cli_error(&a.err, UB_EXIT_FAILED);
	ret = list_all(&ctrl, a.json, &a.err);
	ub_ctrl_close(&ctrl);
	return ret ? ub_cli_error(&a.err, UB_EXIT_FAILED) : UB_EXIT_DONE;
}
