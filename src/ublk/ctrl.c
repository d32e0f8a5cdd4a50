/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ublk control commands. The keeper's main thread, or a short-lived verb's; never the server.
 *
 * Every command sleeps in an io-wq worker of this process, and some kernels never run such a
 * worker: so each one has a time limit, and a ring with a lost command is used no more.
 */
#include "ublk/ctrl.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/log.h"

#define CTRL_RING_ENTRIES 8
#define CTRL_SHORT_MS	  5000
#define CTRL_SAY_MS	  10000
#define CTRL_CANCEL_MS	  1000
#define CTRL_CANCEL_TAG	  1 /* user_data of an async cancel: no command has this address */

/* ---- opening ------------------------------------------------------------- */

/* Runs modprobe: its exit status, or -errno when it could not be run. */
static int ctrl_modprobe(void)
{
	char *const argv[] = { (char[]){ "modprobe" }, (char[]){ "-q" }, (char[]){ "ublk_drv" },
			       NULL };
	pid_t pid;
	int status, ret;

	ret = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
	if (ret)
		return -ret;
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	/* 127: an older C library reports a failed exec so. */
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return -ENOENT;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -EINTR;
}

static int ctrl_open_error(int code, int modprobe, struct ub_err *err)
{
	struct utsname uts;

	if (code == EACCES || code == EPERM)
		return ub_err_set(err, code, "%s: %s: run this as root", UB_CTRL_PATH,
				  strerror(code));
	if (code != ENOENT && code != ENODEV && code != ENXIO)
		return ub_err_errno(err, code, "%s", UB_CTRL_PATH);
	if (modprobe < 0)
		return ub_err_set(err, code,
				  "%s is not there: the ublk_drv module is not loaded and modprobe "
				  "cannot be run (%s): load it with 'modprobe ublk_drv'",
				  UB_CTRL_PATH, strerror(-modprobe));
	uname(&uts);
	return ub_err_set(err, code,
			  "%s is not there: this kernel (%s) has no ublk_drv module: use Linux "
			  "6.12 or "
			  "later, built with CONFIG_BLK_DEV_UBLK, and install its modules",
			  UB_CTRL_PATH, uts.release);
}

int ub_ctrl_open(struct ub_ctrl *ctrl, struct ub_err *err)
{
	int modprobe = 0, ret;

	memset(ctrl, 0, sizeof(*ctrl));
	ctrl->fd = open(UB_CTRL_PATH, O_RDWR | O_CLOEXEC);
	if (ctrl->fd < 0 && (errno == ENOENT || errno == ENODEV) && geteuid() == 0) {
		modprobe = ctrl_modprobe();
		ctrl->fd = open(UB_CTRL_PATH, O_RDWR | O_CLOEXEC);
	}
	if (ctrl->fd < 0)
		return ctrl_open_error(geteuid() == 0 ? errno : EPERM, modprobe, err);
	ret = io_uring_queue_init(CTRL_RING_ENTRIES, &ctrl->ring, IORING_SETUP_SQE128);
	if (ret < 0) {
		ub_close(&ctrl->fd);
		return ub_err_errno(err, -ret, "cannot make the control ring%s",
				    ret == -EPERM ?
					    " (is the sysctl kernel.io_uring_disabled set?)" :
					    "");
	}
	ctrl->has_ring = true;
	return 0;
}

void ub_ctrl_close(struct ub_ctrl *ctrl)
{
	if (!ctrl->has_ring)
		return;
	io_uring_queue_exit(&ctrl->ring);
	ub_close(&ctrl->fd);
	ctrl->has_ring = false;
}

/* ---- sending and waiting ------------------------------------------------- */

int ub_ctrl_send(struct ub_ctrl *ctrl, struct ub_ctrl_cmd *cmd)
{
	struct ublksrv_ctrl_cmd *payload;
	struct io_uring_sqe *sqe;
	int ret;

	cmd->done = false;
	if (ctrl->stuck)
		return -ETIMEDOUT;
	sqe = io_uring_get_sqe(&ctrl->ring);
	if (!sqe)
		return -EBUSY;
	memset(sqe, 0, 2 * sizeof(*sqe)); /* SQE128: the payload lies behind byte 48 */
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = ctrl->fd;
	sqe->off = cmd->op; /* cmd_op is its low word */
	sqe->user_data = (uintptr_t)cmd;
	payload = (struct ublksrv_ctrl_cmd *)((char *)sqe + 48);
	payload->dev_id = cmd->dev_id;
	payload->queue_id = cmd->queue_id;
	payload->addr = (uintptr_t)cmd->buf;
	payload->len = cmd->len;
	payload->data[0] = cmd->data;
	ret = io_uring_submit(&ctrl->ring);
	return ret < 0 ? ret : 0;
}

void ub_ctrl_reap(void *arg)
{
	struct ub_ctrl *ctrl = arg;
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&ctrl->ring, &cqe) == 0) {
		if (cqe->user_data != CTRL_CANCEL_TAG) {
			struct ub_ctrl_cmd *cmd = (void *)(uintptr_t)cqe->user_data;

			cmd->res = cqe->res;
			cmd->done = true;
		}
		io_uring_cqe_seen(&ctrl->ring, cqe);
	}
}

static void ctrl_cancel(struct ub_ctrl *ctrl, struct ub_ctrl_cmd *cmd)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ctrl->ring);

	if (!sqe)
		return;
	memset(sqe, 0, 2 * sizeof(*sqe));
	io_uring_prep_cancel(sqe, cmd, 0);
	sqe->user_data = CTRL_CANCEL_TAG;
	io_uring_submit(&ctrl->ring);
}

/* Runs the loop until the command is done, `until` holds or the deadline has passed. */
static void ctrl_pump(struct ub_ctrl *ctrl, struct ub_ctrl_cmd *cmd, struct ub_loop *loop,
		      const char *what, uint64_t deadline_ms, bool (*until)(void *), void *arg)
{
	uint64_t began = ub_now_ms(), say = began + CTRL_SAY_MS;

	for (;;) {
		uint64_t now = ub_now_ms(), next = say < deadline_ms ? say : deadline_ms;

		ub_ctrl_reap(ctrl);
		if (cmd->done || now >= deadline_ms || (until && until(arg)))
			return;
		if (now >= say) {
			ub_log(UB_LOG_NOTICE, "%s: still waiting after %llu s", what,
			       (unsigned long long)((now - began) / 1000));
			say += CTRL_SAY_MS;
			continue;
		}
		ub_loop_once(loop, (int)(next - now));
	}
}

int ub_ctrl_wait(struct ub_ctrl *ctrl, struct ub_ctrl_cmd *cmd, struct ub_loop *loop,
		 const char *what, int64_t timeout_ms, bool (*until)(void *arg), void *arg)
{
	uint64_t deadline = timeout_ms < 0 ? UINT64_MAX : ub_now_ms() + (uint64_t)timeout_ms;

	ub_loop_add(loop, ctrl->ring.ring_fd, ub_ctrl_reap, ctrl);
	ctrl_pump(ctrl, cmd, loop, what, deadline, until, arg);
	if (!cmd->done && !(until && until(arg))) {
		ctrl_cancel(ctrl, cmd);
		ctrl_pump(ctrl, cmd, loop, what, ub_now_ms() + CTRL_CANCEL_MS, NULL, NULL);
		ctrl->stuck = !cmd->done;
	}
	ub_loop_remove(loop, ctrl->ring.ring_fd);
	if (cmd->done)
		return cmd->res;
	return ctrl->stuck ? -ETIMEDOUT : -EINTR;
}

/*
 * A short command. What it reads and writes lies in static memory, because a command that is given
 * up may still be run by the kernel later.
 */
static int ctrl_short(struct ub_ctrl *ctrl, uint32_t op, uint32_t dev_id, uint64_t data, void *buf,
		      unsigned len, const char *what, struct ub_err *err)
{
	static struct ub_ctrl_cmd cmd;
	static char bounce[4096] __attribute__((aligned(8)));
	struct ub_loop loop;
	int ret;

	assert(len <= sizeof(bounce));
	ub_loop_init(&loop);
	memcpy(bounce, buf, len);
	cmd = (struct ub_ctrl_cmd){ .op = op, .dev_id = dev_id, .data = data };
	cmd.queue_id = UINT16_MAX;
	cmd.buf = bounce;
	cmd.len = (uint16_t)len;
	ret = ub_ctrl_send(ctrl, &cmd);
	if (ret == 0)
		ret = ub_ctrl_wait(ctrl, &cmd, &loop, what, CTRL_SHORT_MS, NULL, NULL);
	if (ret >= 0) {
		memcpy(buf, bounce, len);
		return 0;
	}
	if (ctrl->stuck)
		return ub_err_set(err, ETIMEDOUT,
				  "%s: the kernel did not answer within %d s: some kernels never "
				  "run a "
				  "control command that sleeps; use another one, or restart the "
				  "machine",
				  what, CTRL_SHORT_MS / 1000);
	return ub_err_errno(err, -ret, "%s", what);
}

/* ---- the short commands -------------------------------------------------- */

int ub_ctrl_get_features(struct ub_ctrl *ctrl, uint64_t *features, struct ub_err *err)
{
	struct utsname uts;
	int ret;

	*features = 0;
	ret = ctrl_short(ctrl, UBLK_U_CMD_GET_FEATURES, UINT32_MAX, 0, features, sizeof(*features),
			 "GET_FEATURES", err);
	if (ret == -EOPNOTSUPP || ret == -EINVAL || ret == -ENODEV) {
		uname(&uts);
		return ub_err_set(err, EOPNOTSUPP,
				  "this kernel (%s) is too old: ublk-bridge needs the command "
				  "GET_FEATURES, which Linux 6.5 brought (6.12 or later is "
				  "advised)",
				  uts.release);
	}
	if (ret == 0 && !(*features & UBLK_F_CMD_IOCTL_ENCODE))
		return ub_err_set(err, EOPNOTSUPP,
				  "this kernel lacks encoded ublk commands, which Linux 6.4 "
				  "brought");
	return ret;
}

int ub_ctrl_get_info(struct ub_ctrl *ctrl, uint32_t dev_id, struct ublksrv_ctrl_dev_info *info,
		     struct ub_err *err)
{
	memset(info, 0, sizeof(*info));
	return ctrl_short(ctrl, UBLK_U_CMD_GET_DEV_INFO, dev_id, 0, info, sizeof(*info),
			  "GET_DEV_INFO", err);
}

int ub_ctrl_add(struct ub_ctrl *ctrl, struct ublksrv_ctrl_dev_info *info, struct ub_err *err)
{
	uint32_t id = info->dev_id;
	int ret;

	ret = ctrl_short(ctrl, UBLK_U_CMD_ADD_DEV, id, 0, info, sizeof(*info), "ADD_DEV", err);
	if (ret == -EEXIST)
		return ub_err_set(err, EBUSY,
				  "id %u is taken: see 'ublk-bridge list', choose another --id or "
				  "detach that device",
				  id);
	if (ret == -EPERM)
		return ub_err_set(err, EPERM,
				  "ADD_DEV: %s: making devices takes CAP_SYS_ADMIN (a container "
				  "may "
				  "lack it)",
				  strerror(EPERM));
	if (ret == -EACCES)
		return ub_err_set(err, EACCES,
				  "the kernel's limit of ublk devices is reached: detach one, or "
				  "raise "
				  "/sys/module/ublk_drv/parameters/ublks_max");
	return ret;
}

int ub_ctrl_set_params(struct ub_ctrl *ctrl, uint32_t dev_id, struct ublk_params *params,
		       struct ub_err *err)
{
	return ctrl_short(ctrl, UBLK_U_CMD_SET_PARAMS, dev_id, 0, params, sizeof(*params),
			  "SET_PARAMS", err);
}

int ub_ctrl_get_affinity(struct ub_ctrl *ctrl, uint32_t dev_id, uint16_t qid, void *mask,
			 unsigned len_bytes, struct ub_err *err)
{
	/* This one command wants its queue in data[0] and none in the header. */
	return ctrl_short(ctrl, UBLK_U_CMD_GET_QUEUE_AFFINITY, dev_id, qid, mask, len_bytes,
			  "GET_QUEUE_AFFINITY", err);
}

/* ---- names --------------------------------------------------------------- */

static const struct {
	const char *name, *since;
} ctrl_features[] = {
	{ "SUPPORT_ZERO_COPY", "6.15" },
	{ "URING_CMD_COMP_IN_TASK", "6.0" },
	{ "NEED_GET_DATA", "6.0" },
	{ "USER_RECOVERY", "6.1" },
	{ "USER_RECOVERY_REISSUE", "6.1" },
	{ "UNPRIVILEGED_DEV", "6.3" },
	{ "CMD_IOCTL_ENCODE", "6.4" },
	{ "USER_COPY", "6.5" },
	{ "ZONED", "6.6" },
	{ "USER_RECOVERY_FAIL_IO", "6.13" },
	{ "UPDATE_SIZE", "6.16" },
	{ "AUTO_BUF_REG", "6.16" },
	{ "QUIESCE", "6.16" },
	{ "PER_IO_DAEMON", "6.16" },
	{ "BUF_REG_OFF_DAEMON", "6.17" },
	{ "BATCH_IO", "7.0" },
	{ "INTEGRITY", "7.0" },
	{ "SAFE_STOP_DEV", "7.0" },
	{ "NO_AUTO_PART_SCAN", "7.0" },
	{ "SHMEM_ZC", "7.1" },
	{ "IO_DESC_SIZE", "7.3" },
};

const char *ub_ctrl_feature_name(unsigned bit)
{
	return bit < UB_ARRAY_SIZE(ctrl_features) ? ctrl_features[bit].name : NULL;
}

const char *ub_ctrl_feature_since(unsigned bit)
{
	return bit < UB_ARRAY_SIZE(ctrl_features) ? ctrl_features[bit].since : NULL;
}
