/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a conn's links: taken, stalled and replaced, drained, given up, retired; and what the
 * core calls of a queue's conns. On the queues' own threads.
 */
#include "backend/nbd/conn.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <ublk-bridge/page.h>

#include "backend/nbd/conn-timers.h"
#include "backend/nbd/fence.h"
#include "backend/nbd/nbd.h"
#include "backend/nbd/outage.h"
#include "backend/nbd/reserve.h"
#include "backend/nbd/send.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/socket.h"

#define CONN_MAX_SLOW 16   /* doublings of a request's time */
#define CONN_PROBE_MS 1000 /* for so long a sign of life is expected of what is in flight */

/* ---- the end of a link ---------------------------------------------------- */

/* What it has answered is to be flushed, and no other connection can do that for certain. */
static bool link_must_flush(const struct nbd_link *link)
{
	return nbd_link_has_unflushed(link) && !link->cannot_flush;
}

/* What it asks for by itself goes with it. */
static void link_drop_internal(struct nbd_link *link)
{
	struct nbd_internal *internal = &link->internal;

	if (!internal->is_busy)
		return;
	internal->is_busy = false;
	nbd_list_remove(&link->in_flight, &internal->cmd);
}

/* A request goes on from its beginning: what was done of it may be gone with the server. */
static void cmd_lose_link(struct nbd_cmd *cmd, const struct nbd_link *link, bool was_alone)
{
	cmd->link = NULL;
	cmd->is_again = cmd->was_sent = true;
	cmd->nr_slow = (uint8_t)(cmd->nr_slow + (link->is_slow && cmd->nr_slow < CONN_MAX_SLOW));
	if (link->is_wrong && cmd->nr_wrong < NBD_MAX_WRONG &&
	    (was_alone || cmd->nr_wrong < NBD_SUSPECTS))
		cmd->nr_wrong++;
	link->conn->is_careful |= cmd->nr_wrong >= NBD_SUSPECTS;
	if (nbd_op_changes(cmd->io->op))
		cmd->done_bytes = 0;
	nbd_cmd_count_wait(cmd, link->conn);
}

static void conn_use_link(struct nbd_conn *conn, struct nbd_link *link);

/* A conn's link ends: what it did not answer is to be sent again, and the connector gets it. */
static void conn_retire(struct nbd_conn *conn, struct nbd_link *link)
{
	struct nbd_link *reserve = conn->reserve;
	char why[NBD_WHY_BYTES];
	bool was_alone;

	nbd_link_set_state(link, NBD_LINK_RETIRED);
	snprintf(why, sizeof(why), "%s", link->why);
	link_drop_internal(link);
	was_alone = link->in_flight.first && link->in_flight.first == link->in_flight.last;
	conn->is_flush_due |= nbd_link_has_unflushed(link);
	if (link->is_polite) {
		ub_socket_set_linger(link->fd, false);
		link->engine->bye(link);
	}
	/* Before anything of it can be sent anywhere. */
	nbd_fence_end(link);
	if (link == conn->draining) {
		conn->draining = NULL;
		ub_timer_set(&conn->drain, 0);
	} else {
		conn->link = NULL;
		atomic_store_explicit(&conn->link_bytes, 0, memory_order_release);
		nbd_outage_set_state(conn, NBD_CONN_OFFLINE);
		ub_timer_set(&conn->patience, 0);
	}
	nbd_conn_note_unflushed(conn);
	for (struct nbd_cmd *cmd = link->in_flight.first; cmd; cmd = cmd->next) {
		cmd_lose_link(cmd, link, was_alone);
		link->nr_again++;
	}
	link->nr_in_flight = 0;
	nbd_list_splice_first(&conn->waiting, &link->in_flight);
	nbd_link_retire(link);
	nbd_send_fail_wrong(conn, why);
	if (!conn->link && reserve) {
		conn->reserve = NULL;
		conn_use_link(conn, reserve);
	}
	nbd_send_look(conn);
}

/* A stalled link's place is taken: it is read on, because its answers are the one sure sign. */
static void conn_drain(struct nbd_conn *conn)
{
	struct nbd_link *link = conn->link;

	/* What had been on the link before this one has not been on this one. */
	for (struct nbd_cmd *cmd = conn->waiting.first; cmd; cmd = cmd->next)
		cmd->was_old_flushed = false;
	nbd_link_set_state(link, NBD_LINK_DRAINING);
	link->has_progress = false;
	conn->link = NULL;
	conn->draining = link;
	ub_timer_set(&conn->patience, 0);
	ub_timer_set(&conn->drain, nbd_link_patience_ms(link));
	ub_log(UB_LOG_NOTICE,
	       "%s: an old connection has unanswered writes: it is read on, for at most %llu s "
	       "more",
	       conn->be->server, (unsigned long long)nbd_link_patience_ms(link) / 1000);
}

/*
 * A link that is of no use but for what it still has to answer: once it has, what it answered is
 * flushed, because a FLUSH on another connection need not cover that, and then it ends. True: it
 * has ended.
 */
static bool conn_check_old_link(struct nbd_conn *conn, struct nbd_link *link)
{
	enum nbd_link_state state = nbd_link_state(link);

	if (state != NBD_LINK_FAILING) {
		if (state == NBD_LINK_LEAVING ? link->in_flight.first != NULL :
						nbd_link_has_work(link))
			return false;
		if (link_must_flush(link)) {
			/*
			 * A sign of life may be asked for still: there is one command of our own on
			 * a link.
			 */
			if (nbd_link_is_ready(link) && !link->internal.is_busy)
				nbd_send_internal(link, UB_OP_FLUSH);
			return false;
		}
		link->is_polite = !link->in_flight.first;
		nbd_link_fail(link, "its place is taken by another connection");
	}
	conn_retire(conn, link);
	return true;
}

/* ---- a new one ----------------------------------------------------------- */

/*
 * It works (again), and what waits at others may go over it: they may never get one of their own.
 */
static void conn_set_online(struct nbd_conn *conn)
{
	ub_timer_set(&conn->patience, 0);
	nbd_outage_set_state(conn, NBD_CONN_ONLINE);
	for (unsigned i = 0; i < conn->be->nr_conns; i++) {
		if (&conn->be->conns[i] != conn)
			nbd_conn_kick(&conn->be->conns[i]);
	}
	ub_timer_set(&conn->outage, 0);
}

void nbd_conn_progress(struct nbd_link *link)
{
	struct nbd_conn *conn = link->conn;

	if (nbd_link_state(link) == NBD_LINK_DRAINING)
		return;
	conn->has_progress = true;
	if (nbd_conn_state(conn) != NBD_CONN_STALLED)
		return;
	conn_set_online(conn);
	conn->must_issue = true;
	nbd_wake_connector(conn->be);
}

/* The conn has no link: this one is it. */
static void conn_use_link(struct nbd_conn *conn, struct nbd_link *link)
{
	struct nbd_backend *be = conn->be;

	if (!nbd_fence_open(link)) {
		ub_log(UB_LOG_WARNING,
		       "%s: too many old connections are not over yet: no new one is used",
		       be->server);
		nbd_link_set_state(link, NBD_LINK_UNUSED);
		nbd_link_retire(link);
		return;
	}
	/*
	 * What stands behind it may be another server than the last one's: what that had not
	 * flushed may be lost.
	 */
	if (conn->had_link && atomic_load(&be->backend->is_destination))
		atomic_fetch_add_explicit(&be->nr_losses, 1, memory_order_acq_rel);
	nbd_link_set_state(link, NBD_LINK_LIVE);
	conn->link = link;
	atomic_store_explicit(&conn->link_bytes, link->size_bytes, memory_order_release);
	if (conn->had_link)
		ub_stat_add(&nbd_conn_stats(conn)->reconnects, 1);
	conn->had_link = true;
	conn->quiet_ticks = 0;
	conn->has_progress = true;
	conn_set_online(conn);
}

static void conn_drop_reserve(struct nbd_conn *conn)
{
	if (!conn->reserve)
		return;
	nbd_link_set_state(conn->reserve, NBD_LINK_UNUSED);
	nbd_link_retire(conn->reserve);
	conn->reserve = NULL;
}

/* Another link for a conn that has one, which has stalled, or knows too little of the export. */
static void conn_take_successor(struct nbd_conn *conn, struct nbd_link *link)
{
	bool is_stalled = nbd_conn_state(conn) == NBD_CONN_STALLED;

	/* Two connections of a server that is not safe for that are never at work together. */
	if (!is_stalled || !conn->be->first.multi_conn) {
		conn->reserve = link;
		nbd_link_set_state(conn->link, NBD_LINK_LEAVING);
		return;
	}
	if (conn->draining) { /* two have stalled, one after the other */
		nbd_link_give_up(conn->draining);
		conn_retire(conn, conn->draining);
	}
	if (!nbd_link_has_work(conn->link) && !link_must_flush(conn->link)) {
		nbd_link_fail(conn->link, "its place is taken by another connection");
		conn_retire(conn, conn->link);
	} else {
		conn_drain(conn);
	}
	conn_use_link(conn, link);
}

static void conn_take_link(struct ub_msg *msg, struct ub_queue *q)
{
	struct nbd_link *link = ub_container_of(msg, struct nbd_link, msg);
	struct nbd_conn *conn = link->conn;

	(void)q;
	if (conn->cancel_error || (conn->link && nbd_link_state(conn->link) != NBD_LINK_FAILING &&
				   nbd_conn_state(conn) != NBD_CONN_STALLED &&
				   conn->link->size_bytes >= link->size_bytes)) {
		nbd_link_set_state(link, NBD_LINK_UNUSED);
		nbd_link_retire(link);
		return;
	}
	conn_drop_reserve(conn); /* older than this one; it must not come into use meanwhile */
	if (conn->link && nbd_link_state(conn->link) == NBD_LINK_FAILING)
		conn_retire(conn, conn->link);
	if (conn->link)
		conn_take_successor(conn, link);
	else
		conn_use_link(conn, link);
	nbd_send_look(conn);
}

void nbd_conn_give(struct nbd_link *link)
{
	link->msg.fn = conn_take_link;
	ub_queue_post(link->conn->home->bq->queue, &link->msg);
}

/* ---- all of them --------------------------------------------------------- */

static void conn_retire_links(struct nbd_conn *conn, const char *why)
{
	if (conn->draining) {
		nbd_link_fail(conn->draining, why);
		conn_retire(conn, conn->draining);
	}
	conn_drop_reserve(conn);
	if (conn->link) {
		nbd_link_fail(conn->link, why);
		conn_retire(conn, conn->link);
	}
}

/*
 * All that is in flight, or waits, is given up. A link with writes unanswered is fenced, as any
 * other.
 */
static void conn_reset(struct nbd_conn *conn)
{
	conn->is_resetting = true;
	conn_retire_links(conn, "its requests took too long");
	conn->is_resetting = false;
	nbd_send_fail(conn, -ENOLINK);
}

void nbd_conns_reset(struct nbd_backend *be)
{
	for (unsigned i = 0; i < be->nr_conns; i++) {
		atomic_store_explicit(&be->conns[i].must_reset, true, memory_order_release);
		nbd_conn_kick(&be->conns[i]);
	}
}

static void conn_kicked(struct ub_msg *msg, struct ub_queue *q)
{
	struct nbd_conn *conn = ub_container_of(msg, struct nbd_conn, kick_msg);

	(void)q;
	/* An exchange: what was changed before a kick that this one stands for is seen below. */
	atomic_exchange_explicit(&conn->is_kicked, false, memory_order_acq_rel);
	nbd_timers_take_settings(conn);
	if (atomic_exchange_explicit(&conn->must_reset, false, memory_order_acq_rel))
		conn_reset(conn);
	/* What is in flight will be a sign of life itself, if it was sent late enough. */
	if (atomic_exchange_explicit(&conn->must_probe, false, memory_order_acq_rel) &&
	    nbd_conn_works(conn) && nbd_link_is_ready(conn->link) &&
	    !conn->link->internal.is_busy &&
	    (!conn->link->nr_in_flight || nbd_fence_unproven_ms(conn->be) >= CONN_PROBE_MS))
		nbd_send_internal(conn->link, UB_OP_READ);
	nbd_send_look(conn);
}

/* ---- what the core calls ------------------------------------------------- */

void nbd_conn_init(struct nbd_conn *conn, struct nbd_backend *be, unsigned index)
{
	conn->be = be;
	conn->index = index;
	conn->knock_fd = -1;
	conn->kick_msg.fn = conn_kicked;
	nbd_send_init(conn);
}

void nbd_conns_start(struct nbd_queue *nq)
{
	nbd_fence_start(nq->be);
	for (unsigned i = 0; i < nq->nr_own; i++) {
		struct nbd_conn *conn = nq->own[i];

		nbd_timers_init(conn, nq->bq->queue);
		if (conn->given) /* made when the back end was opened */
			conn_take_link(&conn->given->msg, nq->bq->queue);
	}
	nbd_submit_end(nq->bq); /* watches them: the first I/O may be long in coming */
	if (atomic_fetch_add_explicit(&nq->be->nr_started, 1, memory_order_acq_rel) + 1 ==
	    nq->be->nr_queues)
		nbd_wake_connector(nq->be);
}

/* Sends what may go, and gives up what has ended. True: that may have changed its neighbours. */
static bool conn_settle(struct nbd_conn *conn)
{
	bool changed = false;

	if (conn->must_issue)
		nbd_send_waiting(conn);
	if (conn->link && nbd_link_state(conn->link) != NBD_LINK_LIVE)
		changed = conn_check_old_link(conn, conn->link);
	if (conn->draining)
		changed |= conn_check_old_link(conn, conn->draining);
	return changed;
}

void nbd_submit_end(struct ub_backend_queue *bq)
{
	struct nbd_queue *nq = bq->priv;
	bool again;

	nbd_reserve_look(nq);
	/* What one gives up goes to another, and that may be one before it: only then is polled. */
	do {
		again = false;
		for (unsigned i = 0; i < nq->nr_own; i++)
			again |= conn_settle(nq->own[i]);
	} while (again);
	for (unsigned i = 0; i < nq->nr_own; i++) {
		struct nbd_conn *conn = nq->own[i];

		if (conn->link)
			conn->link->engine->end_batch(conn->link);
		if (conn->draining)
			conn->draining->engine->end_batch(conn->draining);
	}
	nq->has_looked = false;
}

/* Ends all that the queue's own conns hold, and whatever comes to them from now on. */
static void queue_end_conns(struct nbd_queue *nq, int err, const char *why)
{
	for (unsigned i = 0; i < nq->nr_own; i++) {
		struct nbd_conn *conn = nq->own[i];

		conn->cancel_error = err;
		conn_retire_links(conn, why);
		nbd_send_fail(conn, err);
	}
}

void nbd_cancel(struct ub_backend_queue *bq, int err)
{
	struct nbd_queue *nq = bq->priv;

	/* Nothing is to be reached any more, and nobody to be told. */
	atomic_store_explicit(&nq->be->has_failed, true, memory_order_release);
	queue_end_conns(nq, err, "all I/O was cancelled");
}

bool nbd_queue_stop(struct ub_backend_queue *bq)
{
	struct nbd_queue *nq = bq->priv;
	bool is_armed = nq->nr_ops != 0;

	if (!nq->has_left) {
		nq->has_left = true;
		atomic_store(&nq->be->is_leaving, true);
		atomic_store(&nq->be->left_ms, ub_now_ms());
		for (unsigned i = 0; i < nq->nr_own; i++) {
			if (nq->own[i]->link && !nq->own[i]->link->nr_in_flight)
				nq->own[i]->link->is_polite = true;
		}
		queue_end_conns(nq, -ECANCELED, "it is not needed any more");
		nbd_wake_connector(nq->be);
	}
	for (unsigned i = 0; i < nq->nr_own; i++)
		is_armed |= !nbd_timers_stop(nq->own[i]);
	return !is_armed && nq->nr_ops == 0;
}
