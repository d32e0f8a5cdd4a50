/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's device as the keeper makes and unmakes it:
 *
 *   ADD_DEV ─ SET_PARAMS ─ SERVE ─(FETCHING)─ START_DEV ─ LIVE ─ …
 *     … ─ STOP_DEV ─(server ends)─ DEL_DEV
 *
 * Each step that fails leads to the teardown in watch.c, which undoes those before it. What happens
 * when the server dies in between is recover.c's. The keeper's main thread.
 */
#include "keeper/kernel.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/step.h"
#include "helper/helper.h"
#include "keeper/keeper.h"
#include "run/ask-server.h"
#include "run/cookie.h"
#include "ublk/params.h"

#define RECOVERY_FLAGS	  (UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE)
#define SYNC_TIMEOUT_MS	  2000
#define EXIT_TIMEOUT_MS	  5000
#define DEL_TIMEOUT_MS	  5000
#define KILLED_TIMEOUT_MS 45000 /* Linux 6.12 may notice a server's death only after 30 s */

static int64_t kernel_timeout_ms(const struct ub_keeper *k)
{
	return (int64_t)k->opts->timeout_s * 1000;
}

int ub_kernel_get_features(struct ub_keeper *k, struct ub_err *err)
{
	int ret = ub_ctrl_get_features(&k->device.ctrl, &k->device.features, err);

	k->device.quirks = ub_quirks_of(k->device.features);
	return ret;
}

/* ---- ADD_DEV and SET_PARAMS ---------------------------------------------- */

/*
 * The largest I/O: what was asked for, or what fits in the arena where it must be locked in memory.
 */
static uint32_t kernel_max_io(const struct ub_keeper *k, unsigned nr_queues, unsigned depth)
{
	uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE), most = k->side->limits.max_io_bytes;
	uint64_t fits = UB_DEFAULT_ARENA_BYTES / ((uint64_t)nr_queues * depth);
	bool is_placed = (k->side->caps & UB_CAP_PLACE) && k->device.data_path != UB_DATA_PATH_COPY;

	if (most > UB_MAX_IO_BYTES)
		most = UB_MAX_IO_BYTES;
	if (k->opts->max_io_bytes)
		most = k->opts->max_io_bytes < most ? k->opts->max_io_bytes : most;
	else if (!is_placed && fits < most)
		most = (uint32_t)fits;
	most = most / page * page;
	most = most < UB_MIN_IO_BYTES ? UB_MIN_IO_BYTES : most;
	if (k->opts->max_io_bytes && most != k->opts->max_io_bytes)
		ub_log(UB_LOG_NOTICE,
		       "--max-io %u becomes %u: whole pages, and what %s takes at the most",
		       k->opts->max_io_bytes, most, k->side->o->kind);
	return most;
}

static int kernel_check_added(struct ub_keeper *k, uint64_t wanted, unsigned nr_queues,
			      unsigned depth, struct ub_err *err)
{
	const struct ublksrv_ctrl_dev_info *info = &k->device.info;

	if ((info->flags & wanted) != wanted)
		return ub_err_set(err, EOPNOTSUPP,
				  "the kernel did not grant the data path %s: try --data-path copy",
				  ub_data_path_name(k->device.data_path));
	if (k->recovery.is_on && (info->flags & RECOVERY_FLAGS) != RECOVERY_FLAGS)
		return ub_err_set(err, EOPNOTSUPP,
				  "the kernel did not grant the device's recovery: try "
				  "--no-recovery");
	if (info->nr_hw_queues == 0 || info->queue_depth == 0 ||
	    info->max_io_buf_bytes < UB_MIN_IO_BYTES)
		return ub_err_set(err, EPROTO,
				  "the kernel granted %u queues, depth %u, I/O of %u bytes",
				  info->nr_hw_queues, info->queue_depth, info->max_io_buf_bytes);
	if (info->nr_hw_queues != nr_queues || info->queue_depth != depth)
		ub_log(UB_LOG_NOTICE, "the kernel granted %u queues of depth %u, not %u of %u",
		       info->nr_hw_queues, info->queue_depth, nr_queues, depth);
	return 0;
}

static int kernel_set_params(struct ub_keeper *k, struct ub_err *err)
{
	struct ublk_params params;
	int ret = ub_step("set-params", err);

	if (ret)
		return ret;
	ub_params_from_limits(&k->side->limits, k->device.info.max_io_buf_bytes, &params);
	return ub_ctrl_set_params(&k->device.ctrl, k->device.info.dev_id, &params, err);
}

/* As asked for, or as suits the back end; one is the default, and no more than CPUs of use. */
static unsigned kernel_nr_queues(const struct ub_keeper *k)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	unsigned nr = k->side->limits.nr_queues ? k->side->limits.nr_queues : 1;

	if (k->opts->nr_queues)
		return k->opts->nr_queues;
	return cpus > 0 && nr > (unsigned long)cpus ? (unsigned)cpus : nr;
}

int ub_kernel_add(struct ub_keeper *k, struct ub_err *err)
{
	unsigned nr_queues = kernel_nr_queues(k);
	unsigned depth = k->opts->depth ? k->opts->depth : UB_DEFAULT_DEPTH;
	uint64_t wanted;
	int ret;

	k->device.data_path = k->opts->data_path;
	ret = ub_step("add-dev", err);
	if (ret == 0)
		ret = ub_data_path_choose(&k->device.data_path, k->device.features, k->side->caps,
					  err);
	if (ret)
		return ret;
	wanted = ub_data_path_flag(k->device.data_path);
	k->recovery.is_on =
		!k->opts->no_recovery && (k->device.features & RECOVERY_FLAGS) == RECOVERY_FLAGS;
	if (!k->recovery.is_on && !k->opts->no_recovery)
		ub_log(UB_LOG_WARNING,
		       "this kernel cannot recover devices: the device goes when its server dies");
	k->device.info = (struct ublksrv_ctrl_dev_info){
		.nr_hw_queues = (uint16_t)nr_queues,
		.queue_depth = (uint16_t)depth,
		.max_io_buf_bytes = kernel_max_io(k, nr_queues, depth),
		.dev_id = k->opts->id < 0 ? UINT32_MAX : (uint32_t)k->opts->id,
		/*
		 * The helper scans, once and before the device is announced, where the kernel lets
		 * it.
		 */
		.flags = wanted | (k->device.features & UBLK_F_NO_AUTO_PART_SCAN) |
			 (k->recovery.is_on ? RECOVERY_FLAGS : 0),
		.ublksrv_flags = ub_cookie_make(),
	};
	ret = ub_ctrl_add(&k->device.ctrl, &k->device.info, err);
	if (ret)
		return ret;
	k->device.state = UB_KERNEL_ADDED;
	ret = ub_step("added", err);
	if (ret == 0)
		ret = kernel_check_added(k, wanted, nr_queues, depth, err);
	return ret ? ret : kernel_set_params(k, err);
}

/* ---- START_DEV ----------------------------------------------------------- */

static bool kernel_must_stop_waiting(void *arg)
{
	const struct ub_keeper *k = arg;

	return k->server->gone || k->signals.nr > 0;
}

int ub_kernel_long_cmd(struct ub_keeper *k, struct ub_ctrl_cmd *cmd, uint32_t op, uint64_t data,
		       const char *what, int64_t timeout_ms, bool (*until)(void *))
{
	int ret;

	*cmd = (struct ub_ctrl_cmd){ .op = op, .dev_id = k->device.info.dev_id, .data = data };
	cmd->queue_id = UINT16_MAX;
	ret = ub_ctrl_send(&k->device.ctrl, cmd);
	return ret ? ret : ub_ctrl_wait(&k->device.ctrl, cmd, &k->loop, what, timeout_ms, until, k);
}

int ub_kernel_start(struct ub_keeper *k, struct ub_err *err)
{
	char fate[96];
	bool lives;
	int ret = ub_step("start-dev", err);

	if (ret)
		return ret;
	/*
	 * START of a device whose server is dead already never returns on Linux 6.12: its partition
	 * scan reads, nobody answers, and STOP and DEL wait for the same mutex until the machine is
	 * restarted. One that is dying is as good as dead: its queues' threads may have ended.
	 */
	lives = ub_server_lives(k->server, EXIT_TIMEOUT_MS);
	if (k->server->err.code) {
		*err = k->server->err;
		return -ECHILD;
	}
	if (!lives)
		return ub_err_set(err, ECHILD, "the server %s before START_DEV",
				  ub_server_fate(k->server, fate, sizeof(fate)));
	ret = ub_kernel_long_cmd(k, &k->device.start_cmd, UBLK_U_CMD_START_DEV,
				 (uint64_t)k->server->pid, "START_DEV", kernel_timeout_ms(k),
				 kernel_must_stop_waiting);
	if (ret == 0) {
		k->device.state = UB_KERNEL_STARTED;
		return ub_step("started", err);
	}
	/* It may have been on its way all the same: then there is a disk to be stopped. */
	k->device.state = UB_KERNEL_STARTED;
	if (k->server->err.code) {
		*err = k->server->err;
		return ret;
	}
	if (k->server->gone)
		return ub_err_set(err, ECHILD, "the server %s during START_DEV",
				  ub_server_fate(k->server, fate, sizeof(fate)));
	if (ret == -EINTR)
		return ub_err_set(err, EINTR, "interrupted during START_DEV");
	return ub_err_errno(err, -ret, "START_DEV");
}

/* ---- taking it away ------------------------------------------------------ */

bool ub_kernel_still_ours(struct ub_keeper *k)
{
	struct ublksrv_ctrl_dev_info info;
	struct ub_err ignored;

	int ret = ub_ctrl_get_info(&k->device.ctrl, k->device.info.dev_id, &info, &ignored);

	return ret == 0 ? info.ublksrv_flags == k->device.info.ublksrv_flags : ret != -ENODEV;
}

/* A step on the way down: it cannot fail, but whoever takes it can be killed there. */
static void kernel_unmake_step(const char *name)
{
	struct ub_err ignored;

	ub_step(name, &ignored);
}

void ub_kernel_unstick(struct ub_keeper *k)
{
	struct ub_err err;

	if (k->server->pid && !k->server->gone)
		kill(k->server->pid, SIGKILL);
	ub_ctrl_close(&k->device.ctrl);
	if (ub_ctrl_open(&k->device.ctrl, &err) != 0)
		ub_log(UB_LOG_ERROR, "%s", err.text);
}

bool ub_kernel_try_stop(struct ub_keeper *k)
{
	int ret;

	if (!(k->device.features & UBLK_F_SAFE_STOP_DEV) || !ub_kernel_still_ours(k))
		return true;
	kernel_unmake_step("stop-dev");
	ret = ub_kernel_long_cmd(k, &k->device.stop_cmd, UBLK_U_CMD_TRY_STOP_DEV, 0, "TRY_STOP_DEV",
				 kernel_timeout_ms(k), NULL);
	if (ret == 0)
		k->device.state = UB_KERNEL_ADDED;
	return ret != -EBUSY;
}

void ub_kernel_stop(struct ub_keeper *k, bool force)
{
	char scrap[256], id[16];
	int ret;

	if (k->device.ctrl.stuck)
		ub_kernel_unstick(k); /* a START that never came back */
	if (k->device.state != UB_KERNEL_STARTED || !ub_kernel_still_ours(k))
		return;
	kernel_unmake_step("stop-dev");
	snprintf(id, sizeof(id), "%u", k->device.info.dev_id);
	if (force && !k->server->gone) {
		if (!ub_rundir_is_offline(k->rundir.name, scrap, sizeof(scrap)))
			ub_helper_run(&k->loop, (const char *const[]){ "sync", id, NULL },
				      "writing back", scrap, sizeof(scrap), SYNC_TIMEOUT_MS, NULL,
				      NULL);
		ub_message_send_type(k->server->fd, UB_MSG_CANCEL);
	}
	ret = ub_kernel_long_cmd(k, &k->device.stop_cmd, UBLK_U_CMD_STOP_DEV, 0, "STOP_DEV",
				 kernel_timeout_ms(k), NULL);
	if (ret && ret != -ENODEV) {
		ub_log(UB_LOG_WARNING, "STOP_DEV: %s: the server is killed", strerror(-ret));
		ub_kernel_unstick(k);
		if (k->device.ctrl.has_ring)
			ub_kernel_long_cmd(k, &k->device.kill_cmd, UBLK_U_CMD_STOP_DEV, 0,
					   "STOP_DEV", KILLED_TIMEOUT_MS, NULL);
	}
	k->device.state = UB_KERNEL_ADDED;
}

void ub_kernel_delete(struct ub_keeper *k)
{
	int ret;

	if (k->device.state == UB_KERNEL_NONE || !ub_kernel_still_ours(k)) {
		k->device.state = UB_KERNEL_NONE;
		return;
	}
	kernel_unmake_step("del-dev");
	ret = ub_kernel_long_cmd(k, &k->device.del_cmd, UBLK_U_CMD_DEL_DEV, 0, "DEL_DEV",
				 DEL_TIMEOUT_MS, NULL);

	if (ret == -EINTR || ret == -ETIMEDOUT)
		ub_log(UB_LOG_WARNING,
		       "/dev/ublkb%u is gone, but somebody still has it open or mounted: its "
		       "number stays "
		       "taken until then",
		       k->device.info.dev_id);
	else if (ret && ret != -ENODEV)
		ub_log(UB_LOG_WARNING, "DEL_DEV: %s: try 'ublk-bridge detach %u'", strerror(-ret),
		       k->device.info.dev_id);
	k->device.state = UB_KERNEL_NONE;
}
