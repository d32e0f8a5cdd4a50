/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A conn: a place for a connection, and what waits for one there. It has one home queue, whose
 * thread alone sends and reads on its links.
 */
#ifndef UB_BACKEND_NBD_CONN_H
#define UB_BACKEND_NBD_CONN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/backend.h>

#include "backend/nbd/cmd.h"
#include "backend/nbd/link.h"

struct nbd_backend;
struct nbd_queue;

/* A session that is being made, and when the next one may be. The connector's. */
struct nbd_attempt {
	struct nbd_handle *handle; /* NULL: none */
	uint64_t deadline_ms;
	uint64_t not_before_ms;
	uint64_t delay_ms;
	uint32_t seq; /* of the fence, when it began */
	/*
	 * when to doubt that the server has heard of the last connection's end; 0: it is not, or
	 * has been done
	 */
	uint64_t knock_ms;
	bool was_useless; /* the last one: another's success is no reason to hurry */
};

/* What holds requests back: gate.h. */
struct nbd_gate {
	bool is_closed;	      /* nothing passes, reads included */
	struct nbd_list held; /* put aside: changes that overlap a range */
	bool lacks_memory;    /* the engine had none for one of these */
	uint64_t said_memory_ms;
	struct ub_timer look; /* at those that are held */
};

/* OFFLINE ◄──► ONLINE ──► STALLED, and from there to both. The home thread sets it. */
enum nbd_conn_state {
	NBD_CONN_OFFLINE,
	NBD_CONN_ONLINE,
	/* its newest link gives no answer; it may have none, while that one is drained */
	NBD_CONN_STALLED,
};

struct nbd_conn {
	struct nbd_backend *be;
	unsigned index;
	struct nbd_queue *home; /* set before any thread uses it */

	/* The home thread's. */
	struct nbd_link *link; /* NULL: offline */
	/* the one before it, that has not answered everything; NULL: none */
	struct nbd_link *draining;
	struct nbd_link *reserve; /* takes the place of a link that is leaving */
	struct nbd_list waiting;
	struct nbd_gate gate;
	bool is_resetting;
	bool had_link;	 /* it is not its first one */
	bool must_issue; /* waiting ones may go at the end of the batch */
	/* a link ended with answered changes that it had not flushed: the next one is asked to */
	bool is_flush_due;
	/* one at a time: connections ended over something that one of these was answered with */
	bool is_careful;
	struct ub_timer tick, outage, patience, drain;
	/* as the timers have them: nbd_timers_take_settings() */
	uint64_t outage_limit_ms, stall_timeout_ms;
	bool is_ticking, has_progress;
	unsigned quiet_ticks;
	int32_t cancel_error;

	/* Any thread's. */
	_Atomic int state;	     /* enum nbd_conn_state: nbd_outage_set_state() */
	_Atomic uint64_t link_bytes; /* of its link's export; 0: it is offline */
	struct nbd_cmd *_Atomic inbox;
	struct ub_msg inbox_msg;
	struct ub_msg kick_msg;
	_Atomic bool is_kicked;
	_Atomic bool must_reset; /* what is in flight, or waits, takes too long */
	_Atomic bool must_probe; /* a sign of life is asked for */
	/* one of its links has answered changes that it has not flushed, or its last one had */
	_Atomic bool has_unflushed;

	/* The connector's. */
	struct nbd_link *given;	   /* the newest link, until it is retired */
	struct ub_socket_ends old; /* of the last one that we have reset */
	int knock_fd;		   /* -1: none */
	struct nbd_attempt attempt;
};

/* a stall timeout has so many parts; it is noticed one of them late at the most */
#define NBD_STALL_TICKS 4
#define NBD_MAX_WRONG	8 /* wrong answers to one request; then it fails */
#define NBD_SUSPECTS	4 /* … from so many on those that may be it are sent one by one */

/* The home thread. */
static inline enum nbd_conn_state nbd_conn_state(const struct nbd_conn *conn)
{
	return (enum nbd_conn_state)atomic_load_explicit(&conn->state, memory_order_relaxed);
}

/* Any thread. */
static inline bool nbd_conn_is_online(const struct nbd_conn *conn)
{
	return atomic_load_explicit(&conn->state, memory_order_acquire) == NBD_CONN_ONLINE;
}

static inline bool nbd_conn_is_stalled(const struct nbd_conn *conn)
{
	return atomic_load_explicit(&conn->state, memory_order_acquire) == NBD_CONN_STALLED;
}

/* Whether new requests may be sent on it: on a stalled one they would wait, too. */
static inline bool nbd_conn_works(const struct nbd_conn *conn)
{
	return conn->link && nbd_link_state(conn->link) == NBD_LINK_LIVE &&
	       nbd_conn_state(conn) == NBD_CONN_ONLINE;
}

/*
 * Whether one of the conn's links has answered changes that it has not flushed: for FLUSHes of
 * other queues.
 */
static inline void nbd_conn_note_unflushed(struct nbd_conn *conn)
{
	bool has =
		conn->is_flush_due ||
		(conn->link && conn->link->answered_bytes != conn->link->flushed_bytes) ||
		(conn->draining && conn->draining->answered_bytes != conn->draining->flushed_bytes);

	if (atomic_load_explicit(&conn->has_unflushed, memory_order_relaxed) != has)
		atomic_store_explicit(&conn->has_unflushed, has, memory_order_release);
}

/* Something was sent, and before it nothing was in flight: the time without an answer counts. */
static inline void nbd_conn_start_ticking(struct nbd_conn *conn)
{
	conn->is_ticking = true;
	conn->has_progress = true;
	conn->quiet_ticks = 0;
	ub_timer_set(&conn->tick, conn->stall_timeout_ms / NBD_STALL_TICKS + 1);
}

/* Main thread: one that was zeroed, before any thread knows of it. */
void nbd_conn_init(struct nbd_conn *conn, struct nbd_backend *be, unsigned index);

/* The connector: hands a link to its conn's home thread, whose it is from now on. */
void nbd_conn_give(struct nbd_link *link);

/* The queue's thread begins. */
void nbd_conns_start(struct nbd_queue *nq);
/* Any thread: what is in flight ends with ENOLINK, and its connections are made again. */
void nbd_conns_reset(struct nbd_backend *be);

/* The contract's, backend.h: on the queue's thread. */
void nbd_submit_end(struct ub_backend_queue *bq);
void nbd_cancel(struct ub_backend_queue *bq, int err);
bool nbd_queue_stop(struct ub_backend_queue *bq);

#endif
