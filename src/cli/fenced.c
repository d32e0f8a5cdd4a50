/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge fenced: somebody knows that an old server can write no more. */
#include <argp.h>
#include <errno.h>
#include <jansson.h>

#include "base/log.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "run/ask-keeper.h"
#include "run/state.h"
#include "run/find.h"

#define FENCED_TIMEOUT_MS 10000

struct fenced_args {
	const char *device;
	struct ub_err err;
};

static error_t fenced_parse(int key, char *arg, struct argp_state *state)
{
	struct fenced_args *a = state->input;

	return ub_cli_parse_device(key, arg, "fenced", &a->device, &a->err);
}

static int fenced_run(struct fenced_args *a)
{
	struct ub_state state;
	json_t *reply;
	json_int_t nr;
	char size[32];

	if (ub_device_find_state(a->device, &state, NULL, &a->err) != 0)
		return a->err.code == EINVAL ? UB_EXIT_USAGE : UB_EXIT_FAILED;
	if (ub_control_ask(state.name, json_pack("{s:s}", "verb", "fenced"), &reply,
			   FENCED_TIMEOUT_MS, &a->err) != 0)
		return UB_EXIT_FAILED;
	nr = json_integer_value(json_object_get(reply, "ranges"));
	ub_size_format((uint64_t)json_integer_value(json_object_get(reply, "bytes")), size,
		       sizeof(size));
	json_decref(reply);
	if (nr)
		ub_log(UB_LOG_NOTICE,
		       "/dev/ublkb%u: %" JSON_INTEGER_FORMAT
		       " range%s (%s) may be written again at once",
		       state.dev_id, nr, nr == 1 ? "" : "s", size);
	else
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: there was nothing to wait for", state.dev_id);
	return UB_EXIT_DONE;
}

int ub_cli_fenced(int argc, char **argv)
{
	static const struct argp argp = {
		.parser = fenced_parse,
		.args_doc = "DEVICE",
		.doc = "Say that the old server of a device can write no more: then nothing waits "
		       "for it."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  Stop that server first, or "
		       "have its"
		       " storage refuse it: this command does not.  What is lost from now on is "
		       "waited for"
		       " again.  Exit status: 0 done, 1 failed, 2 wrong usage.",
	};
	struct fenced_args a = { 0 };
	int status = UB_EXIT_USAGE;

	if (ub_cli_parse(&argp, argc, argv, &a, &a.err) == 0)
		status = fenced_run(&a);
	return status == UB_EXIT_DONE ? status : ub_cli_error(&a.err, status);
}
