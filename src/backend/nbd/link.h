/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A link: one connection that was made, from its making until nothing of it is left; and the
 * mailboxes by which links, kicks and wake-ups go from thread to thread.
 *
 * The connector (or the main thread, when the back end is opened) makes it, and frees it. In
 * between it is its conn's home thread's, from nbd_conn_give() until nbd_link_retire().
 */
#ifndef UB_BACKEND_NBD_LINK_H
#define UB_BACKEND_NBD_LINK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/io.h>
#include <ublk-bridge/ledger.h>

#include "backend/nbd/cmd.h"
#include "backend/nbd/engine.h"
#include "backend/nbd/session.h"
#include "base/socket.h"

#define NBD_WHY_BYTES 200

struct nbd_backend;
struct nbd_conn;

/*
 * What a link asks for by itself, one at a time: a FLUSH, or a READ that asks for nothing but an
 * answer.
 */
struct nbd_internal {
	struct nbd_cmd cmd;
	struct ub_io io;
	bool is_busy;
	char buf[4096];
};

/*
 *   NEW ──► LIVE ──► LEAVING ──► DRAINING ──► FAILING ──► RETIRED ◄──► FENCED
 *    │       └──────────┴────────────┴───────────►┘
 *    └──► UNUSED
 *
 * The home thread sets it, but for FENCED's end, which comes under the fence's lock on any thread.
 * From UNUSED on it is the connector's.
 */
enum nbd_link_state {
	NBD_LINK_NEW, /* made, and not used yet */
	NBD_LINK_LIVE,
	/* it works, and another one waits for its place: nothing is sent on it any more */
	NBD_LINK_LEAVING,
	/*
	 * it has stalled, and another one has taken over; it is read until its changes are answered
	 */
	NBD_LINK_DRAINING,
	NBD_LINK_FAILING, /* to be retired as soon as the engine has returned */
	NBD_LINK_UNUSED,  /* it was not needed */
	NBD_LINK_RETIRED,
	/* likewise, and not reset for certain: fence.c needs its descriptor */
	NBD_LINK_FENCED,
};

/* One connection, from the handover until nothing of it is left. */
struct nbd_link {
	struct nbd_conn *conn;
	_Atomic int state; /* enum nbd_link_state */
	const struct nbd_engine *engine;
	union {
		struct nbd_libnbd libnbd;
	} e;	/* the engine's */
	int fd; /* a duplicate: it outlives libnbd's, for the fence */
	enum ub_ledger_conn_kind kind;
	int entry;	  /* its connection in the ledger; -1: none yet, or no more */
	uint32_t held_id; /* under which the keeper knows it */
	bool is_tls, has_structured_replies, has_status;
	uint32_t max_payload_bytes;
	/* of the export, as this connection knows it: a server holds each to what it was told */
	uint64_t size_bytes;

	/* The home thread's, until it is retired. */
	struct nbd_list in_flight;
	unsigned nr_in_flight;
	bool is_ready;		/* the engine's: send() may be called */
	bool is_closed_by_peer; /* the server closed it, before anything that we did to it */
	bool is_slow;		/* it was given up because it was silent for too long */
	bool is_wrong;		/* … because of what the server said */
	bool is_polite;		/* nothing is unanswered: the server is told that it ends */
	bool cannot_flush;	/* before it leaves: it was tried */
	bool has_progress;	/* since the drain timer was set */
	bool has_answered;	/* a command, in a way that could be used */
	unsigned nr_again;	/* requests that are to be sent again */
	/* that it was given, after they had been sent elsewhere; and that it answered */
	unsigned nr_got_again, nr_done_again;
	uint64_t answered_bytes;     /* of changes that are not durable by themselves */
	uint64_t flushed_bytes;	     /* of those: before a FLUSH that was answered */
	_Atomic uint64_t *unflushed; /* the difference, in the ledger */
	struct nbd_internal internal;
	char why[NBD_WHY_BYTES];

	_Atomic unsigned nr_ops; /* that the ring still has: nbd_link_op_begins() */
	struct ub_msg msg;
	struct nbd_link *next;	   /* in the connector's lists */
	struct nbd_link *replaced; /* the older one that it shall take over from */
	uint64_t made_ms;
	struct nbd_link *next_lost; /* FENCED: under fence_lock */
	struct ub_socket_ends ends; /* TCP */
};

/*
 * Makes a link of a ready handle, which it takes, for that engine. NULL: no memory, and the handle
 * is closed. The connector, or the main thread while the back end is opened.
 */
struct nbd_link *nbd_link_create(struct nbd_conn *conn, const struct nbd_engine *engine,
				 struct nbd_handle *handle, const struct nbd_export *export);
/* Neither the ring nor the fence has it any more. Whoever may create one. */
void nbd_link_free(struct nbd_link *link);

/* Whoever has it: enum nbd_link_state. */
static inline enum nbd_link_state nbd_link_state(const struct nbd_link *link)
{
	return (enum nbd_link_state)atomic_load_explicit(&link->state, memory_order_relaxed);
}

/* Any thread: as nbd_link_state(), and what was done before it was set is seen. */
static inline bool nbd_link_is_fenced(const struct nbd_link *link)
{
	return atomic_load_explicit(&link->state, memory_order_acquire) == NBD_LINK_FENCED;
}

/* The only place where it changes; asserts that this may follow what it was. */
void nbd_link_set_state(struct nbd_link *link, enum nbd_link_state to);

/*
 * It is to be retired as soon as the call that is under way has returned: at the end of the turn at
 * the latest. `why` is copied; the first one counts. Home thread.
 */
void nbd_link_fail(struct nbd_link *link, const char *why);

/*
 * An engine takes a command at any time, and can give none back: so it gets each when it can send
 * it, and no earlier. Home thread.
 */
static inline bool nbd_link_is_ready(const struct nbd_link *link)
{
	return nbd_link_state(link) < NBD_LINK_FAILING && link->is_ready;
}

/* It has answered changes that it has not flushed, and that a FLUSH would make durable. */
bool nbd_link_has_unflushed(const struct nbd_link *link);
/* Changes are in flight on it, or what makes them durable. */
bool nbd_link_has_work(const struct nbd_link *link);

/* Before anything is done to it: afterwards nobody can tell who ended it. Home thread. */
void nbd_link_look_at_end(struct nbd_link *link);

/* Home thread: the link is the connector's from now on. */
void nbd_link_retire(struct nbd_link *link);
/* The connector: what was retired since the last time, oldest first, by `next`. */
struct nbd_link *nbd_link_take_retired(struct nbd_backend *be);

/* Any thread, never blocks: there is something to do for the connector. */
void nbd_wake_connector(struct nbd_backend *be);

/* Any thread: the conn's home thread looks at its settings, and at what waits. */
void nbd_conn_kick(struct nbd_conn *conn);
void nbd_conns_kick(struct nbd_backend *be);

#endif
