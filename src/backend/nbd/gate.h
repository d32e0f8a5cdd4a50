/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A conn's gate: what holds requests back that its connection could take. The home thread.
 *
 * There are two ways. Closed, it lets nothing pass, reads included: all that comes waits in the
 * conn's line. That is for what a server has to be told before anything else when a connection is
 * new; nothing has to be today. Open, it looks at each change while there are ranges (fence.h), and
 * puts aside what overlaps one: what follows passes it by.
 */
#ifndef UB_BACKEND_NBD_GATE_H
#define UB_BACKEND_NBD_GATE_H

#include "backend/nbd/fence.h"
#include "backend/nbd/nbd.h"

/* Whether anything may pass. Whoever opens it calls nbd_send_look() then, or kicks the conn. */
static inline bool nbd_gate_is_open(const struct nbd_conn *conn)
{
	return __builtin_expect(!conn->gate.is_closed, 1);
}

/* Of an open one: whether this request may pass now. */
static inline bool nbd_gate_may_pass(const struct nbd_conn *conn, const struct nbd_cmd *cmd)
{
	struct nbd_backend *be = conn->be;

	return !nbd_op_changes(cmd->io->op) ||
	       __builtin_expect(atomic_load_explicit(&be->fence.nr_live, memory_order_acquire) == 0,
				1) ||
	       nbd_fence_may_pass(be, cmd);
}

/* Puts a request aside. Nobody waits for what a device is being moved to: there it ends. */
void nbd_gate_hold(struct nbd_conn *conn, struct nbd_cmd *cmd);

/* One that the engine had no memory for is tried again soon, as if it waited for a range. */
void nbd_gate_hold_for_memory(struct nbd_conn *conn, struct nbd_cmd *cmd);

/* What was put aside is in the line again, before what came later, in its order. */
void nbd_gate_release(struct nbd_conn *conn);

#endif
