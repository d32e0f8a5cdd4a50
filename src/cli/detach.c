/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge detach: takes a device away. */
#include <argp.h>
#include <errno.h>

#include "base/size.h"
#include "cli/cli.h"
#include "keeper/detach.h"
#include "keeper/find.h"

#define DETACH_DEFAULT_TIMEOUT_S 60
#define DETACH_MAX_TIMEOUT_S	 86400

enum { OPT_FORCE = 256, OPT_TIMEOUT };

static const struct argp_option detach_options[] = {
	{ "force", OPT_FORCE, NULL, 0, "Take it away though it is in use: whoever uses it gets errors", 0 },
	{ "timeout", OPT_TIMEOUT, "SECONDS", 0, "How long writing back and stopping may last (default: 60)",
	  0 },
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
		return -ub_number_parse(arg, "--timeout", 1, DETACH_MAX_TIMEOUT_S, &a->timeout_s, &a->err);
	case ARGP_KEY_ARG:
		if (a->device)
			return -ub_err_set(&a->err, EINVAL, "detach takes one device, not also '%s'", arg);
		a->device = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		return -ub_err_set(&a->err, EINVAL,
				   "detach which device? Give a number, /dev/ublkbN or a --name");
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int ub_cli_detach(int argc, char **argv)
{
	static const struct argp argp = {
		.options = detach_options,
		.parser = detach_parse,
		.args_doc = "DEVICE",
		.doc = "Write back what is dirty and take a ublk device away, whoever made it."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  Returns when the device is gone."
		       "  Exit status: 0 done, 1 failed, 2 wrong usage, 3 busy.",
	};
	struct detach_args a = { .timeout_s = DETACH_DEFAULT_TIMEOUT_S };
	uint64_t cookie;
	uint32_t dev_id;
	int status;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a) != 0)
		return ub_cli_error(&a.err, UB_EXIT_USAGE);
	if (ub_device_find(a.device, &dev_id, &cookie, &a.err) != 0)
		return ub_cli_error(&a.err, a.err.code == ENOENT ? UB_EXIT_FAILED : UB_EXIT_USAGE);
	status = ub_detach_run(dev_id, cookie, a.force, (unsigned)a.timeout_s, &a.err);
	return status == UB_EXIT_DONE ? status : ub_cli_error(&a.err, status);
}
