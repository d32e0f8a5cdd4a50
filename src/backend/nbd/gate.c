/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is put aside at a conn's gate. The home thread. */
#include "backend/nbd/gate.h"

#include <errno.h>

#include "base/log.h"
#include "base/loop.h"

#define GATE_SAY_MEMORY_MS 10000 /* not more often */

void nbd_gate_hold(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	if (atomic_load_explicit(&conn->be->backend->is_destination, memory_order_relaxed)) {
		nbd_cmd_complete(cmd, -ENOLINK);
		return;
	}
	if (!conn->gate.held.first)
		ub_timer_set(&conn->gate.look, 1);
	nbd_list_add(&conn->gate.held, cmd);
	nbd_fence_count_waiting(conn->be, true);
}

void nbd_gate_hold_for_memory(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	uint64_t now = ub_now_ms();

	if (!conn->gate.said_memory_ms || now - conn->gate.said_memory_ms > GATE_SAY_MEMORY_MS) {
		ub_log(UB_LOG_WARNING,
		       "%s: there is no memory to send a request: it is tried again",
		       conn->be->server);
		conn->gate.said_memory_ms = now;
	}
	conn->gate.lacks_memory = true;
	nbd_gate_hold(conn, cmd);
}

void nbd_gate_release(struct nbd_conn *conn)
{
	conn->gate.lacks_memory = false;
	for (const struct nbd_cmd *cmd = conn->gate.held.first; cmd; cmd = cmd->next)
		nbd_fence_count_waiting(conn->be, false);
	nbd_list_splice_first(&conn->waiting, &conn->gate.held);
}
