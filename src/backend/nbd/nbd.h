/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD back end's parts and what they share. Private to src/backend/nbd/.
 *
 *   queue thread                               connector thread (one a back end)
 *   engine.c: conn ── link: commands ◄── link ── connector.c: sessions, back-off, comparing
 *                 └── retired link ────────────► fences it, closes it
 *
 * A conn is a place for a connection, and has one home queue. A link is one connection that was made:
 * its commands in flight are on its own list, because libnbd forgets them. When it ends it is retired:
 * what it had not answered waits at the conn, or goes to another one that is online; the link itself goes
 * to the connector, which makes sure that nothing of it can still be executed (the fence) before a write
 * is sent again. One that stalled, and whose place is taken, is drained first: read on until its writes
 * are answered.
 */
#ifndef UB_BACKEND_NBD_NBD_H
#define UB_BACKEND_NBD_NBD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/backend.h>

#include "backend/nbd/options.h"
#include "backend/nbd/session.h"

#define NBD_WHY_BYTES 200

struct nbd_conn;
struct nbd_link;
struct nbd_backend;

/* The scratch of an I/O. It belongs to the home thread of the conn where the I/O is. */
struct nbd_cmd {
	struct ub_io *io;
	struct nbd_link *link; /* in flight there; NULL: it waits */
	uint32_t done_bytes;   /* by the parts that were answered: what a server's maximum makes us split */
	uint32_t part_bytes, seen_bytes; /* of the part in flight; of a READ's data, how much came */
	uint64_t seen_edges;		 /* … and where its pieces begin and end: engine.c */
	uint64_t sent_ns; /* for the statistics */
	bool is_again;	  /* it was sent, and its connection ended */
	struct nbd_cmd *prev, *next;	 /* in in_flight or waiting */
	struct nbd_cmd *posted;		 /* in an inbox */
};

/* In order of submission. */
struct nbd_list {
	struct nbd_cmd *first, *last;
};

/* One connection, from the handover until nothing of it is left. */
struct nbd_link {
	struct nbd_conn *conn;
	struct nbd_handle *handle;
	int fd; /* a duplicate: it outlives libnbd's, for the fence */
	uint32_t held_id; /* under which the keeper knows it */
	bool is_tls, is_tcp, has_structured_replies, has_status;
	uint32_t max_payload_bytes;
	uint64_t size_bytes; /* of the export, as this connection knows it: a server holds each to what it was told */

	/* The home thread's, until it is retired. */
	struct nbd_list in_flight;
	unsigned nr_in_flight;
	unsigned nr_sent; /* commands, since the batch began */
	uint32_t replied_bytes; /* of the replies that were read since it was set to 0: at the most so many */
	struct ub_watch readable, writable, hung_up;
	bool readable_armed, writable_armed, hung_up_armed;
	bool failing;  /* to be retired as soon as libnbd has returned */
	bool is_ended; /* the server closed it: the fence is passed */
	bool is_lost; /* it was not us who ended it: the server may have died */
	bool is_cut_here; /* it ended without a word from the server: its state proves nothing */
	bool is_draining; /* another one has taken over; it is read until its writes are answered */
	bool is_healthy; /* though it is draining: so it is read until all is answered */
	bool needs_fence; /* writes are unanswered */
	bool unused;	  /* it was not needed any more */
	bool has_answered; /* a command, however */
	unsigned nr_again; /* requests that are to be sent again */
	char why[NBD_WHY_BYTES];

	_Atomic unsigned nr_armed; /* watches that the ring still has */
	struct ub_msg msg;
	struct nbd_link *next;	   /* in the connector's lists */
	struct nbd_link *replaced; /* the stalled one that it shall take over from */
	uint64_t made_ms;

	/* The connector's, once it is retired. */
	uint64_t fence_deadline_ms; /* set before that where it was drained first */
	bool is_fenced;
};

/* A session that is being made, and when the next one may be. The connector's. */
struct nbd_attempt {
	struct nbd_handle *handle; /* NULL: none */
	uint64_t deadline_ms;
	uint64_t not_before_ms;
	uint64_t delay_ms;
	bool was_useless; /* the last one: another's success is no reason to hurry */
};

struct nbd_conn {
	struct nbd_backend *be;
	unsigned index;
	struct nbd_queue *home; /* set before any thread uses it */

	/* The home thread's. */
	struct nbd_link *link; /* NULL: offline */
	struct nbd_link *draining; /* the one before it, whose writes the server may still execute; NULL: none */
	struct nbd_list waiting;
	bool is_resetting;
	bool had_link; /* it is not its first one */
	bool must_issue; /* waiting ones may go at the end of the batch */
	struct ub_timer tick, outage, drain;
	uint64_t outage_limit_ms, stall_timeout_ms; /* as the timers have them: conn_take_settings() */
	bool is_ticking, has_progress;
	unsigned quiet_ticks;
	uint64_t quiet_since_ms; /* offline or stalled since; 0: it works */
	int32_t cancel_error;

	/* Any thread's. */
	_Atomic bool is_online; /* with a link that is not stalled */
	_Atomic bool is_stalled;
	_Atomic uint64_t link_bytes; /* of its link's export; 0: it is offline */
	struct nbd_cmd *_Atomic inbox;
	struct ub_msg inbox_msg;
	struct ub_msg kick_msg;
	_Atomic bool is_kicked;
	_Atomic bool must_reset; /* what is in flight, or waits, takes too long */

	/* The connector's. */
	struct nbd_link *given; /* the newest link, until it is retired */
	struct nbd_attempt attempt;
};

struct nbd_queue {
	struct nbd_backend *be;
	struct ub_backend_queue *bq;
	struct nbd_cmd *cmds; /* one a slot */
	struct nbd_conn **own;
	unsigned nr_own;
	unsigned nr_armed; /* watches of own connections that the ring still has */
	bool has_left;	   /* nbd_engine_leave() was called */
	bool may_use_reserve, uses_reserve; /* a real-time thread: while memory is short */
	bool has_looked; /* at memory, in this batch */
	uint64_t memory_seen_ms;
};

enum nbd_phase { NBD_ATTACHING, NBD_LIVE, NBD_LOST };

struct nbd_backend {
	struct ub_backend *backend;
	struct nbd_options options; /* as it was opened */
	char server[160]; /* in words */
	/* Those that can be changed: the main thread sets them, and kicks the conns. */
	_Atomic uint64_t outage_limit_ms, stall_timeout_ms;
	struct nbd_export first;
	struct ub_limits limits; /* as it was opened: the size may be another one by now */
	_Atomic uint64_t size_bytes;   /* the device's */
	_Atomic uint64_t wanted_bytes; /* connections that know less of the export are made again: the device is to grow */
	_Atomic uint64_t seen_bytes;   /* the export's, as the newest connection knows it */
	uint64_t short_bytes; /* memory is short when less than this is free */
	size_t heap_bytes; /* that making the connections took */
	uint64_t send_bytes; /* a connection's socket may hold so much to be sent */
	int cancel_fd; /* readable: give up opening; -1: none */
	unsigned nr_conns;
	struct nbd_conn *conns;
	_Atomic unsigned nr_queues; /* the connector runs while they are made */
	struct nbd_queue *queues[UINT8_MAX + 1];

	_Atomic unsigned nr_started; /* queues whose threads run; the connector begins with the last */
	_Atomic int phase; /* enum nbd_phase: whichever comes first, being live or an outage, decides */
	_Atomic bool has_failed;     /* for good: all I/O fails */
	_Atomic bool is_leaving;     /* no connection is made any more */
	_Atomic unsigned nr_unfenced; /* retired links whose writes may still be executed: no write is sent */
	_Atomic uint64_t nr_losses; /* how often the server may have died */
	_Atomic uint64_t latency_ns; /* of the network, when the last connection was made */
	_Atomic int next_socket;     /* of --command, after a restart; -1: none */

	/* The connector: connector.c. */
	pthread_t thread;
	bool has_thread;
	int wake_fd;
	_Atomic bool must_end;
	struct nbd_link *_Atomic retired; /* by queue threads */
	struct nbd_link *fencing;	  /* all that were retired and are not freed yet */
	uint64_t offline_since_ms;	  /* 0: online */
	bool is_recovered; /* the device had another server process before this one */
	bool said_stalled, said_slow;
	uint64_t said_grown_bytes;
	unsigned nr_again;
	char last_why[NBD_WHY_BYTES];
	unsigned seed;
};

/* ---- engine.c: on the queues' threads --------------------------------------------------------------- */

void nbd_engine_start(struct nbd_queue *nq);
void nbd_engine_submit(struct nbd_queue *nq, struct ub_io *io);
void nbd_engine_submit_end(struct nbd_queue *nq);
void nbd_engine_cancel(struct nbd_queue *nq, int err);
/* It is taken out of a live device: all ends. Again, until it is true: the ring has let go of everything. */
bool nbd_engine_leave(struct nbd_queue *nq);
/* Any thread: what is in flight ends with ENOLINK, and its connections are made again. */
void nbd_engine_reset(struct nbd_backend *be);

/* Any thread: hands a link to its conn's home thread; that one looks at what waits. */
void nbd_engine_give(struct nbd_link *link);
void nbd_engine_kick(struct nbd_conn *conn);

/* ---- connector.c -------------------------------------------------------------------------------------- */

/* Makes a link of a ready handle, which it takes. NULL: no memory, and the handle is closed. */
struct nbd_link *nbd_link_create(struct nbd_conn *conn, struct nbd_handle *handle,
				 const struct nbd_export *export);
void nbd_link_free(struct nbd_link *link);

/*
 * Makes the calling thread one whose sends find pages when others have to wait for them, or an ordinary one
 * again. 0 or -errno (it needs CAP_SYS_NICE).
 */
int nbd_thread_use_reserve(bool use);

int nbd_connector_start(struct nbd_backend *be, struct ub_err *err);
void nbd_connector_stop(struct nbd_backend *be); /* also one that was not started */

/* Any thread: one link less that writes have to wait for. */
void nbd_fence_passed(struct nbd_backend *be);

/* Any thread, never blocks: there is something to do for it. */
void nbd_connector_wake(struct nbd_backend *be);
/* A queue's thread: the link is the connector's from now on. */
void nbd_connector_retire(struct nbd_link *link);

#endif
