/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel's device: the control commands that make and unmake it. The keeper's main thread. */
#ifndef UB_KEEPER_KERNEL_H
#define UB_KEEPER_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "ublk/ctrl.h"

struct ub_keeper;

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
