/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel's device: the control commands that make and unmake it. The keeper's main thread. */
#ifndef UB_KEEPER_KERNEL_H
#define UB_KEEPER_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/ublk-abi.h>

#include "base/err.h"
#include "ublk/ctrl.h"
#include "ublk/datapath.h"
#include "ublk/quirks.h"

struct ub_keeper;

/* How much of the device there is. */
enum ub_kernel_state {
	UB_KERNEL_NONE,
	UB_KERNEL_ADDED,   /* it is to be deleted */
	UB_KERNEL_STARTED, /* and there may be a disk, which is to be stopped before */
};

struct ub_kernel_device {
	struct ub_ctrl ctrl;
	uint64_t features;		   /* of the driver */
	struct ub_quirks quirks;	   /* what they stand for */
	struct ublksrv_ctrl_dev_info info; /* as ADD_DEV returned it */
	enum ub_data_path data_path;
	enum ub_kernel_state state;
	/*
	 * What the kernel may answer late lives as long as the ring, and is not used for a second
	 * command.
	 */
	struct ub_ctrl_cmd start_cmd, stop_cmd, kill_cmd, del_cmd;
};

/* What the driver can do, and what it does wrong. 0 or -errno with *err. */
int ub_kernel_get_features(struct ub_keeper *k, struct ub_err *err);
/* ADD_DEV and SET_PARAMS, of what the server has told of the back end. 0 or -errno with *err. */
int ub_kernel_add(struct ub_keeper *k, struct ub_err *err);
/* START_DEV. 0 or -errno with *err. */
int ub_kernel_start(struct ub_keeper *k, struct ub_err *err);
/* Sends START, STOP, DEL or one of recovery's, and waits for it, as ub_ctrl_wait() does. */
int ub_kernel_long_cmd(struct ub_keeper *k, struct ub_ctrl_cmd *cmd, uint32_t op, uint64_t data,
		       const char *what, int64_t timeout_ms, bool (*until)(void *));
/* False when somebody deleted our device already, and the id may be another's by now. */
bool ub_kernel_still_ours(struct ub_keeper *k);

/*
 * 7.x: stops it if nobody has it open. False: somebody has. Elsewhere true, and it is not stopped
 * yet.
 */
bool ub_kernel_try_stop(struct ub_keeper *k);
/*
 * Stops it, whatever state it is in; force: what is in flight is failed, after a last write-back of
 * what is dirty. Kills a server that does not let it. Nothing to stop: nothing happens.
 */
void ub_kernel_stop(struct ub_keeper *k, bool force);
/*
 * A command does not come back, because the server does not answer: the kernel fails what it holds,
 * and ends the command, when the process is gone. Its ring may stay busy for ever, so there is a
 * new one.
 */
void ub_kernel_unstick(struct ub_keeper *k);
/* DEL_DEV. Nothing to delete: nothing happens. */
void ub_kernel_delete(struct ub_keeper *k);

#endif
