/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is sent on a conn, in which order, and what waits there instead: for a connection, for its
 * engine, for a range of the fence. The home thread, but for what is posted there.
 */
#include "backend/nbd/send.h"

#include <assert.h>
#include <errno.h>

#include <ublk-bridge/page.h>

#include "backend/nbd/fence.h"
#include "backend/nbd/gate.h"
#include "backend/nbd/outage.h"
#include "backend/nbd/reserve.h"
#include "backend/nbd/route.h"
#include "base/cleanup.h"
#include "base/log.h"

/* ---- a command ----------------------------------------------------------- */

static void send_count(struct nbd_cmd *cmd, const struct nbd_conn *conn)
{
	ub_stat_add(&nbd_conn_stats(conn)->requests, 1);
	if (cmd->is_again)
		ub_stat_add(&nbd_conn_stats(conn)->retries, 1);
	cmd->is_again = false;
	cmd->sent_ns = ub_queue_turn_ns(conn->home->bq->queue);
}

static void send_mark_flush(const struct nbd_link *link, struct nbd_cmd *cmd)
{
	cmd->flush_mark = link->answered_bytes;
	cmd->losses = atomic_load_explicit(&cmd->be->nr_losses, memory_order_acquire);
}

/* False: there was no memory for it, and nothing of it was sent. */
static bool send_issue(struct nbd_link *link, struct nbd_cmd *cmd)
{
	uint32_t left = cmd->io->len_bytes - cmd->done_bytes;
	int ret;

	if (__builtin_expect(cmd->io->op == UB_OP_STATUS && !link->has_status, 0)) {
		nbd_cmd_complete(cmd, -EOPNOTSUPP);
		return true;
	}
	cmd->link = link;
	cmd->seen_bytes = 0;
	cmd->seen_edges = 0;
	cmd->part_bytes = left;
	if (cmd->io->op <= UB_OP_WRITE && left > link->max_payload_bytes)
		cmd->part_bytes = link->max_payload_bytes;
	cmd->sent_seq = atomic_load_explicit(&cmd->be->fence.seq, memory_order_acquire);
	/* Before it can be anywhere: whoever comes after our death must know of it. */
	if (nbd_op_changes(cmd->io->op))
		ub_fence_send(cmd->rec, link->entry, cmd->io->op, cmd->io->offset_bytes,
			      cmd->io->len_bytes);
	else if (cmd->io->op == UB_OP_FLUSH)
		send_mark_flush(link, cmd);
	link->nr_got_again += cmd->was_sent;
	nbd_list_add(&link->in_flight, cmd);
	link->nr_in_flight++;
	if (!link->conn->is_ticking)
		nbd_conn_start_ticking(link->conn);
	send_count(cmd, link->conn);
	ret = link->engine->send(link, cmd);
	if (__builtin_expect(ret == 0, 1))
		return true; /* of a dead one it stays in the list, to be sent again */
	nbd_list_remove(&link->in_flight, cmd);
	link->nr_in_flight--;
	cmd->link = NULL;
	if (nbd_op_changes(cmd->io->op))
		ub_fence_answer(cmd->rec);
	if (ret == -EAGAIN)
		return false;
	nbd_cmd_complete(cmd, ret);
	return true;
}

void nbd_send_internal(struct nbd_link *link, uint8_t op)
{
	struct nbd_internal *internal = &link->internal;
	struct nbd_backend *be = link->conn->be;

	assert(!internal->is_busy);
	internal->is_busy = true;
	internal->io = (struct ub_io){ .op = op };
	if (op == UB_OP_READ) {
		internal->io.len_bytes = be->limits.logical_block_bytes;
		internal->io.buf = internal->buf;
	}
	internal->cmd = (struct nbd_cmd){ .be = be, .io = &internal->io, .is_internal = true };
	if (!send_issue(link, &internal->cmd))
		nbd_cmd_complete(&internal->cmd, -ENOMEM);
}

/* ---- may it go? ---------------------------------------------------------- */

/* A FLUSH is for both links of a conn, the older one first. */
static bool send_is_for_draining(const struct nbd_conn *conn, const struct nbd_cmd *cmd)
{
	return cmd->io->op == UB_OP_FLUSH && conn->draining && !cmd->was_old_flushed &&
	       nbd_link_has_unflushed(conn->draining);
}

/*
 * Connections have ended over answers that nobody could understand, and it is not known to which
 * request those were. A request that is alone in flight is the one; so the suspects are sent alone.
 */
static bool send_must_wait_for_suspect(struct nbd_conn *conn)
{
	bool has_suspects = false;

	if (__builtin_expect(!conn->is_careful, 1))
		return false;
	for (const struct nbd_cmd *cmd = conn->link->in_flight.first; cmd; cmd = cmd->next)
		has_suspects |= cmd->nr_wrong >= NBD_SUSPECTS;
	for (const struct nbd_cmd *cmd = conn->waiting.first; cmd; cmd = cmd->next)
		has_suspects |= cmd->nr_wrong >= NBD_SUSPECTS;
	conn->is_careful = has_suspects;
	return has_suspects && conn->link->nr_in_flight;
}

static bool send_may_issue(struct nbd_conn *conn, const struct nbd_cmd *cmd)
{
	if (__builtin_expect(conn->draining != NULL, 0) && send_is_for_draining(conn, cmd))
		return nbd_link_is_ready(conn->draining);
	return nbd_conn_works(conn) && nbd_gate_is_open(conn) && nbd_link_is_ready(conn->link) &&
	       !send_must_wait_for_suspect(conn);
}

/* Sends what send_may_issue(). */
static void send_one(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	if (!nbd_gate_may_pass(conn, cmd))
		nbd_gate_hold(conn, cmd);
	else if (!send_issue(__builtin_expect(conn->draining != NULL, 0) &&
					     send_is_for_draining(conn, cmd) ?
				     conn->draining :
				     conn->link,
			     cmd))
		nbd_gate_hold_for_memory(conn, cmd);
}

/* ---- what waits ---------------------------------------------------------- */

void nbd_send_fail(struct nbd_conn *conn, int32_t error)
{
	nbd_gate_release(conn);
	while (conn->waiting.first) {
		struct nbd_cmd *cmd = conn->waiting.first;

		nbd_list_remove(&conn->waiting, cmd);
		nbd_cmd_complete(cmd, error);
	}
}

void nbd_send_fail_wrong(struct nbd_conn *conn, const char *why)
{
	struct nbd_cmd *cmd = conn->waiting.first, *next;

	for (; cmd; cmd = next) {
		next = cmd->next;
		if (cmd->nr_wrong < NBD_MAX_WRONG)
			continue;
		ub_log(UB_LOG_WARNING,
		       "%s: a request of %u bytes at byte %llu fails: %u connections ended over "
		       "it: %s",
		       conn->be->server, cmd->io->len_bytes,
		       (unsigned long long)cmd->io->offset_bytes, cmd->nr_wrong, why);
		nbd_list_remove(&conn->waiting, cmd);
		nbd_cmd_complete(cmd, -EIO);
	}
}

static void send_wait(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	int32_t error = nbd_outage_offline_error(conn);

	if (error)
		nbd_cmd_complete(cmd, error);
	else
		nbd_list_add(&conn->waiting, cmd);
}

static void send_add(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	if (!conn->waiting.first && send_may_issue(conn, cmd))
		send_one(conn, cmd);
	else
		send_wait(conn, cmd);
	conn->must_issue |= conn->waiting.first && conn->link;
}

/* Hands an I/O to a conn that another thread is the home of. */
static void send_post(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	struct nbd_cmd *head = atomic_load_explicit(&conn->inbox, memory_order_relaxed);

	do {
		cmd->posted = head;
	} while (!atomic_compare_exchange_weak_explicit(&conn->inbox, &head, cmd,
							memory_order_acq_rel,
							memory_order_relaxed));
	if (head)
		return;
	ub_queue_post(conn->home->bq->queue, &conn->inbox_msg);
}

/* Sends a request on its way, on this queue's thread. */
static void send_route(struct nbd_queue *nq, struct nbd_cmd *cmd)
{
	struct nbd_conn *conn = nbd_route(nq, cmd);

	if (__builtin_expect(!conn, 0))
		nbd_flush_complete(cmd);
	else if (conn->home == nq)
		send_add(conn, cmd);
	else
		send_post(conn, cmd);
}

/*
 * As send_add(), of what another thread sent when this conn worked: it may have ended since then.
 */
static void send_add_posted(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	if (!conn->link && !nbd_outage_final_error(conn) &&
	    (nbd_route_own(conn->home) || nbd_route_any(conn->home)))
		send_route(conn->home, cmd);
	else
		send_add(conn, cmd);
}

static void send_take_inbox(struct ub_msg *msg, struct ub_queue *q)
{
	struct nbd_conn *conn = ub_container_of(msg, struct nbd_conn, inbox_msg);
	/*
	 * Who finds the inbox empty posts the message again: the mailbox is done with it before
	 * that.
	 */
	struct nbd_cmd *cmd = atomic_exchange_explicit(&conn->inbox, NULL, memory_order_acq_rel);
	struct nbd_cmd *oldest = NULL;

	(void)q;
	while (cmd) {
		struct nbd_cmd *next = cmd->posted;

		cmd->posted = oldest;
		oldest = cmd;
		cmd = next;
	}
	while (oldest) {
		cmd = oldest;
		oldest = cmd->posted;
		send_add_posted(conn, cmd);
	}
}

/* A FLUSH that has to go to another conn. */
static bool send_is_elsewhere(const struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	const struct nbd_conn *target;

	if (cmd->io->op != UB_OP_FLUSH || (!cmd->todo && !cmd->was_flushed) || cmd->was_old_flushed)
		return false;
	target = nbd_route_flush(cmd);
	return target ? target != conn : nbd_flush_is_done(cmd);
}

void nbd_send_waiting_now(struct nbd_conn *conn)
{
	struct nbd_cmd *cmd = conn->waiting.first, *next;

	for (; cmd; cmd = next) {
		next = cmd->next;
		if (send_is_elsewhere(conn, cmd)) {
			nbd_list_remove(&conn->waiting, cmd);
			send_route(conn->home, cmd);
		} else if (send_may_issue(conn, cmd)) {
			nbd_list_remove(&conn->waiting, cmd);
			send_one(conn, cmd);
		} else if (cmd->io->op != UB_OP_FLUSH && !conn->draining) {
			break; /* nor may what follows */
		}
	}
}

/* An offline conn's I/O goes over another one, if there is one that works. */
static void send_reroute(struct nbd_conn *conn)
{
	struct nbd_list list;

	if (!nbd_route_own(conn->home) && !nbd_route_any(conn->home))
		return;
	nbd_gate_release(conn);
	list = conn->waiting;
	conn->waiting.first = conn->waiting.last = NULL;
	while (list.first) {
		struct nbd_cmd *cmd = list.first;

		nbd_list_remove(&list, cmd);
		cmd->was_old_flushed = false;
		send_route(conn->home, cmd);
	}
}

void nbd_send_look(struct nbd_conn *conn)
{
	int32_t error = nbd_outage_final_error(conn);

	if (conn->is_resetting)
		error = -ENOLINK;
	if (!error && nbd_conn_works(conn)) {
		nbd_gate_release(conn);
		nbd_send_waiting(conn);
		return;
	}
	if (!error) {
		send_reroute(conn);
		error = nbd_outage_offline_error(conn);
	}
	if (error)
		nbd_send_fail(conn, error);
}

/* ---- what the core calls ------------------------------------------------- */

void nbd_send_init(struct nbd_conn *conn)
{
	/* Not when its home starts: that may come later than another queue's first I/O. */
	conn->inbox_msg.fn = send_take_inbox;
}

void nbd_submit(struct ub_backend_queue *bq, struct ub_io *io)
{
	struct nbd_queue *nq = bq->priv;
	struct nbd_cmd *cmd = &nq->cmds[io->slot];

	cmd->io = io;
	cmd->link = NULL;
	cmd->is_again = cmd->was_sent = false;
	cmd->was_flushed = cmd->was_old_flushed = false;
	cmd->nr_slow = cmd->nr_wrong = 0;
	cmd->done_bytes = 0;
	cmd->todo = io->op == UB_OP_FLUSH ? nbd_route_flush_conns(nq->be) : 0;
	if (__builtin_expect(atomic_load_explicit(&nq->be->fence.nr_claimable,
						  memory_order_acquire) != 0,
			     0) &&
	    nbd_op_changes(io->op))
		nbd_fence_claim(nq->be, cmd, io);
	nbd_reserve_look(nq);
	send_route(nq, cmd);
}

void nbd_give_back(struct ub_backend_queue *bq, const struct ub_io *io)
{
	struct nbd_queue *nq = bq->priv;
	struct nbd_cmd *cmd = &nq->cmds[io->slot];

	/* The parts that never came may have ranges as well. */
	if (atomic_load_explicit(&nq->be->fence.nr_claimable, memory_order_acquire) != 0)
		nbd_fence_claim(nq->be, cmd, io);
	if (cmd->has_ranges)
		nbd_fence_done(nq->be, cmd);
}
