/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Looking at devices from outside: the kernel's list, run directories, servers. Control plane.
 */
#include "cli/view.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ublk-bridge/backend.h>

#include "base/cleanup.h"
#include "base/size.h"
#include "cli/common.h"
#include "run/cookie.h"
#include "run/find.h"
#include "run/ask-server.h"
#include "run/describe.h"
#include "ublk/ctrl.h"

/* ---- one device ---------------------------------------------------------- */

static void view_look_at_ledger(struct ub_cli_view *view)
{
	struct ub_ledger_view ledger;

	if (!view->has_state || strcmp(view->state.backend, "nbd") != 0 ||
	    ub_ledger_view_open(&view->state, &ledger) != 0)
		return;
	view->has_ranges = true;
	ub_ledger_view_read(&ledger, view->size_bytes, &view->ranges);
	ub_ledger_view_close(&ledger);
}

/* Memory lives as long as one of the processes that have it. */
static bool view_is_lost(const struct ub_cli_view *view)
{
	cleanup_fd int fd = -1;

	if (!view->has_state || view->has_keeper || view->info.state == UBLK_S_DEV_LIVE ||
	    strcmp(view->state.backend, "nbd") == 0)
		return false;
	fd = ub_rundir_connect(view->state.name);
	return fd < 0;
}

/*
 * Only commands that take no lock of the device: GET_PARAMS would wait for a STOP that hangs, so
 * what is asked of a disk is asked of sysfs.
 */
bool ub_cli_view_get(struct ub_ctrl *ctrl, uint32_t id, struct ub_cli_view *view)
{
	struct ub_err ignored;
	uint64_t sectors, read_only;

	memset(view, 0, sizeof(*view));
	if (ub_ctrl_get_info(ctrl, id, &view->info, &ignored) != 0)
		return false;
	if (ub_cli_sysfs(id, "size", &sectors))
		view->size_bytes = sectors << 9;
	view->read_only = ub_cli_sysfs(id, "ro", &read_only) && read_only;
	view->has_state = ub_cookie_is_ours(view->info.ublksrv_flags) &&
			  ub_state_find(view->info.ublksrv_flags, &view->state) == 0;
	view->has_keeper = view->has_state && ub_rundir_is_held(view->state.name);
	view->has_health =
		view->has_state && ub_rundir_ask_health(view->state.name, &view->health, view->why,
							sizeof(view->why)) == 0;
	view->is_lost = view_is_lost(view);
	view_look_at_ledger(view);
	if (view->has_state)
		ub_describe_device(view->state.name, view->source, sizeof(view->source));
	return true;
}

const char *ub_cli_view_device(const struct ub_cli_view *view, char *buf, size_t len)
{
	if (view->is_stale)
		snprintf(buf, len, "-");
	else
		snprintf(buf, len, "/dev/ublkb%u", view->info.dev_id);
	return buf;
}

/* ---- how it is ----------------------------------------------------------- */

const char *ub_cli_view_kernel_state(const struct ub_cli_view *view)
{
	static const char *const names[] = { "dead", "live", "quiesced", "fail-io" };

	return view->info.state < UB_ARRAY_SIZE(names) ? names[view->info.state] : "unknown";
}

const char *ub_cli_view_health(const struct ub_cli_view *view)
{
	static const char *const names[] = {
		[UB_HEALTH_ONLINE] = "online",
		[UB_HEALTH_DEGRADED] = "degraded",
		[UB_HEALTH_OFFLINE] = "offline",
		[UB_HEALTH_FAILED] = "failed",
	};

	return view->has_health && view->health < UB_ARRAY_SIZE(names) ? names[view->health] : NULL;
}

const char *ub_cli_view_state(const struct ub_cli_view *view)
{
	const char *health = ub_cli_view_health(view);

	if (view->is_stale)
		return "stale";
	if (!ub_cookie_is_ours(view->info.ublksrv_flags))
		return ub_cli_view_kernel_state(view);
	if (!view->has_state)
		return "lost";
	if (view->info.state == UBLK_S_DEV_DEAD)
		return view->has_keeper ? "starting" : "dead";
	if (view->info.state != UBLK_S_DEV_LIVE)
		return view->has_keeper ? "recovering" : "dead";
	if (health && view->health != UB_HEALTH_ONLINE)
		return health;
	if (!view->has_keeper)
		return "orphan";
	if (!health)
		return "silent";
	return view->state.is_migrating ? "migrating" : health;
}

bool ub_cli_view_is_healthy(const struct ub_cli_view *view)
{
	const char *state = ub_cli_view_state(view);

	return strcmp(state, "online") == 0 || strcmp(state, "migrating") == 0 ||
	       strcmp(state, "live") == 0;
}

const char *ub_cli_view_remedy(const struct ub_cli_view *view)
{
	if (view->is_stale)
		return view->has_keeper ? NULL :
					  "detach it by its name, or attach another device with "
					  "that name";
	if (view->info.state == UBLK_S_DEV_DEAD && !view->has_keeper)
		return "nobody serves it: detach it";
	if (!view->has_state || view->has_keeper)
		return NULL;
	if (view->info.state == UBLK_S_DEV_LIVE)
		return "its keeper is gone: recover it";
	return view->is_lost ? "all its processes are dead, and its memory is lost: detach it" :
			       "nobody serves it: recover it, or detach it with --force";
}

/* The verb that the remedy begins with. */
static const char *view_remedy_verb(const struct ub_cli_view *view)
{
	return view->is_stale || view->is_lost || view->info.state == UBLK_S_DEV_DEAD ? "detach" :
											"recover";
}

/* ---- run directories without a device ------------------------------------ */

/* What is wrong with it; NULL: nothing, or it is somebody's who attaches or detaches just now. */
static const char *view_stale(const char *name, const struct ub_cli_views *views, bool is_held)
{
	struct ub_state state;
	int ret = ub_state_read(name, &state);

	/* In the list by its cookie, even if the name in it is another's. */
	for (unsigned i = 0; i < views->nr && ret == 0; i++) {
		if (views->list[i].has_state && views->list[i].state.cookie == state.cookie &&
		    strcmp(views->list[i].state.name, name) == 0)
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

static void views_add_stale(struct ub_cli_views *views, const char *name)
{
	bool is_held = ub_rundir_is_held(name);
	const char *why = view_stale(name, views, is_held);
	struct ub_cli_view *view = &views->list[views->nr];

	if (!why)
		return;
	memset(view, 0, sizeof(*view));
	view->is_stale = true;
	view->has_keeper = is_held;
	snprintf(view->state.name, sizeof(view->state.name), "%s", name);
	snprintf(view->why, sizeof(view->why), "%s", why);
	views->nr++;
}

/* ---- all of them --------------------------------------------------------- */

static int view_compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* The ids of all /dev/ublkcN, sorted; how many, or -errno. */
static int view_ids(uint32_t **ids, struct ub_err *err)
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
		qsort(*ids, (size_t)nr, sizeof(**ids), view_compare);
	return nr;
}

static int views_collect(struct ub_ctrl *ctrl, struct ub_cli_views *views, struct ub_err *err)
{
	cleanup_free uint32_t *ids = NULL;
	char **names = NULL;
	int nr = view_ids(&ids, err), nr_names;

	if (nr < 0)
		return nr;
	nr_names = ub_rundir_names(&names);
	if (nr_names < 0)
		return ub_err_errno(err, -nr_names, "the run directories");
	views->list = calloc((size_t)(nr + nr_names) + 1, sizeof(*views->list));
	for (int i = 0; i < nr && ids && views->list; i++)
		views->nr += ub_cli_view_get(ctrl, ids[i], &views->list[views->nr]);
	for (int i = 0; i < nr_names; i++) {
		if (views->list)
			views_add_stale(views, names[i]);
		free(names[i]);
	}
	free(names);
	return views->list ? 0 : ub_err_errno(err, ENOMEM, "the list of devices");
}

/* Which of them a word means; views->nr: none, with *err. */
static unsigned views_find(const struct ub_cli_views *views, const char *name, struct ub_err *err)
{
	uint64_t cookie = 0;
	uint32_t id = 0;
	unsigned i;

	for (i = 0; i < views->nr; i++) {
		if (views->list[i].is_stale && strcmp(views->list[i].state.name, name) == 0)
			return i;
	}
	if (ub_device_find(name, &id, &cookie, err) != 0)
		return views->nr;
	for (i = 0; i < views->nr; i++) {
		if (!views->list[i].is_stale && views->list[i].info.dev_id == id)
			return i;
	}
	ub_err_set(err, ENODEV, "there is no device %u: see 'ublk-bridge list'", id);
	return i;
}

static int views_choose(struct ub_cli_views *views, const char *const names[], struct ub_err *err)
{
	cleanup_free bool *wanted = calloc(views->nr + 1, sizeof(*wanted));
	unsigned nr = 0;

	if (!wanted)
		return ub_err_errno(err, ENOMEM, "the list of devices");
	for (unsigned i = 0; names[i]; i++) {
		unsigned found = views_find(views, names[i], err);

		if (found == views->nr)
			return -err->code;
		wanted[found] = true;
	}
	for (unsigned i = 0; i < views->nr; i++) {
		if (wanted[i])
			views->list[nr++] = views->list[i];
	}
	views->nr = nr;
	return 0;
}

int ub_cli_views_get(const char *const names[], struct ub_cli_views *views, struct ub_err *err)
{
	struct ub_ctrl ctrl;
	int ret;

	*views = (struct ub_cli_views){ .nr = 0 };
	ret = ub_rundir_check_rights(err);
	if (ret == 0)
		ret = ub_ctrl_open(&ctrl, err);
	if (ret)
		return ret;
	ret = views_collect(&ctrl, views, err);
	ub_ctrl_close(&ctrl);
	return ret || !names || !names[0] ? ret : views_choose(views, names, err);
}

void ub_cli_views_free(struct ub_cli_views *views)
{
	free(views->list);
	*views = (struct ub_cli_views){ .nr = 0 };
}

/* ---- as JSON ------------------------------------------------------------- */

static json_t *view_stale_to_json(const struct ub_cli_view *view)
{
	return json_pack("{s:n, s:n, s:s, s:s, s:s, s:n, s:n, s:n, s:n, s:n, s:n, s:n, s:n, s:b, "
			 "s:n, s:n, s:s, s:s?, s:n}",
			 "id", "device", "name", view->state.name, "state", "stale", "status",
			 "stale", "size_bytes", "read_only", "queues", "depth", "max_io_bytes",
			 "data_path", "server_pid", "keeper_pid", "ours", 1, "backend", "health",
			 "health_why", view->why, "remedy", ub_cli_view_remedy(view), "source");
}

json_t *ub_cli_view_to_json(const struct ub_cli_view *view)
{
	char device[32];
	json_t *json;

	if (view->is_stale) {
		json = view_stale_to_json(view);
		ub_ranges_to_json(NULL, NULL, json);
		return json;
	}
	ub_cli_view_device(view, device, sizeof(device));
	json = json_pack("{s:i, s:s, s:s?, s:s, s:s, s:I, s:b, s:i, s:i, s:i, s:s, s:i, s:o, s:b, "
			 "s:s?, s:s?, s:s?, s:s?, s:s?}",
			 "id", (int)view->info.dev_id, "device", device, "name",
			 view->has_state ? view->state.name : NULL, "state",
			 ub_cli_view_kernel_state(view), "status", ub_cli_view_state(view),
			 "size_bytes", (json_int_t)view->size_bytes, "read_only",
			 (int)view->read_only, "queues", (int)view->info.nr_hw_queues, "depth",
			 (int)view->info.queue_depth, "max_io_bytes",
			 (int)view->info.max_io_buf_bytes, "data_path",
			 ub_cli_data_path(view->info.flags), "server_pid",
			 (int)view->info.ublksrv_pid, "keeper_pid",
			 view->has_keeper ? json_integer(view->state.keeper_pid) : json_null(),
			 "ours", (int)ub_cookie_is_ours(view->info.ublksrv_flags), "backend",
			 view->has_state ? view->state.backend : NULL, "health",
			 ub_cli_view_health(view), "health_why",
			 view->has_health && view->why[0] ? view->why : NULL, "remedy",
			 ub_cli_view_remedy(view), "source", view->source[0] ? view->source : NULL);
	ub_ranges_to_json(view->has_ranges ? &view->ranges : NULL, NULL, json);
	return json;
}

/* ---- in words ------------------------------------------------------------ */

/* What lost connections may still do, or may have lost. */
static void view_print_ranges(const struct ub_ranges *r)
{
	char what[200];

	if (r->nr)
		printf("  %s\n", ub_ranges_describe_wait(r, what, sizeof(what)));
	if (r->nr_losses)
		printf("  %s may be lost: the server had answered it and not flushed it\n",
		       ub_size_format(r->lost_bytes, what, sizeof(what)));
}

void ub_cli_view_print_remarks(const struct ub_cli_view *view)
{
	const char *remedy = ub_cli_view_remedy(view);
	char number[16];

	if (view->is_stale) {
		if (remedy)
			printf("  %s: %s (ublk-bridge detach %s)\n", view->why, remedy,
			       view->state.name);
		else
			printf("  %s\n", view->why);
		return;
	}
	/* which begins with the server's name, and how it is */
	if (view->has_health && view->health != UB_HEALTH_ONLINE)
		printf("  %s\n", view->why);
	view_print_ranges(&view->ranges);
	snprintf(number, sizeof(number), "%u", view->info.dev_id);
	if (remedy)
		printf("  %s (ublk-bridge %s %s)\n", remedy, view_remedy_verb(view),
		       view->has_state ? view->state.name : number);
}
