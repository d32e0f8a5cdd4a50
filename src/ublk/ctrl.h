/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ublk control commands: the keeper's (and the short-lived verbs') side of the driver.
 *
 * One ring, one thread. A process that serves a device never sends START, STOP or DEL of it: dying
 * with one of them in its own io-wq leaves it unkillable.
 * Specification: Documentation/block/ublk.rst, "Control plane".
 */
#ifndef UB_UBLK_CTRL_H
#define UB_UBLK_CTRL_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/ublk-abi.h>

#include "base/err.h"
#include "base/loop.h"

#define UB_CTRL_PATH "/dev/ublk-control"

struct ub_ctrl {
	int fd;
	bool has_ring;
	bool stuck; /* a command did not come back: no more are sent */
	struct io_uring ring;
};

/* A command in flight. It and its buffer live until `done`, or as long as the ctrl if given up. */
struct ub_ctrl_cmd {
	uint32_t op; /* UBLK_U_CMD_* */
	uint32_t dev_id;
	uint16_t queue_id;
	uint16_t len;
	void *buf;
	uint64_t data;
	int32_t res; /* 0 or -errno, once done */
	bool done;
};

/*
 * Opens the control device and a ring for it; loads the module if it is missing. Needs root.
 * 0, or -errno with the remedy in *err.
 */
int ub_ctrl_open(struct ub_ctrl *ctrl, struct ub_err *err);
void ub_ctrl_close(struct ub_ctrl *ctrl); /* also of a zeroed one */

/* Short commands, 5 s at the most. 0 or -errno with *err filled. */
int ub_ctrl_get_features(struct ub_ctrl *ctrl, uint64_t *features, struct ub_err *err);
int ub_ctrl_get_info(struct ub_ctrl *ctrl, uint32_t dev_id, struct ublksrv_ctrl_dev_info *info,
		     struct ub_err *err);
/* info->dev_id UINT32_MAX: any. What the driver changed comes back in *info. */
int ub_ctrl_add(struct ub_ctrl *ctrl, struct ublksrv_ctrl_dev_info *info, struct ub_err *err);
int ub_ctrl_set_params(struct ub_ctrl *ctrl, uint32_t dev_id, struct ublk_params *params,
		       struct ub_err *err);
/*
 * mask: len_bytes of a CPU mask, a multiple of 8 and long enough for every CPU the kernel may have.
 */
int ub_ctrl_get_affinity(struct ub_ctrl *ctrl, uint32_t dev_id, uint16_t qid, void *mask,
			 unsigned len_bytes, struct ub_err *err);

/*
 * START, STOP, TRY_STOP and DEL may last. ub_ctrl_send() only sends; the command is done when
 * ub_ctrl_reap() has seen its completion (poll ctrl->ring.ring_fd for reading).
 */
int ub_ctrl_send(struct ub_ctrl *ctrl, struct ub_ctrl_cmd *cmd);
void ub_ctrl_reap(void *arg); /* a ub_loop callback; arg: struct ub_ctrl * */

/*
 * After ub_ctrl_send(): runs the loop until it is done. Every 10 s the log says that `what` is
 * still awaited; after timeout_ms (-1: never) it is cancelled, and -ETIMEDOUT comes back if that
 * does not end it within a second. `until`, if not NULL, ends the wait early: -EINTR, and the
 * command stays in flight. Otherwise the command's result.
 */
int ub_ctrl_wait(struct ub_ctrl *ctrl, struct ub_ctrl_cmd *cmd, struct ub_loop *loop,
		 const char *what, int64_t timeout_ms, bool (*until)(void *arg), void *arg);

/* The kernel's release that brought a feature bit, such as "6.16"; NULL: unknown bit. */
const char *ub_ctrl_feature_since(unsigned bit);
/* A feature's name without UBLK_F_; NULL: unknown bit. */
const char *ub_ctrl_feature_name(unsigned bit);

#endif
