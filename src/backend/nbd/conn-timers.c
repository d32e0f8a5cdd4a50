/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What time does to a conn: silence, patience, the outage's limit, the fence. A conn's home thread.
 * None of it ends a link: it says that one has to end, and the end of the turn does it.
 */
#include "backend/nbd/conn-timers.h"

#include "backend/nbd/fence.h"
#include "backend/nbd/outage.h"
#include "backend/nbd/send.h"
#include "base/cleanup.h"
#include "base/log.h"

/* how often is looked, at least, whether what waits for a range may go */
#define TIMERS_FENCE_MS 200

/* ---- patience ------------------------------------------------------------ */

uint64_t nbd_link_patience_ms(const struct nbd_link *link)
{
	unsigned nr_slow = 0;

	for (const struct nbd_cmd *cmd = link->in_flight.first; cmd; cmd = cmd->next)
		nr_slow = cmd->nr_slow > nr_slow ? cmd->nr_slow : nr_slow;
	return (link->conn->stall_timeout_ms << nr_slow) + 1;
}

void nbd_link_give_up(struct nbd_link *link)
{
	link->is_slow = true;
	ub_log(UB_LOG_NOTICE,
	       "%s: connection %u gave no answer for too long: it is given up, and its %u requests "
	       "are sent again",
	       link->conn->be->server, link->conn->index + 1, link->nr_in_flight);
	nbd_link_fail(link, "the server gave no answer for too long");
}

static void timers_patience_is_over(struct ub_timer *timer)
{
	struct nbd_conn *conn = ub_container_of(timer, struct nbd_conn, patience);

	if (!conn->link || nbd_conn_state(conn) != NBD_CONN_STALLED)
		return;
	/*
	 * Before the device is live a lost connection ends the attach, which has a time limit of
	 * its own.
	 */
	if (atomic_load(&conn->be->phase) == NBD_ATTACHING)
		ub_timer_set(&conn->patience, nbd_link_patience_ms(conn->link));
	else
		nbd_link_give_up(conn->link);
}

static void timers_drained(struct ub_timer *timer)
{
	struct nbd_conn *conn = ub_container_of(timer, struct nbd_conn, drain);
	struct nbd_link *link = conn->draining;

	if (!link)
		return;
	if (link->has_progress) {
		link->has_progress = false;
		ub_timer_set(&conn->drain, nbd_link_patience_ms(link));
	} else {
		nbd_link_give_up(link);
	}
}

/* ---- the others ---------------------------------------------------------- */

/* Something waits for a range. */
static void timers_look_at_fence(struct ub_timer *timer)
{
	struct nbd_conn *conn = ub_container_of(timer, struct nbd_conn, gate.look);
	uint64_t ms;

	if (!conn->gate.held.first)
		return;
	nbd_fence_tend(conn->be);
	ms = nbd_fence_next_ms(conn->be);
	ub_timer_set(&conn->gate.look, ms < TIMERS_FENCE_MS ? ms + 1 : TIMERS_FENCE_MS);
	if (ms == UINT64_MAX || conn->gate.lacks_memory) /* there are no ranges any more */
		nbd_send_look(conn);
}

/* A part of the stall timeout has passed. */
static void timers_tick(struct ub_timer *timer)
{
	struct nbd_conn *conn = ub_container_of(timer, struct nbd_conn, tick);

	conn->is_ticking = conn->link && conn->link->nr_in_flight;
	if (!conn->is_ticking)
		return;
	ub_timer_set(&conn->tick, conn->stall_timeout_ms / NBD_STALL_TICKS + 1);
	conn->quiet_ticks = conn->has_progress ? 0 : conn->quiet_ticks + 1;
	conn->has_progress = false;
	if (conn->quiet_ticks != NBD_STALL_TICKS)
		return;
	/*
	 * A slow server is not cut for nothing: it has as long again, and longer for what was sent
	 * again for that reason. What comes goes over another connection, where the server is safe
	 * for several.
	 */
	nbd_outage_set_state(conn, NBD_CONN_STALLED);
	ub_timer_set(&conn->patience, nbd_link_patience_ms(conn->link));
	nbd_outage_arm(conn);
	nbd_send_look(conn); /* what has not been sent may go over others */
	nbd_wake_connector(conn->be);
}

/* The outage limit is over. */
static void timers_outage(struct ub_timer *timer)
{
	struct nbd_conn *conn = ub_container_of(timer, struct nbd_conn, outage);

	uint64_t over = nbd_outage_ms(conn);

	if (!over || over < conn->outage_limit_ms)
		nbd_outage_arm(conn);
	else if (conn->link)
		nbd_link_fail(conn->link, "the server did not answer within the outage limit");
	else
		nbd_send_look(conn);
}

/* ---- settings, and the beginning and the end ----------------------------- */

/* The time without an answer counts from now. */
static void timers_take_stall_timeout(struct nbd_conn *conn, uint64_t timeout)
{
	conn->stall_timeout_ms = timeout;
	if (conn->is_ticking && nbd_conn_state(conn) != NBD_CONN_STALLED)
		nbd_conn_start_ticking(conn);
	if (conn->link)
		nbd_session_tune(conn->link->fd, timeout, conn->be->send_bytes);
}

void nbd_timers_take_settings(struct nbd_conn *conn)
{
	uint64_t limit = atomic_load_explicit(&conn->be->outage_limit_ms, memory_order_relaxed);
	uint64_t timeout = atomic_load_explicit(&conn->be->stall_timeout_ms, memory_order_relaxed);

	/* It counts from the beginning of the outage, which may be longer by now. */
	conn->outage_limit_ms = limit;
	nbd_outage_arm(conn);
	if (timeout != conn->stall_timeout_ms)
		timers_take_stall_timeout(conn, timeout);
}

void nbd_timers_init(struct nbd_conn *conn, struct ub_queue *q)
{
	conn->tick = (struct ub_timer){ .queue = q, .expired = timers_tick };
	conn->outage_limit_ms =
		atomic_load_explicit(&conn->be->outage_limit_ms, memory_order_relaxed);
	conn->stall_timeout_ms =
		atomic_load_explicit(&conn->be->stall_timeout_ms, memory_order_relaxed);
	conn->outage = (struct ub_timer){ .queue = q, .expired = timers_outage };
	conn->patience = (struct ub_timer){ .queue = q, .expired = timers_patience_is_over };
	conn->drain = (struct ub_timer){ .queue = q, .expired = timers_drained };
	conn->gate.look = (struct ub_timer){ .queue = q, .expired = timers_look_at_fence };
}

bool nbd_timers_stop(struct nbd_conn *conn)
{
	ub_timer_stop(&conn->tick);
	ub_timer_stop(&conn->outage);
	ub_timer_stop(&conn->patience);
	ub_timer_stop(&conn->drain);
	ub_timer_stop(&conn->gate.look);
	return !conn->tick.armed_ns && !conn->outage.armed_ns && !conn->drain.armed_ns &&
	       !conn->patience.armed_ns && !conn->gate.look.armed_ns;
}
