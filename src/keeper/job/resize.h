/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The verb `resize`: another size for a device that is live.
 *
 *   growing     the server (its back end, then each queue) ─ UPDATE_SIZE ─ recipe, standby
 *   shrinking   who holds it? ─ UPDATE_SIZE ─ recipe, standby ─ the server
 *
 * So the server's size is never smaller than the kernel's, which is the one that counts: whatever
 * ends in between leaves a device of one of the two sizes. A server that may have more is told to
 * settle for the kernel's size before anything else is asked of it.
 *
 * The keeper's main thread.
 */
#ifndef UB_KEEPER_RESIZE_H
#define UB_KEEPER_RESIZE_H

#include <ublk-bridge/message.h>

#include "keeper/control.h"
#include "ublk/ctrl.h"

struct ub_keeper_resize {
	bool is_asked;	 /* the members down to the next line count */
	bool has_caller; /* else it is for an export that has grown */
	bool is_forced;
	struct ub_control_caller caller;
	uint64_t size_bytes; /* 0: the export's */

	bool is_running;
	bool must_settle;	       /* the server's size may be larger than the device's */
	uint64_t settle_not_before_ms; /* 0: at once; RESIZE_DIED_OF_IT: the server died of it */
	uint32_t id;		       /* of the newest message to a server */
	bool is_answered;
	struct ub_msg_resized answer;
	struct ub_ctrl_cmd cmd;
};

extern const struct ub_job ub_job_resize;

/* --auto-resize takes a kernel that can. 0 or -errno with *err. */
int ub_resize_check_options(const struct ub_keeper *k, struct ub_err *err);

#endif
