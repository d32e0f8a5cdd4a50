/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge detach: takes a device away. */
#include <argp.h>
#include <errno.h>

#include "base/log.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "keeper/detach.h"
#include "keeper/find.h"
#include "keeper/rundir.h"

#define DETACH_DEFAULT_TIMEOUT_S 60
#define DETACH_MAX_TIMEOUT_S	 86400

enum { OPT_FORCE = 256, OPT_TIMEOUT };

static const struct argp_option detach_options[] = {
	{ "force", OPT_FORCE, NULL, 0,
	  "Take it away though it is in use: whoever uses it gets errors", 0 },
	{ "timeout", OPT_TIMEOUT, "SECONDS", 0,
	  "How long writing back and stopping may last (default: 60)", 0 },
	{ 0 },
};

struct detach_args {
	const char *device;
	bool force;
	uint64_t timeout_s;
	struct ub_err err;
};

static error_t detach_parse(int key, char *arg, struct argp_state *state)
{
	struct detach_args *a = state->input;

	switch (key) {
	case OPT_FORCE:
		a->force = true;
		return 0;
	case OPT_TIMEOUT:
		return -ub_number_parse(arg, "--timeout", 1, DETACH_MAX_TIMEOUT_S, &a->timeout_s,
					&a->err);
	default:
		return ub_cli_parse_device(key, arg, "detach", &a->device, &a->err);
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

int ub_cli_detach(int argc, char **argv)
{
	static const struct argp argp = {
		.options = detach_options,
		.parser = detach_parse,
		.args_doc = "DEVICE",
		.doc = "Write back what is dirty and take a ublk device away, whoever made it."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  Returns when the device is "
		       "gone."
		       "  Exit status: 0 done, 1 failed, 2 wrong usage, 3 busy.",
	};
	struct detach_args a = { .timeout_s = DETACH_DEFAULT_TIMEOUT_S };
	uint64_t cookie;
	uint32_t dev_id;
	int status;

	if (ub_cli_parse(&argp, argc, argv, &a, &a.err) != 0)
		return ub_cli_error(&a.err, UB_EXIT_USAGE);
	if (ub_device_find(a.device, &dev_id, &cookie, &a.err) == 0)
		status = ub_detach_run(dev_id, cookie, a.force, (unsigned)a.timeout_s, &a.err);
	else
		status = a.err.code == EINVAL || a.err.code == ERANGE ? UB_EXIT_USAGE :
									UB_EXIT_FAILED;
	/* A name that no device has, or that of a device which is gone (a name's has a cookie). */
	if (status == UB_EXIT_FAILED && (a.err.code == ENOENT || (a.err.code == ENODEV && cookie)))
		status = detach_sweep(a.device, &a.err);
	return status == UB_EXIT_DONE ? status : ub_cli_error(&a.err, status);
}
