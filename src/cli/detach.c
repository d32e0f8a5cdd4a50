/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge detach: takes devices away. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "cli/view.h"
#include "run/cookie.h"
#include "run/take-away.h"
#include "run/find.h"
#include "run/rundir.h"

#define DETACH_DEFAULT_TIMEOUT_S 60
#define DETACH_MAX_TIMEOUT_S	 86400
#define DETACH_MAX_DEVICES	 64

enum { OPT_FORCE = 256, OPT_TIMEOUT, OPT_ALL };

static const struct argp_option detach_options[] = {
	{ "all", OPT_ALL, NULL, 0, "Every device of ublk-bridge", 0 },
	{ "force", OPT_FORCE, NULL, 0,
	  "Take it away though it is in use: whoever uses it gets errors", 0 },
	{ "timeout", OPT_TIMEOUT, "SECONDS", 0,
	  "How long writing back and stopping may last, for each (default: 60)", 0 },
	{ 0 },
};

struct detach_args {
	const char *names[DETACH_MAX_DEVICES];
	unsigned nr_names;
	bool all, force;
	uint64_t timeout_s;
	struct ub_err err;
};

static error_t detach_parse(int key, char *arg, struct argp_state *state)
{
	struct detach_args *a = state->input;

	switch (key) {
	case OPT_ALL:
		a->all = true;
		return 0;
	case OPT_FORCE:
		a->force = true;
		return 0;
	case OPT_TIMEOUT:
		return -ub_number_parse(arg, "--timeout", 1, DETACH_MAX_TIMEOUT_S, &a->timeout_s,
					&a->err);
	case ARGP_KEY_ARG:
		if (a->nr_names == DETACH_MAX_DEVICES)
			return -ub_err_set(&a->err, E2BIG, "detach takes at most %u devices",
					   DETACH_MAX_DEVICES);
		a->names[a->nr_names++] = arg;
		return 0;
	case ARGP_KEY_END:
		if (a->all && a->nr_names)
			return -ub_err_set(&a->err, EINVAL,
					   "--all is every device: '%s' cannot stand beside it",
					   a->names[0]);
		if (!a->all && !a->nr_names)
			return -ub_err_set(&a->err, EINVAL,
					   "detach which device? Give a number, /dev/ublkbN, a "
					   "--name, or --all");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/*
 * A name whose device is gone, or whose state cannot be understood, so that nobody knows which it
 * was (*err says so): what is left of it goes. An exit status; *err stays if there is nothing of
 * that name.
 */
static int detach_sweep(const char *name, struct ub_err *err)
{
	struct ub_err ignored;
	int ret = ub_name_check(name, &ignored) == 0 ? ub_rundir_sweep(name) : -ENOENT;

	if (ret == 0) {
		ub_log(UB_LOG_NOTICE,
		       "'%s' has no device that is known: its run directory is removed", name);
		return UB_EXIT_DONE;
	}
	if (ret == -EBUSY) {
		ub_err_set(err, EBUSY,
			   "'%s' has no device, but a keeper: it is attaching or ending: try again",
			   name);
		return UB_EXIT_BUSY;
	}
	if (ret != -ENOENT)
		ub_err_errno(err, -ret,
			     "'%s' has no device, and its run directory cannot be removed", name);
	return UB_EXIT_FAILED;
}

/* An exit status; it has said why it is not 0. */
static int detach_one(const struct detach_args *a, const char *name)
{
	struct ub_err err = { 0 };
	uint64_t cookie = 0;
	uint32_t dev_id;
	int status;

	if (ub_device_find(name, &dev_id, &cookie, &err) == 0)
		status = ub_detach_run(dev_id, cookie, a->force, (unsigned)a->timeout_s, &err);
	else
		status = ub_cli_find_status(&err);
	/* A name that no device has, or that of a device which is gone (a name's has a cookie). */
	if (status == UB_EXIT_FAILED && (err.code == ENOENT || (err.code == ENODEV && cookie)))
		status = detach_sweep(name, &err);
	return status == UB_EXIT_DONE ? status : ub_cli_error(&err, status);
}

/*
 * The youngest first, which may stand on an older one. Those are not asked for that are another
 * program's, or have gone meanwhile.
 */
static int detach_all(struct detach_args *a)
{
	struct ub_cli_views views;
	int status = UB_EXIT_DONE;

	if (ub_cli_views_get(NULL, &views, &a->err) != 0)
		status = ub_cli_error(&a->err, UB_EXIT_FAILED);
	for (unsigned i = views.nr; i-- > 0;) {
		const struct ub_cli_view *view = &views.list[i];
		struct ub_err err = { 0 };
		int one;

		if (view->is_stale || !ub_cookie_is_ours(view->info.ublksrv_flags))
			continue;
		one = ub_detach_run(view->info.dev_id, view->info.ublksrv_flags, a->force,
				    (unsigned)a->timeout_s, &err);
		if (one != UB_EXIT_DONE && err.code != ENODEV)
			status = ub_cli_error(&err, one);
	}
	ub_cli_views_free(&views);
	return status;
}

int ub_cli_detach(int argc, char **argv)
{
	static const struct argp argp = {
		.options = detach_options,
		.parser = detach_parse,
		.args_doc = "DEVICE...|--all",
		.doc = "Write back what is dirty and take ublk devices away, whoever made them."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  Returns when the devices "
		       "are gone; one that stays does not keep the others."
		       "  Exit status: 0 done, 1 failed, 2 wrong usage, 3 busy.",
	};
	struct detach_args a = { .timeout_s = DETACH_DEFAULT_TIMEOUT_S };
	int status = UB_EXIT_DONE;

	if (ub_cli_parse(&argp, argc, argv, &a, &a.err) != 0)
		return ub_cli_error(&a.err, UB_EXIT_USAGE);
	if (a.all)
		return detach_all(&a);
	for (unsigned i = 0; i < a.nr_names; i++) {
		int one = detach_one(&a, a.names[i]);

		status = one != UB_EXIT_DONE ? one : status;
	}
	return status;
}
