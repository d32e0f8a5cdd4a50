/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Taking a device away from outside. It works from what the kernel knows, so that it also removes
 * what a killed keeper, a killed server or another program left. A short-lived verb; it never opens
 * the device.
 */
#include "run/take-away.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ublk-bridge/message.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/step.h"
#include "base/text.h"
#include "helper/helper.h"
#include "run/ask-server.h"
#include "run/cookie.h"
#include "run/ranges.h"
#include "run/rundir.h"
#include "run/state.h"
#include "ublk/ctrl.h"

#define DETACH_SYNC_MS	   2000
#define DETACH_CANCEL_MS   5000
#define DETACH_KILLED_MS   45000 /* Linux 6.12 may notice a server's death only after 30 s */
#define DETACH_DEL_MS	   5000
#define DETACH_KEEPER_MS   10000
#define DETACH_RETRY_MS	   100
#define DETACH_SAY_MS	   2000 /* of waiting, and then it is said what for */
#define DETACH_TRY_STOP_MS 2000 /* udev's look at a device that was just closed */

struct detach {
	struct ub_loop loop;
	struct ub_ctrl ctrl;
	struct ub_ctrl_cmd cmd;
	struct ublksrv_ctrl_dev_info info;
	struct ub_state state;
	bool has_state;		      /* one of our keepers made it */
	struct ub_ledger_view ledger; /* where it is found */
	uint64_t size_bytes;
	bool force;
	int64_t timeout_ms;
	char id[16];
};

static int detach_cmd(struct detach *d, uint32_t op, const char *what, int64_t timeout_ms)
{
	int ret;

	d->cmd = (struct ub_ctrl_cmd){ .op = op, .dev_id = d->info.dev_id, .queue_id = UINT16_MAX };
	ret = ub_ctrl_send(&d->ctrl, &d->cmd);
	return ret ? ret : ub_ctrl_wait(&d->ctrl, &d->cmd, &d->loop, what, timeout_ms, NULL, NULL);
}

static bool detach_is_same(struct detach *d)
{
	struct ublksrv_ctrl_dev_info info;
	struct ub_err ignored;

	return ub_ctrl_get_info(&d->ctrl, d->info.dev_id, &info, &ignored) == 0 &&
	       info.ublksrv_flags == d->info.ublksrv_flags;
}

/* ---- STOP ---------------------------------------------------------------- */

static int detach_busy(struct detach *d, const char *who, struct ub_err *err)
{
	ub_err_set(err, EBUSY,
		   "/dev/ublkb%s is busy: %.300s: release it, or use --force to take it away all "
		   "the same",
		   d->id, who);
	return UB_EXIT_BUSY;
}

/* Waits for nobody: 7.x refuses a stop while somebody has the device open, 6.12 cannot. */
static int detach_stop_unless_open(struct detach *d, struct ub_err *err)
{
	uint64_t deadline = ub_now_ms() + DETACH_TRY_STOP_MS;
	bool can_try = d->info.flags & UBLK_F_SAFE_STOP_DEV;
	char who[512] = "";
	int ret;

	if (!detach_is_same(d))
		return UB_EXIT_DONE; /* somebody else was faster, and the number may be another's */
	for (;;) {
		ret = detach_cmd(d, can_try ? UBLK_U_CMD_TRY_STOP_DEV : UBLK_U_CMD_STOP_DEV,
				 "STOP_DEV", d->timeout_ms);
		if (ret != -EBUSY || ub_now_ms() >= deadline)
			break;
		ub_loop_once(&d->loop, DETACH_RETRY_MS);
	}
	if (ret == 0 || ret == -ENODEV) /* ENODEV: somebody else was faster, or there is no disk */
		return UB_EXIT_DONE;
	if (ret == -EBUSY) {
		ub_helper_run(&d->loop, (const char *const[]){ "holders", d->id, NULL },
			      "looking for holders", who, sizeof(who), DETACH_SYNC_MS, NULL, NULL);
		return detach_busy(d, who[0] ? who : "somebody has it open", err);
	}
	ub_err_errno(err, -ret, "STOP_DEV of /dev/ublkb%s (--force kills its server)", d->id);
	return UB_EXIT_FAILED;
}

static bool detach_is_told(uint64_t began_ms, bool *is_told)
{
	if (*is_told || ub_now_ms() - began_ms < DETACH_SAY_MS)
		return true;
	*is_told = true;
	return false;
}

/*
 * All is written back, and the device is still there. Whoever uses the export next must not find
 * old writes on top of its own. DONE, and *waited: it has taken a while; or BUSY with *err.
 */
static int detach_await_ranges(struct detach *d, struct ub_ranges_wait w[2], bool *waited,
			       struct ub_err *err)
{
	uint64_t began_ms = ub_now_ms();
	enum ub_ranges_wait_state state;
	struct ub_ranges r;
	bool is_told = false;
	char what[200];

	*waited = false;
	for (;;) {
		ub_ledger_view_read(&d->ledger, d->size_bytes, &r);
		state = ub_ranges_wait(&w[0], &r, ub_now_ms());
		if (state == UB_RANGES_OVER) {
			ub_ledger_view_read_other(&d->ledger, d->size_bytes, &r);
			state = ub_ranges_wait_other(&w[1], &r, ub_now_ms(), d->info.dev_id);
		}
		if (state == UB_RANGES_OVER)
			return UB_EXIT_DONE;
		if (state == UB_RANGES_TOO_LONG)
			break;
		*waited = true;
		ub_ranges_describe_wait(&r, what, sizeof(what));
		if (!detach_is_told(began_ms, &is_told))
			ub_log(UB_LOG_NOTICE,
			       "/dev/ublkb%s: %s: that is waited for (--force does not wait)",
			       d->id, what);
		ub_loop_once(&d->loop, DETACH_RETRY_MS);
	}
	ub_err_set(err, EBUSY,
		   "/dev/ublkb%s stays: %s may still be written by lost connections: 'ublk-bridge "
		   "fenced %s' when "
		   "that server can write no more, or use --force to take it away all the same",
		   d->id, ub_ranges_describe(&r, what, sizeof(what)), d->id);
	return UB_EXIT_BUSY;
}

/* What is not written back yet cannot be now. */
static int detach_offline(struct detach *d, const char *why, struct ub_err *err)
{
	char who[512] = "";

	ub_helper_run(&d->loop, (const char *const[]){ "holders", d->id, NULL },
		      "looking for holders", who, sizeof(who), DETACH_SYNC_MS, NULL, NULL);
	if (who[0])
		return detach_busy(d, who, err);
	ub_err_set(err, EIO,
		   "/dev/ublkb%s cannot be written back now (%.250s): wait until it can, or use "
		   "--force to give "
		   "up what is not written",
		   d->id, why);
	return UB_EXIT_FAILED;
}

/* True if this process has /dev/ublkcN open: a pid that was noted may be another's by now. */
static bool detach_is_server(const struct detach *d, pid_t pid)
{
	char path[64], node[32], link[64];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	snprintf(node, sizeof(node), "/dev/ublkc%s", d->id);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);

		link[n > 0 ? n : 0] = '\0';
		found = strcmp(link, node) == 0;
	}
	if (dir)
		closedir(dir);
	return found;
}

/* Linux 6.12 calls a device live for a while though nobody serves it. */
static bool detach_is_served(const struct detach *d)
{
	pid_t pid = d->has_state ? d->state.server_pid : d->info.ublksrv_pid;

	if (d->info.state != UBLK_S_DEV_LIVE || !(d->info.flags & UBLK_F_USER_RECOVERY))
		return d->info.state == UBLK_S_DEV_LIVE;
	return pid > 1 && detach_is_server(d, pid);
}

static int detach_stop_by_force(struct detach *d, struct ub_err *err);

/*
 * Its server is dead, and the kernel waits for the next one. What is not written back is lost: not
 * for the verb to decide, unless nothing could be done about it any more.
 */
static int detach_unserved(struct detach *d, struct ub_err *err)
{
	cleanup_fd int fd = d->has_state ? ub_rundir_connect(d->state.name) : -1;
	char who[512] = "";

	ub_helper_run(&d->loop, (const char *const[]){ "holders", d->id, NULL },
		      "looking for holders", who, sizeof(who), DETACH_SYNC_MS, NULL, NULL);
	if (who[0])
		return detach_busy(d, who, err);
	/* Memory that no process holds any more. */
	if (d->has_state && strcmp(d->state.backend, "nbd") != 0 && fd < 0)
		return detach_stop_by_force(d, err);
	ub_err_set(err, EIO,
		   "/dev/ublkb%s has no server: 'ublk-bridge recover %s' goes on with it, --force "
		   "gives up what is not written",
		   d->id, d->id);
	return UB_EXIT_FAILED;
}

static int detach_stop(struct detach *d, struct ub_err *err)
{
	struct ub_ranges_wait waits[2] = { { 0 } }; /* of the two sides */
	char said[512];
	bool waited;
	int ret;

	if (!detach_is_served(d) && !(d->has_state && ub_rundir_is_held(d->state.name)))
		return detach_unserved(d, err);
	if (d->has_state && d->state.is_migrating && ub_rundir_is_held(d->state.name)) {
		ub_err_set(err, EBUSY,
			   "/dev/ublkb%s is being migrated: cancel that first (ublk-bridge "
			   "migrate %s --cancel), or use --force to give the migration up",
			   d->id, d->state.name);
		return UB_EXIT_BUSY;
	}
	if (d->has_state && ub_rundir_is_offline(d->state.name, said, sizeof(said)))
		return detach_offline(d, said, err);
	do {
		ret = ub_helper_run(&d->loop, (const char *const[]){ "release", d->id, NULL },
				    "writing back before the device goes", said, sizeof(said),
				    d->timeout_ms, NULL, NULL);
		if (ret == UB_EXIT_BUSY)
			return detach_busy(d, said, err);
		waited = false;
		if (ret == UB_EXIT_DONE &&
		    detach_await_ranges(d, waits, &waited, err) != UB_EXIT_DONE)
			return UB_EXIT_BUSY;
		/* Meanwhile somebody may have opened it, and written. */
	} while (waited);
	if (ret < 0) {
		ub_err_errno(err, -ret,
			     "writing back /dev/ublkb%s (--force gives up what is not written)",
			     d->id);
		return UB_EXIT_FAILED;
	}
	if (ret != UB_EXIT_DONE) {
		ub_err_set(err, EIO, "%.300s (--force gives up what is not written)", said);
		return UB_EXIT_FAILED;
	}
	return detach_stop_unless_open(d, err);
}

/* Asks the server to fail what it holds. */
static void detach_cancel_io(const struct detach *d)
{
	int ret = d->has_state ? ub_rundir_cancel_io(d->state.name) : -ENOENT;

	/* A server that is dead holds nothing. */
	if (ret && ret != -ECONNREFUSED && ret != -ENOENT)
		ub_log(UB_LOG_NOTICE,
		       "/dev/ublkb%s: its server does not answer (%s): it is stopped all the same",
		       d->id, strerror(-ret));
}

/* Kills the process that serves the device, ours or another program's, if there is one. */
static void detach_kill_server(const struct detach *d)
{
	pid_t pid = d->has_state ? d->state.server_pid : d->info.ublksrv_pid;

	if (pid <= 1 || !detach_is_server(d, pid))
		return;
	ub_log(UB_LOG_WARNING, "the server (pid %d) does not let go: it is killed", pid);
	kill(pid, SIGKILL);
}

/* The ledger is still mapped here, whoever has died of it. */
static void detach_say_rest(const struct detach *d)
{
	char rest[120];

	ub_ranges_describe_rest(d->ledger.page, d->size_bytes, rest, sizeof(rest));
	if (rest[0])
		ub_log(UB_LOG_WARNING, "/dev/ublkb%s: %s", d->id, rest);
	/* All who held the page are dead. */
	if (!d->ledger.page && d->has_state && strcmp(d->state.backend, "nbd") == 0)
		ub_log(UB_LOG_WARNING,
		       "/dev/ublkb%s: nobody knows what its NBD server may still write of what was "
		       "sent to it: let --fence-timeout "
		       "pass before that export is used again",
		       d->id);
}

static int detach_stop_by_force(struct detach *d, struct ub_err *err)
{
	char scrap[256];
	int ret;

	if (!d->has_state || !ub_rundir_is_offline(d->state.name, scrap, sizeof(scrap)))
		ub_helper_run(&d->loop, (const char *const[]){ "sync", d->id, NULL },
			      "writing back", scrap, sizeof(scrap), DETACH_SYNC_MS, NULL, NULL);
	if (!detach_is_same(d))
		return UB_EXIT_DONE;
	detach_cancel_io(d);
	ret = detach_cmd(d, UBLK_U_CMD_STOP_DEV, "STOP_DEV", DETACH_CANCEL_MS);
	if (ret == -EINTR || ret == -ETIMEDOUT) {
		detach_kill_server(d);
		ub_ctrl_close(&d->ctrl);
		if (ub_ctrl_open(&d->ctrl, err) != 0)
			return UB_EXIT_FAILED;
		ret = detach_cmd(d, UBLK_U_CMD_STOP_DEV, "STOP_DEV", DETACH_KILLED_MS);
	}
	if (ret == 0 || ret == -ENODEV) {
		detach_say_rest(d);
		return UB_EXIT_DONE;
	}
	ub_err_errno(err, -ret, "STOP_DEV of /dev/ublkb%s", d->id);
	return UB_EXIT_FAILED;
}

/* ---- DEL ----------------------------------------------------------------- */

/* Our keeper deletes the device and its run directory by itself when it sees it stopped. */
static void detach_await_keeper(struct detach *d)
{
	uint64_t deadline = ub_now_ms() + DETACH_KEEPER_MS;

	while (d->has_state && ub_rundir_is_held(d->state.name) && ub_now_ms() < deadline)
		ub_loop_once(&d->loop, DETACH_RETRY_MS / 4);
}

static int detach_delete(struct detach *d, struct ub_err *err)
{
	int ret;

	if (!detach_is_same(d))
		return UB_EXIT_DONE;
	ret = detach_cmd(d, UBLK_U_CMD_DEL_DEV, "DEL_DEV",
			 d->force ? DETACH_DEL_MS : d->timeout_ms);
	if (ret == 0 || ret == -ENODEV)
		return UB_EXIT_DONE;
	if (d->force && (ret == -EINTR || ret == -ETIMEDOUT)) {
		ub_log(UB_LOG_WARNING,
		       "/dev/ublkb%s is gone, but somebody still has it open or mounted: its "
		       "number stays "
		       "taken until then",
		       d->id);
		return UB_EXIT_DONE;
	}
	ub_err_errno(err, -ret, "DEL_DEV of /dev/ublkb%s (--force kills its server)", d->id);
	return UB_EXIT_FAILED;
}

static int detach_device(struct detach *d, struct ub_err *err)
{
	int status = ub_step("detach", err) ? UB_EXIT_FAILED : UB_EXIT_DONE;

	if (status != UB_EXIT_DONE)
		return status;
	if (d->info.state != UBLK_S_DEV_DEAD)
		status = d->force ? detach_stop_by_force(d, err) : detach_stop(d, err);
	else if (d->force && d->has_state)
		detach_kill_server(d); /* it has the device open and will never serve it */
	if (status != UB_EXIT_DONE)
		return status;
	if (ub_step("detach-stopped", err))
		return UB_EXIT_FAILED;
	if (d->info.state != UBLK_S_DEV_DEAD)
		detach_await_keeper(d);
	status = detach_delete(d, err);
	if (d->has_state) {
		detach_await_keeper(d);
		ub_rundir_sweep(d->state.name);
	}
	return status;
}

/* As long as it has a disk; 0: it has none. */
static uint64_t detach_get_size(const struct detach *d)
{
	char path[64], sectors[32];

	snprintf(path, sizeof(path), "/sys/block/ublkb%s/size", d->id);
	return ub_text_read_file(path, sectors, sizeof(sectors)) > 0 ?
		       strtoull(sectors, NULL, 10) << 9 :
		       0;
}

int ub_detach_run(uint32_t dev_id, uint64_t cookie, bool force, unsigned timeout_s,
		  struct ub_err *err)
{
	static struct detach detach;
	struct detach *d = &detach;
	int status;

	*d = (struct detach){ .force = force };
	d->timeout_ms = (int64_t)timeout_s * 1000;
	snprintf(d->id, sizeof(d->id), "%u", dev_id);
	ub_loop_init(&d->loop);
	if (ub_ctrl_open(&d->ctrl, err) != 0)
		return UB_EXIT_FAILED;
	if (ub_ctrl_get_info(&d->ctrl, dev_id, &d->info, err) != 0 ||
	    (cookie && d->info.ublksrv_flags != cookie)) {
		if (err->code == 0 || err->code == ENODEV)
			ub_err_set(err, ENODEV, "there is no device %u: see 'ublk-bridge list'",
				   dev_id);
		ub_ctrl_close(&d->ctrl);
		return UB_EXIT_FAILED;
	}
	d->has_state = ub_cookie_is_ours(d->info.ublksrv_flags) &&
		       ub_state_find(d->info.ublksrv_flags, &d->state) == 0;
	if (d->has_state) {
		ub_ledger_view_open(&d->state, &d->ledger);
		d->size_bytes = detach_get_size(d);
	}
	status = detach_device(d, err);
	ub_ledger_view_close(&d->ledger);
	ub_ctrl_close(&d->ctrl);
	return status;
}
