/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ublk-bridge recover: a keeper for devices that have lost theirs; upgrade: another version takes
 * over.
 */
#include <argp.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "keeper/main.h"
#include "run/find.h"

#define RECOVER_PATIENCE_MS 10000 /* with one device, before the next one has its turn, too */
#define UPGRADE_MAX_WAIT_MS 90000 /* the old keeper waits for two minutes in all */

enum { OPT_ALL = 256, OPT_WAIT };

static const struct argp_option recover_options[] = {
	{ "all", OPT_ALL, NULL, 0, "Every device of this machine that needs it", 0 },
	{ "foreground", 'f', NULL, 0, "Do not return: serve in the foreground, as attach does", 0 },
	{ "verbose", 'v', NULL, 0, "Say more on stderr", 0 },
	{ 0 },
};

static const struct argp_option upgrade_options[] = {
	{ "all", OPT_ALL, NULL, 0, "Every device of this machine", 0 },
	{ "wait", OPT_WAIT, "DURATION", 0,
	  "While requests are in flight, try again for so long, at most 90s (default: 0)", 0 },
	{ "foreground", 'f', NULL, 0, "Do not return: serve in the foreground, as attach does", 0 },
	{ "verbose", 'v', NULL, 0, "Say more on stderr", 0 },
	{ 0 },
};

struct recover_args {
	const char *device;
	bool all, foreground;
	bool upgrade; /* the verb */
	uint64_t wait_ms;
	struct ub_err err;
};

static error_t recover_parse(int key, char *arg, struct argp_state *state)
{
	struct recover_args *a = state->input;

	switch (key) {
	case OPT_ALL:
		a->all = true;
		return 0;
	case OPT_WAIT:
		if (ub_duration_parse(arg, "--wait", &a->wait_ms, &a->err) != 0)
			return a->err.code;
		if (a->wait_ms > UPGRADE_MAX_WAIT_MS)
			return -ub_err_set(&a->err, ERANGE,
					   "--wait: %s is too long: 90s is the most", arg);
		return 0;
	case 'f':
		a->foreground = true;
		return 0;
	case 'v':
		ub_log_set_level(UB_LOG_DEBUG);
		return 0;
	case ARGP_KEY_ARG:
		if (a->device)
			return -ub_err_set(&a->err, EINVAL,
					   "%s takes one device, not also '%s': or --all",
					   a->upgrade ? "upgrade" : "recover", arg);
		a->device = arg;
		return 0;
	case ARGP_KEY_END:
		if (!a->device == !a->all)
			return -ub_err_set(&a->err, EINVAL,
					   "%s which device? Give a number, /dev/ublkbN, a --name, "
					   "or --all",
					   a->upgrade ? "upgrade" : "recover");
		if (a->all && a->foreground)
			return -ub_err_set(&a->err, EINVAL, "--foreground goes with one device");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int recover_one(const struct ub_state *state, const struct recover_args *a)
{
	/* What else there is to know stands in state.json, and is read by the keeper. */
	const struct ub_attach_options opts = { .daemon = !a->foreground,
						.side = { .kind = "", .fd = -1 },
						.upgrade = a->upgrade,
						.upgrade_wait_ms = a->wait_ms };
	struct ub_err err = { 0 };
	int status;

	if (!a->upgrade && ub_rundir_is_held(state->name)) {
		ub_log(UB_LOG_NOTICE,
		       "/dev/ublkb%u has its keeper (pid %d): there is nothing to recover",
		       state->dev_id, state->keeper_pid);
		return UB_EXIT_DONE;
	}
	/* Else no standby would ever open it, and that would come out when it is needed. */
	if (!ub_backend_find(state->backend, &err))
		return ub_cli_error(&err, UB_EXIT_FAILED);
	status = ub_attach_run(&opts, state->name);
	/* Somebody else was faster: that is a keeper, too. */
	return status == UB_EXIT_BUSY && !a->upgrade && ub_rundir_is_held(state->name) ?
		       UB_EXIT_DONE :
		       status;
}

struct recover_list {
	bool with_held;
	struct ub_state *states;
	unsigned nr;
	bool is_cut; /* no memory for more */
};

/* First all names, then one after the other: recovery changes what is read here. */
static bool recover_collect(const struct ub_state *state, void *arg)
{
	struct recover_list *list = arg;
	struct ub_state *more;

	if (!list->with_held && ub_rundir_is_held(state->name))
		return true;
	more = realloc(list->states, (list->nr + 1) * sizeof(*more));
	list->is_cut = !more;
	if (!more)
		return false;
	list->states = more;
	list->states[list->nr++] = *state;
	return true;
}

/*
 * Another process recovers it, so that a device that keeps everybody waiting does not keep the
 * others from it.
 */
static pid_t recover_begin(const struct ub_state *state, const struct recover_args *a)
{
	pid_t pid = fork();
	cleanup_fd int pidfd = pid > 0 ? pidfd_open(pid, 0) : -1;
	struct pollfd pfd = { .fd = pidfd, .events = POLLIN };

	if (pid == 0)
		exit(recover_one(state, a));
	if (pid < 0)
		ub_log(UB_LOG_ERROR, "/dev/ublkb%u: cannot start its keeper: %s", state->dev_id,
		       strerror(errno));
	else if (poll(&pfd, 1, RECOVER_PATIENCE_MS) == 0)
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u takes long to recover", state->dev_id);
	return pid;
}

static int recover_all(struct recover_args *a)
{
	struct recover_list list = { .with_held = a->upgrade };
	int status = UB_EXIT_DONE, one;
	cleanup_free pid_t *pids = NULL;

	ub_state_each(recover_collect, &list);
	pids = calloc(list.nr + 1, sizeof(*pids));
	if (list.is_cut || !pids)
		ub_err_errno(&a->err, ENOMEM, "the list of devices");
	for (unsigned i = 0; i < list.nr && pids; i++)
		pids[i] = recover_begin(&list.states[i], a);
	for (unsigned i = 0; i < list.nr && pids; i++) {
		if (pids[i] < 0 || waitpid(pids[i], &one, 0) < 0 || !WIFEXITED(one))
			status = UB_EXIT_FAILED;
		else if (WEXITSTATUS(one) != UB_EXIT_DONE)
			status = WEXITSTATUS(one);
	}
	free(list.states);
	return list.is_cut || !pids ? UB_EXIT_FAILED : status;
}

static int recover_run(const struct argp *argp, int argc, char **argv, bool upgrade)
{
	struct recover_args a = { .upgrade = upgrade };
	struct ub_state state;
	int status;

	if (ub_cli_parse(argp, argc, argv, &a, &a.err) != 0)
		return ub_cli_error(&a.err, UB_EXIT_USAGE);
	if (ub_rundir_check_rights(&a.err) != 0)
		return ub_cli_error(&a.err, UB_EXIT_FAILED);
	if (a.all) {
		status = recover_all(&a);
		return a.err.code ? ub_cli_error(&a.err, status) : status;
	}
	if (ub_device_find_state(a.device, &state, NULL, &a.err) != 0)
		return ub_cli_error(&a.err, a.err.code == EINVAL ? UB_EXIT_USAGE : UB_EXIT_FAILED);
	return recover_one(&state, &a);
}

int ub_cli_recover(int argc, char **argv)
{
	static const struct argp argp = {
		.options = recover_options,
		.parser = recover_parse,
		.args_doc = "DEVICE|--all",
		.doc = "Go on with a device whose keeper process is gone, in the background."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  A device that has its "
		       "keeper is left alone."
		       "  Exit status: 0 done, 1 failed, 2 wrong usage.",
	};

	return recover_run(&argp, argc, argv, false);
}

int ub_cli_upgrade(int argc, char **argv)
{
	static const struct argp argp = {
		.options = upgrade_options,
		.parser = recover_parse,
		.args_doc = "DEVICE|--all",
		.doc = "Have a device that is in use served by this version of the program, in the "
		       "background."
		       "\vDEVICE is a number, /dev/ublkbN or a --name.  What is in flight is "
		       "finished, and"
		       " what comes meanwhile waits; if that takes longer than a second, or this "
		       "version does"
		       " not come up, the old one goes on."
		       "  Exit status: 0 done, 1 failed, 2 wrong usage, 3 requests are in flight.",
	};

	return recover_run(&argp, argc, argv, true);
}
