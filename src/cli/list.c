/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ublk-bridge list: every ublk device that the kernel knows, ours or not, and run directories that
 * have none.
 */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "cli/view.h"
#include "run/cookie.h"

#define LIST_MAX_COLUMNS  16
#define LIST_MAX_DEVICES  64
#define LIST_CELL_BYTES	  260
#define LIST_NAME_COLUMNS 24 /* of a name, on a terminal */
#define LIST_MIN_LAST	  12 /* of what stands last, however narrow the terminal is */
#define LIST_COLUMNS	  "DEVICE,NAME,STATE,SIZE,RO,SOURCE"
#define LIST_WIDE \
	"DEVICE,NAME,STATE,SIZE,RO,BACKEND,QUEUES,DEPTH,DATA-PATH,KEEPER,SERVER,KERNEL,SOURCE"

enum { OPT_JSON = 256, OPT_WIDE };

static const struct argp_option list_options[] = {
	{ "columns", 'o', "COLUMNS", 0,
	  "Print these alone, such as NAME,STATE,SOURCE: a line a device, and no remarks", 0 },
	{ "wide", OPT_WIDE, NULL, 0, "Print all columns", 0 },
	{ "json", OPT_JSON, NULL, 0, "Print an array of objects", 0 },
	{ 0 },
};

/* ---- columns ------------------------------------------------------------- */

struct list_column {
	const char *name;
	bool is_number; /* and stands at the right of its column */
	void (*write)(const struct ub_cli_view *view, char *buf, size_t len);
};

static void list_device(const struct ub_cli_view *view, char *buf, size_t len)
{
	ub_cli_view_device(view, buf, len);
}

static void list_name(const struct ub_cli_view *view, char *buf, size_t len)
{
	snprintf(buf, len, "%s", view->has_state || view->is_stale ? view->state.name : "-");
}

static void list_state(const struct ub_cli_view *view, char *buf, size_t len)
{
	snprintf(buf, len, "%s", ub_cli_view_state(view));
}

static void list_kernel(const struct ub_cli_view *view, char *buf, size_t len)
{
	snprintf(buf, len, "%s", ub_cli_view_kernel_state(view));
}

static void list_size(const struct ub_cli_view *view, char *buf, size_t len)
{
	ub_size_format(view->size_bytes, buf, len);
}

static void list_read_only(const struct ub_cli_view *view, char *buf, size_t len)
{
	snprintf(buf, len, "%d", view->read_only);
}

static void list_backend(const struct ub_cli_view *view, char *buf, size_t len)
{
	snprintf(buf, len, "%s", view->has_state ? view->state.backend : "-");
}

static void list_queues(const struct ub_cli_view *view, char *buf, size_t len)
{
	snprintf(buf, len, "%u", view->info.nr_hw_queues);
}

static void list_depth(const struct ub_cli_view *view, char *buf, size_t len)
{
	snprintf(buf, len, "%u", view->info.queue_depth);
}

static void list_path(const struct ub_cli_view *view, char *buf, size_t len)
{
	snprintf(buf, len, "%s", ub_cli_data_path(view->info.flags));
}

static void list_keeper(const struct ub_cli_view *view, char *buf, size_t len)
{
	if (view->has_keeper)
		snprintf(buf, len, "%d", view->state.keeper_pid);
}

static void list_server(const struct ub_cli_view *view, char *buf, size_t len)
{
	if (view->info.ublksrv_pid > 0)
		snprintf(buf, len, "%d", view->info.ublksrv_pid);
}

static void list_source(const struct ub_cli_view *view, char *buf, size_t len)
{
	if (view->source[0])
		snprintf(buf, len, "%s", view->source);
	else if (!ub_cookie_is_ours(view->info.ublksrv_flags))
		snprintf(buf, len, "(another program's)");
	else if (!view->has_state)
		snprintf(buf, len, "(run directory lost)");
}

static const struct list_column list_columns[] = {
	{ "DEVICE", false, list_device },   { "NAME", false, list_name },
	{ "STATE", false, list_state },	    { "SIZE", false, list_size },
	{ "RO", false, list_read_only },    { "SOURCE", false, list_source },
	{ "BACKEND", false, list_backend }, { "QUEUES", true, list_queues },
	{ "DEPTH", true, list_depth },	    { "DATA-PATH", false, list_path },
	{ "KEEPER", true, list_keeper },    { "SERVER", true, list_server },
	{ "KERNEL", false, list_kernel },
};

/* ---- the command line ---------------------------------------------------- */

struct list_args {
	const char *names[LIST_MAX_DEVICES + 1];
	unsigned nr_names;
	const struct list_column *columns[LIST_MAX_COLUMNS];
	unsigned nr_columns;
	bool json, are_chosen;
	struct ub_err err;
};

static int list_add_column(struct list_args *a, const char *name, size_t len)
{
	const char *names[UB_ARRAY_SIZE(list_columns) + 1] = { NULL }, *meant;
	char word[24];

	snprintf(word, sizeof(word), "%.*s", (int)(len < 20 ? len : 20), name);
	for (unsigned i = 0; i < UB_ARRAY_SIZE(list_columns); i++) {
		names[i] = list_columns[i].name;
		if (strcasecmp(word, names[i]) != 0)
			continue;
		if (a->nr_columns == LIST_MAX_COLUMNS)
			return ub_err_set(&a->err, E2BIG, "--columns: %u are the most",
					  LIST_MAX_COLUMNS);
		a->columns[a->nr_columns++] = &list_columns[i];
		return 0;
	}
	for (char *c = word; *c; c++)
		*c = *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c;
	meant = ub_cli_nearest(word, names);
	return ub_err_set(&a->err, EINVAL,
			  "--columns: there is no column '%.*s'%s%s: there are " LIST_WIDE,
			  (int)(len < 60 ? len : 60), name, meant ? ". Did you mean " : "",
			  meant ? meant : "");
}

static int list_take_columns(struct list_args *a, const char *list)
{
	int ret = 0;

	a->nr_columns = 0;
	while (ret == 0) {
		size_t len = strcspn(list, ",");

		ret = list_add_column(a, list, len);
		if (!list[len])
			break;
		list += len + 1;
	}
	return ret;
}

static error_t list_parse(int key, char *arg, struct argp_state *state)
{
	struct list_args *a = state->input;

	switch (key) {
	case OPT_JSON:
		a->json = true;
		return 0;
	case OPT_WIDE:
		return -list_take_columns(a, LIST_WIDE);
	case 'o':
		a->are_chosen = true;
		return -list_take_columns(a, arg);
	case ARGP_KEY_ARG:
		if (a->nr_names == LIST_MAX_DEVICES)
			return -ub_err_set(&a->err, E2BIG, "list takes at most %u devices",
					   LIST_MAX_DEVICES);
		a->names[a->nr_names++] = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- the table ----------------------------------------------------------- */

static const char *list_cell(const struct list_column *column, const struct ub_cli_view *view,
			     char *buf)
{
	bool is_kernels = column->write != list_device && column->write != list_name &&
			  column->write != list_state && column->write != list_keeper;

	snprintf(buf, LIST_CELL_BYTES, "-");
	if (!view->is_stale || !is_kernels)
		column->write(view, buf, LIST_CELL_BYTES);
	if (ub_cli_columns() && column->write == list_name)
		ub_cli_cut(buf, LIST_NAME_COLUMNS);
	return buf;
}

/* The last one has what the others leave of a terminal. */
static void list_measure(const struct list_args *a, const struct ub_cli_views *views,
			 size_t widths[])
{
	size_t used = 0, columns = ub_cli_columns();
	char cell[LIST_CELL_BYTES];

	for (unsigned c = 0; c < a->nr_columns; c++) {
		widths[c] = strlen(a->columns[c]->name);
		for (unsigned i = 0; i < views->nr; i++) {
			size_t width =
				ub_cli_width(list_cell(a->columns[c], &views->list[i], cell));

			widths[c] = width > widths[c] ? width : widths[c];
		}
		used += c + 1 < a->nr_columns ? widths[c] + 1 : 0;
	}
	if (columns)
		widths[a->nr_columns - 1] =
			columns > used + LIST_MIN_LAST ? columns - used : LIST_MIN_LAST;
}

static const char *list_colour(const struct list_column *column, const struct ub_cli_view *view)
{
	if (column->write != list_state)
		return "";
	if (ub_cli_view_is_healthy(view))
		return ub_cli_colour(UB_CLI_GREEN);
	return ub_cli_colour(strcmp(ub_cli_view_state(view), "recovering") == 0 ? UB_CLI_YELLOW :
										  UB_CLI_RED);
}

static void list_print_cell(const char *text, const char *colour, size_t width, bool is_number,
			    bool is_last)
{
	char cut[LIST_CELL_BYTES];
	size_t is, pad;

	snprintf(cut, sizeof(cut), "%s", text);
	is = ub_cli_width(cut);
	if (is_last && ub_cli_columns() && is > width) {
		ub_cli_cut(cut, width - 3);
		strcat(cut, "...");
		is = width;
	}
	pad = is < width ? width - is : 0;
	printf("%*s%s%s%s%*s%s", is_number ? (int)pad : 0, "", colour, cut,
	       *colour ? ub_cli_colour(UB_CLI_PLAIN) : "", is_number || is_last ? 0 : (int)pad, "",
	       is_last ? "\n" : " ");
}

static void list_print(const struct list_args *a, const struct ub_cli_views *views)
{
	size_t widths[LIST_MAX_COLUMNS];
	char cell[LIST_CELL_BYTES];

	if (!views->nr)
		return;
	list_measure(a, views, widths);
	for (unsigned c = 0; c < a->nr_columns; c++)
		list_print_cell(a->columns[c]->name, "", widths[c], a->columns[c]->is_number,
				c + 1 == a->nr_columns);
	for (unsigned i = 0; i < views->nr; i++) {
		for (unsigned c = 0; c < a->nr_columns; c++)
			list_print_cell(list_cell(a->columns[c], &views->list[i], cell),
					list_colour(a->columns[c], &views->list[i]), widths[c],
					a->columns[c]->is_number, c + 1 == a->nr_columns);
		if (!a->are_chosen)
			ub_cli_view_print_remarks(&views->list[i]);
	}
}

static void list_print_json(const struct ub_cli_views *views)
{
	json_t *array = json_array();

	for (unsigned i = 0; i < views->nr; i++)
		json_array_append_new(array, ub_cli_view_to_json(&views->list[i]));
	ub_cli_print_json(array);
	json_decref(array);
}

int ub_cli_list(int argc, char **argv)
{
	static const struct argp argp = {
		.options = list_options,
		.parser = list_parse,
		.args_doc = "[DEVICE...]",
		.doc = "List every ublk device of this machine, whoever made it; or these alone."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  COLUMNS are some "
		       "of " LIST_WIDE ".  Exit status: 0 done, 1 failed, 2 wrong usage.",
	};
	struct list_args a = { .json = false };
	struct ub_cli_views views;
	int ret;

	list_take_columns(&a, LIST_COLUMNS);
	if (ub_cli_parse(&argp, argc, argv, &a, &a.err) != 0)
		return ub_cli_error(&a.err, UB_EXIT_USAGE);
	ret = ub_cli_views_get(a.names, &views, &a.err);
	if (ret == 0 && a.json)
		list_print_json(&views);
	else if (ret == 0)
		list_print(&a, &views);
	ub_cli_views_free(&views);
	return ret ? ub_cli_error(&a.err, ub_cli_find_status(&a.err)) : UB_EXIT_DONE;
}
