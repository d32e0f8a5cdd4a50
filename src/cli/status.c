/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge status: whether devices are healthy, for people and for scripts. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>

#include "base/size.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "cli/view.h"
#include "run/cookie.h"

#define STATUS_MAX_DEVICES 64

enum { OPT_JSON = 256, OPT_ALL };

static const struct argp_option status_options[] = {
	{ "all", OPT_ALL, NULL, 0, "Every device of ublk-bridge", 0 },
	{ "quiet", 'q', NULL, 0, "Print nothing: the exit status says it", 0 },
	{ "json", OPT_JSON, NULL, 0, "Print an array of objects, as list does", 0 },
	{ 0 },
};

struct status_args {
	const char *names[STATUS_MAX_DEVICES + 1];
	unsigned nr_names;
	bool all, quiet, json;
	struct ub_err err;
};

static error_t status_parse(int key, char *arg, struct argp_state *state)
{
	struct status_args *a = state->input;

	switch (key) {
	case OPT_ALL:
		a->all = true;
		return 0;
	case OPT_JSON:
		a->json = true;
		return 0;
	case 'q':
		a->quiet = true;
		return 0;
	case ARGP_KEY_ARG:
		if (a->nr_names == STATUS_MAX_DEVICES)
			return -ub_err_set(&a->err, E2BIG, "status takes at most %u devices",
					   STATUS_MAX_DEVICES);
		a->names[a->nr_names++] = arg;
		return 0;
	case ARGP_KEY_END:
		if (!a->nr_names == !a->all)
			return -ub_err_set(&a->err, EINVAL,
					   "status of which device? Give numbers, /dev/ublkbN, "
					   "names, or --all");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* Of another program's devices nobody has asked, unless they were named. */
static bool status_is_asked(const struct status_args *a, const struct ub_cli_view *view)
{
	return a->nr_names || view->is_stale || ub_cookie_is_ours(view->info.ublksrv_flags);
}

static void status_print(const struct ub_cli_view *view)
{
	bool is_healthy = ub_cli_view_is_healthy(view);
	char device[32], size[32];

	if (view->is_stale)
		printf("%s: ", view->state.name);
	else
		printf("%s%s%s%s: ", ub_cli_view_device(view, device, sizeof(device)),
		       view->has_state ? " (" : "", view->has_state ? view->state.name : "",
		       view->has_state ? ")" : "");
	printf("%s%s%s", ub_cli_colour(is_healthy ? UB_CLI_GREEN : UB_CLI_RED),
	       ub_cli_view_state(view), ub_cli_colour(UB_CLI_PLAIN));
	if (!view->is_stale)
		printf(", %s%s%s%s", ub_size_format(view->size_bytes, size, sizeof(size)),
		       view->read_only ? ", read only" : "", view->source[0] ? ", " : "",
		       view->source);
	printf("\n");
	ub_cli_view_print_remarks(view);
}

static int status_run(const struct status_args *a, const struct ub_cli_views *views)
{
	json_t *array = json_array();
	int status = UB_EXIT_DONE;

	for (unsigned i = 0; i < views->nr; i++) {
		const struct ub_cli_view *view = &views->list[i];

		if (!status_is_asked(a, view))
			continue;
		if (!ub_cli_view_is_healthy(view))
			status = UB_EXIT_UNHEALTHY;
		if (a->json)
			json_array_append_new(array, ub_cli_view_to_json(view));
		else if (!a->quiet)
			status_print(view);
	}
	if (a->json && !a->quiet)
		ub_cli_print_json(array);
	json_decref(array);
	return status;
}

int ub_cli_status(int argc, char **argv)
{
	static const struct argp argp = {
		.options = status_options,
		.parser = status_parse,
		.args_doc = "DEVICE...|--all",
		.doc = "Say whether devices are healthy: they take I/O, their source is reached, "
		       "and "
		       "none of their processes is missing."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  Exit status: 0 healthy, 1 "
		       "failed (there is no such device), 2 wrong usage, 4 degraded, offline, or "
		       "in need of help.",
	};
	struct status_args a = { .all = false };
	struct ub_cli_views views;
	int status;

	if (ub_cli_parse(&argp, argc, argv, &a, &a.err) != 0)
		return ub_cli_error(&a.err, UB_EXIT_USAGE);
	if (ub_cli_views_get(a.names, &views, &a.err) != 0)
		status = ub_cli_error(&a.err, ub_cli_find_status(&a.err));
	else
		status = status_run(&a, &views);
	ub_cli_views_free(&views);
	return status;
}
