/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making a device, step by step. */
#include "keeper/attach.h"

#include <errno.h>
#include <stdio.h>

#include "backend/limits.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/step.h"
#include "helper/helper.h"
#include "keeper/brief.h"
#include "keeper/job/resize.h"
#include "keeper/keeper.h"
#include "keeper/kernel.h"
#include "keeper/note.h"
#include "keeper/shared.h"
#include "run/state.h"

#define HELLO_TIMEOUT_MS    10000
#define FETCH_TIMEOUT_MS    30000
#define SETTLE_TIMEOUT_MS   30000
#define SETTLE_MIN_REQUESTS 4 /* fewer the block layer does not allow */

static int attach_configure_server(struct ub_keeper *k, struct ub_err *err)
{
	const struct ub_side_options *o = k->side->o;
	int64_t limit_ms =
		(int64_t)k->opts->timeout_s * 1000 + (o->nbd ? (int64_t)o->nbd->wait_ms : 0);
	int ret = ub_server_await(k->server, UB_MSG_HELLO, HELLO_TIMEOUT_MS, "it said hello", err);

	if (ret == 0)
		ret = ub_brief_send_config(k, k->server, err);
	if (ret)
		return ret;
	if (o->nbd)
		/* the server's alone: its end is to be seen at the other side */
		ub_close(&k->side->store_fd);
	ret = ub_server_await(k->server, UB_MSG_LIMITS, limit_ms, "it had opened the back end",
			      err);
	if (ret == 0 && !k->side->identity)
		ret = ub_err_set(err, EPROTO, "the server did not say what it has opened");
	return ret ? ret : ub_limits_check(&k->side->limits, err);
}

/* ---- [ COMMAND ] --------------------------------------------------------- */

static int attach_start_command(struct ub_keeper *k, struct ub_err *err)
{
	int ret = ub_step("command", err);

	return ret ? ret : ub_side_start_command(k, k->side, err);
}

static int attach_make_store(struct ub_keeper *k, struct ub_err *err)
{
	int ret = ub_step("store", err);

	return ret ? ret : ub_side_make_store(k->side, err);
}

/* ---- the device ---------------------------------------------------------- */

/* A name is taken while a keeper holds it, and while the device of a dead keeper lives. */
static int attach_check_name(struct ub_keeper *k, const char *name, struct ub_err *err)
{
	struct ublksrv_ctrl_dev_info info;
	struct ub_state state;
	struct ub_err ignored;

	if (!ub_rundir_is_held(name) &&
	    (ub_state_read(name, &state) != 0 ||
	     ub_ctrl_get_info(&k->device.ctrl, state.dev_id, &info, &ignored) != 0 ||
	     info.ublksrv_flags != state.cookie))
		return 0;
	return ub_err_set(err, EBUSY,
			  "the name '%s' is taken: choose another --name, or detach that device",
			  name);
}

static int attach_make_rundir(struct ub_keeper *k, struct ub_err *err)
{
	char name[UB_NAME_BYTES], device[32];
	int ret = ub_step("rundir", err);

	if (ret)
		return ret;
	snprintf(name, sizeof(name), "ublk%u", k->device.info.dev_id);
	if (k->opts->name)
		snprintf(name, sizeof(name), "%s", k->opts->name);
	snprintf(device, sizeof(device), "/dev/ublkb%u", k->device.info.dev_id);
	ub_log_set_device(device, name);
	ret = attach_check_name(k, name, err);
	if (ret == 0)
		ret = ub_rundir_create(&k->rundir, name, err);
	if (ret)
		return ret;
	ub_control_open(&k->control, k, k->verbs, &k->loop, ub_steal_fd(&k->rundir.control_fd));
	return ub_note_write(k, err);
}

static int attach_serve(struct ub_keeper *k, struct ub_err *err)
{
	int ret = attach_make_rundir(k, err);

	if (ret == 0)
		ret = ub_shared_make(k, err);
	if (ret == 0)
		ret = ub_step("serve", err);
	if (ret == 0)
		ret = ub_brief_send_serve(k, k->server, err);
	if (ret == 0)
		ret = ub_server_await(k->server, UB_MSG_READY, FETCH_TIMEOUT_MS,
				      "its queues were made", err);
	if (ret)
		return ret;
	if (ub_message_send_type(k->server->fd, UB_MSG_TAKE) < 0)
		ub_log(UB_LOG_DEBUG, "the server is gone already"); /* and that is found out now */
	return ub_server_await(k->server, UB_MSG_FETCHING, FETCH_TIMEOUT_MS,
			       "it had fetched every tag", err);
}

static bool attach_interrupted(void *arg)
{
	const struct ub_keeper *k = arg;

	return k->signals.nr > 0 || k->server->gone || k->server->err.code;
}

/* After START: the node opens, partitions are there, the scheduler is set. */
static int attach_settle(struct ub_keeper *k, struct ub_err *err)
{
	char id[16], requests[16] = "0", said[256], fate[96];
	/* its queues' threads may not administrate: the driver does not scan */
	bool may_add = k->recovery.is_on;
	const char *args[] = { "settle",
			       id,
			       k->opts->scheduler,
			       k->device.info.flags & UBLK_F_NO_AUTO_PART_SCAN ? UB_HELPER_SCAN :
			       may_add					       ? UB_HELPER_ADD :
										 UB_HELPER_NO_SCAN,
			       requests,
			       NULL };
	int ret = ub_step("settle", err);

	if (ret)
		return ret;
	snprintf(id, sizeof(id), "%u", k->device.info.dev_id);
	/* Drivers that let go of each tag by itself notice a death by themselves, too. */
	if (k->recovery.is_on && k->device.quirks.full_queue_hides_death &&
	    k->device.info.queue_depth > SETTLE_MIN_REQUESTS)
		snprintf(requests, sizeof(requests), "%u", k->device.info.queue_depth - 1U);
	ret = ub_helper_run(&k->loop, args, "the first look at the device", said, sizeof(said),
			    SETTLE_TIMEOUT_MS, attach_interrupted, k);
	if (k->server->err.code) {
		*err = k->server->err;
		return -ECHILD;
	}
	if (k->server->gone)
		return ub_err_set(err, ECHILD, "the server %s while the device settled",
				  ub_server_fate(k->server, fate, sizeof(fate)));
	if (ret == -EINTR)
		return ub_err_set(err, EINTR, "interrupted while the device settled");
	if (ret < 0)
		return ub_err_errno(err, -ret, "the device did not settle");
	if (ret != UB_EXIT_DONE)
		return ub_err_set(err, EIO, "%.400s", said);
	if (said[0])
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: %s", k->device.info.dev_id, said);
	return 0;
}

int ub_attach(struct ub_keeper *k, struct ub_err *err)
{
	int ret = ub_ctrl_open(&k->device.ctrl, err);

	if (ret == 0)
		ret = ub_step("features", err);
	if (ret == 0)
		ret = ub_kernel_get_features(k, err);
	if (ret == 0)
		ret = ub_resize_check_options(k, err);
	if (ret == 0 && k->opts->name)
		ret = attach_check_name(k, k->opts->name, err);
	if (ret == 0)
		ret = attach_make_store(k, err);
	if (ret == 0)
		ret = attach_start_command(k, err);
	if (ret == 0)
		ret = ub_server_spawn(k, k->server, err);
	if (ret == 0)
		ret = attach_configure_server(k, err);
	if (ret == 0)
		ret = ub_kernel_add(k, err);
	if (ret == 0)
		ret = attach_serve(k, err);
	if (ret == 0)
		ret = ub_kernel_start(k, err);
	if (ret == 0)
		ret = attach_settle(k, err);
	/* Until here an outage fails the attach, and a server without a keeper ends. */
	if (ret == 0 && ub_message_send_type(k->server->fd, UB_MSG_LIVE) < 0)
		ub_log(UB_LOG_DEBUG, "the server is gone already"); /* and that is found out now */
	return ret ? ret :
		     ub_server_await(k->server, UB_MSG_LIVE, HELLO_TIMEOUT_MS,
				     "it knew that it is live", err);
}
