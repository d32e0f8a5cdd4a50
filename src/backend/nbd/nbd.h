/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD back end's parts and what they share. Private to src/backend/nbd/.
 *
 *   queue thread                               connector thread (one a back end)
 *   engine.c: conn ── link: commands ◄── link ── connector.c: sessions, back-off, comparing
 *                 └── retired link ────────────► frees it, when nothing needs it any more
 *   fence.c: which changes wait for what a retired link's server may still do (any thread, under a
 *   lock)
 *
 * A conn is a place for a connection, and has one home queue. A link is one connection that was
 * made. A request is in flight on one link only, and on that link's own list, because libnbd
 * forgets it. A link that has given no answer for the stall timeout is stalled: it keeps what it
 * has, and is read on, and what comes goes over its successor, where the server is safe for several
 * connections. It is given up when it ends by itself, or after as long again. Then it is retired:
 * its socket is reset, the changes that it had not answered become ranges in the ledger, and all
 * that it had is sent again, whole.
 */
#ifndef UB_BACKEND_NBD_NBD_H
#define UB_BACKEND_NBD_NBD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/backend.h>

#include <ublk-bridge/ledger.h>

#include "backend/nbd/options.h"
#include "backend/nbd/session.h"
#include "base/fence.h"
#include "base/socket.h"

#define NBD_WHY_BYTES 200

struct nbd_conn;
struct nbd_link;
struct nbd_backend;

/* The scratch of an I/O. It belongs to the home thread of the conn where the I/O is. */
struct nbd_cmd {
	struct nbd_backend *be;
	struct ub_io *io;
	struct nbd_link *link; /* in flight there; NULL: it waits */
	/* by the parts that were answered: what a server's maximum makes us split */
	uint32_t done_bytes;
	/* of the part in flight; of a READ's data, how much came */
	uint32_t part_bytes, seen_bytes;
	uint64_t seen_edges; /* … and where its pieces begin and end: engine.c */
	uint64_t sent_ns;    /* for the statistics */
	/* it was sent, and its connection ended, and it has not been sent again yet */
	bool is_again;
	bool was_sent;	  /* it was sent, and its connection ended, at some time */
	bool has_ranges;  /* the ledger has some that let it pass */
	bool is_internal; /* the link's own: link_send_internal() */
	/* FLUSH: of the conn where it is, the older link; any conn */
	bool was_old_flushed, was_flushed;
	/* how often its link was given up because it was slow: each time it gets twice as long */
	uint8_t nr_slow;
	uint8_t nr_wrong;  /* how often its answer was wrong */
	uint32_t owner;	   /* its name in the ledger; not 0 */
	uint32_t sent_seq; /* of the fence, when it was sent */
	/* be->nr_losses: when its first part was answered; FLUSH: when it was sent last */
	uint64_t losses;
	uint64_t flush_mark;	     /* FLUSH: the link's answered_bytes when it was sent */
	uint64_t todo;		     /* FLUSH: a bit for each conn that it has to be sent to */
	struct ub_ledger_sent *rec;  /* its record in the ledger */
	struct nbd_cmd *prev, *next; /* in in_flight, waiting or fenced */
	struct nbd_cmd *posted;	     /* in an inbox */
};

/* In order of submission. */
struct nbd_list {
	struct nbd_cmd *first, *last;
};

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

/* One connection, from the handover until nothing of it is left. */
struct nbd_link {
	struct nbd_conn *conn;
	struct nbd_handle *handle;
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
	unsigned nr_sent; /* commands, since the batch began */
	/* of the replies that were read since it was set to 0: at the most so many */
	uint32_t replied_bytes;
	struct ub_watch readable, writable, hung_up;
	bool readable_armed, writable_armed, hung_up_armed;
	bool failing;		/* to be retired as soon as libnbd has returned */
	bool is_closed_by_peer; /* the server closed it, before anything that we did to it */
	bool is_slow;		/* it was given up because it was silent for too long */
	bool is_wrong;		/* … because of what the server said */
	/* another one has taken over; it is read until its changes are answered */
	bool is_draining;
	/* it works, and another one waits for its place: nothing is sent on it any more */
	bool is_leaving;
	bool is_polite;	   /* nothing is unanswered: the server is told that it ends */
	bool cannot_flush; /* before it leaves: it was tried */
	bool has_progress; /* since the drain timer was set */
	bool unused;	   /* it was not needed any more */
	bool has_answered; /* a command, in a way that could be used */
	unsigned nr_again; /* requests that are to be sent again */
	/* that it was given, after they had been sent elsewhere; and that it answered */
	unsigned nr_got_again, nr_done_again;
	uint64_t answered_bytes;     /* of changes that are not durable by themselves */
	uint64_t flushed_bytes;	     /* of those: before a FLUSH that was answered */
	_Atomic uint64_t *unflushed; /* the difference, in the ledger */
	struct nbd_internal internal;
	char why[NBD_WHY_BYTES];

	_Atomic unsigned nr_armed; /* watches that the ring still has */
	struct ub_msg msg;
	struct nbd_link *next;	   /* in the connector's lists */
	struct nbd_link *replaced; /* the older one that it shall take over from */
	uint64_t made_ms;
	/* retired, and not reset for certain: fence.c needs its descriptor */
	_Atomic bool is_lost_yet;
	struct nbd_link *next_lost; /* under fence_lock */
	struct ub_socket_ends ends; /* TCP */
};

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
	struct nbd_list fenced; /* changes that overlap a range */
	bool is_resetting;
	bool had_link;	 /* it is not its first one */
	bool must_issue; /* waiting ones may go at the end of the batch */
	/* a link ended with answered changes that it had not flushed: the next one is asked to */
	bool is_flush_due;
	bool lacks_memory; /* libnbd had none for a request: it is in `fenced` */
	uint64_t said_memory_ms;
	/* one at a time: connections ended over something that one of these was answered with */
	bool is_careful;
	struct ub_timer tick, outage, patience, drain, fence;
	/* as the timers have them: conn_take_settings() */
	uint64_t outage_limit_ms, stall_timeout_ms;
	bool is_ticking, has_progress;
	unsigned quiet_ticks;
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
	_Atomic bool must_probe; /* a sign of life is asked for */
	/* one of its links has answered changes that it has not flushed, or its last one had */
	_Atomic bool has_unflushed;

	/* The connector's. */
	struct nbd_link *given;	   /* the newest link, until it is retired */
	struct ub_socket_ends old; /* of the last one that we have reset */
	int knock_fd;		   /* -1: none */
	struct nbd_attempt attempt;
};

struct nbd_queue {
	struct nbd_backend *be;
	struct ub_backend_queue *bq;
	struct nbd_cmd *cmds; /* one a slot */
	struct nbd_conn **own;
	unsigned nr_own;
	unsigned nr_armed;		    /* watches of own connections that the ring still has */
	bool has_left;			    /* nbd_engine_leave() was called */
	bool may_use_reserve, uses_reserve; /* a real-time thread: while memory is short */
	bool has_looked;		    /* at memory, in this batch */
	uint64_t memory_seen_ms;
};

enum nbd_phase { NBD_ATTACHING, NBD_LIVE, NBD_LOST };

struct nbd_backend {
	struct ub_backend *backend;
	struct ub_host *host;	    /* the back end's; it outlives that */
	struct nbd_options options; /* as it was opened */
	char server[160];	    /* in words */
	/* Those that can be changed: the main thread sets them, and kicks the conns. */
	_Atomic uint64_t outage_limit_ms, stall_timeout_ms, fence_timeout_ms;
	struct nbd_export first;
	struct ub_limits limits;     /* as it was opened: the size may be another one by now */
	_Atomic uint64_t size_bytes; /* the device's */
	/* connections that know less of the export are made again: the device is to grow */
	_Atomic uint64_t wanted_bytes;
	_Atomic uint64_t seen_bytes; /* the export's, as the newest connection knows it */
	uint64_t short_bytes;	     /* memory is short when less than this is free */
	size_t heap_bytes;	     /* that making the connections took */
	uint64_t send_bytes;	     /* a connection's socket may hold so much to be sent */
	int cancel_fd;		     /* readable: give up opening; -1: none */
	unsigned nr_conns;
	unsigned depth;		   /* of a queue: slots from there on are for internal I/O */
	unsigned nr_config_queues; /* as many as it was told that there will be, at the most */
	struct nbd_conn *conns;
	_Atomic unsigned nr_queues; /* the connector runs while they are made */
	struct nbd_queue *queues[UINT8_MAX + 1];

	/* queues whose threads run; the connector begins with the last */
	_Atomic unsigned nr_started;
	/* enum nbd_phase: whichever comes first, being live or an outage, decides */
	_Atomic int phase;
	_Atomic bool has_failed;  /* for good: all I/O fails */
	_Atomic bool is_leaving;  /* no connection is made any more */
	_Atomic uint64_t left_ms; /* since when; 0: it is not */
	/* how often what was answered and not flushed may have been lost */
	_Atomic uint64_t nr_losses;
	_Atomic uint64_t unsaid_lost_bytes; /* … since the connector last said so */
	/*
	 * Since when no connection works; 0: one does, or (a new server process) none has been
	 * tried yet. Under works_lock, and read by anybody.
	 */
	_Atomic uint64_t quiet_since_ms;
	pthread_mutex_t works_lock;
	_Atomic uint64_t latency_ns; /* of the network, when the last connection was made */
	_Atomic int next_socket;     /* of --command, after a restart; -1: none */

	/* The fence: fence.c. */
	pthread_mutex_t fence_lock;
	struct ub_fence fence;	      /* under the lock, but for its atomic members */
	struct ub_ledger *own_ledger; /* where there is no keeper's */
	struct nbd_link *lost;	      /* retired, and not reset yet; under the lock */
	_Atomic unsigned nr_lost;     /* of these */
	_Atomic bool has_inherited;
	_Atomic bool must_tell_ranges; /* the keeper is to hear of them */
	_Atomic uint64_t probed_ms, unproven_since_ms, proved_ms;
	uint64_t word_event; /* the last word; under the lock */
	_Atomic uint32_t proved_seq;

	/* The connector: connector.c. */
	pthread_t thread;
	int wake_fd;
	bool has_thread;
	_Atomic bool must_end;
	/*
	 * set by the connector's end, and by a close that does not wait for it: the second one
	 * frees
	 */
	_Atomic bool is_over;
	struct nbd_link *_Atomic retired; /* by queue threads */
	struct nbd_link *ended;		  /* all that were retired and are not freed yet */
	uint64_t offline_since_ms;	  /* 0: online */
	uint64_t lost_bytes;		  /* that may have been lost in this outage */
	uint64_t said_grown_bytes;
	bool is_recovered; /* the device had another server process before this one */
	bool has_said_recovered, said_stalled, said_slow;
	unsigned nr_again;
	/* written under outage_lock, as the two behind it; others read them under it */
	char last_why[NBD_WHY_BYTES];
	unsigned nr_tries;	 /* that have failed in this outage */
	uint64_t tried_since_ms; /* when it began */
	pthread_mutex_t outage_lock;
	unsigned seed;
};

/* ---- engine.c: on the queues' threads ------------------------------------ */

void nbd_engine_start(struct nbd_queue *nq);
void nbd_engine_submit(struct nbd_queue *nq, struct ub_io *io);
void nbd_engine_give_back(struct nbd_queue *nq, const struct ub_io *io);
void nbd_engine_submit_end(struct nbd_queue *nq);
void nbd_engine_cancel(struct nbd_queue *nq, int err);
/*
 * It is taken out of a live device: all ends. Again, until it is true: the ring has let go of
 * everything.
 */
bool nbd_engine_leave(struct nbd_queue *nq);
/* Any thread: what is in flight ends with ENOLINK, and its connections are made again. */
void nbd_engine_reset(struct nbd_backend *be);

/* Any thread: hands a link to its conn's home thread; that one looks at what waits. */
void nbd_engine_give(struct nbd_link *link);
void nbd_engine_kick(struct nbd_conn *conn);
void nbd_engine_kick_all(struct nbd_backend *be);

/* Any thread: an attempt has shown that nothing works: the outage begins, if none has. */
void nbd_engine_note_outage(struct nbd_backend *be);

static inline bool nbd_op_changes(uint8_t op)
{
	return op == UB_OP_WRITE || op == UB_OP_DISCARD || op == UB_OP_WRITE_ZEROES;
}

/* ---- fence.c: any thread, but for what is marked ------------------------- */

/* Main thread, before the first queue is ready. 0 or -errno with *err. */
int nbd_fence_init(struct nbd_backend *be, unsigned nr_slots, struct ub_err *err);
struct ub_ledger_sent *nbd_fence_record(const struct nbd_backend *be, unsigned qid, unsigned slot);
/* Each queue's thread when it starts: what is in the ledger becomes ranges, once. */
void nbd_fence_start(struct nbd_backend *be);

/* The home thread: a link is about to be used. False: there is no room in the ledger. */
bool nbd_fence_open(struct nbd_link *link);
/*
 * The home thread: it is not used any more. Its socket is reset, and what it has not answered of
 * changes becomes ranges: how many.
 */
unsigned nbd_fence_end(struct nbd_link *link);

/*
 * A request has come, and may be one that the process before this one had sent. Only while
 * fence.nr_claimable.
 */
void nbd_fence_claim(struct nbd_backend *be, struct nbd_cmd *cmd, const struct ub_io *io);
/* Whether a change may be sent. Only while fence.nr_live. */
bool nbd_fence_may_pass(struct nbd_backend *be, const struct nbd_cmd *cmd);
/* It is about to be completed: for those that have has_ranges. */
void nbd_fence_done(struct nbd_backend *be, struct nbd_cmd *cmd);
/*
 * A FLUSH of our own was answered with this errno: kept for the application, over deaths of ours.
 * Where the device is only being moved to that server it counts as a loss. Any thread.
 */
void nbd_fence_keep_flush_error(struct nbd_backend *be, int code);
/* That errno, or 0. take: the application gets it. Any thread. */
int nbd_fence_flush_error(struct nbd_backend *be, bool take);

void nbd_fence_count_waiting(struct nbd_backend *be, bool begins);

/* Something that was sent at this seq was answered. Only while fence.nr_unproven. */
void nbd_fence_prove(struct nbd_backend *be, uint32_t seq);
/* Ends what is over, and asks for a sign of life where one is missing. Kicks whoever waits. */
void nbd_fence_tend(struct nbd_backend *be);
/* How long clocks have waited for a sign of life. */
uint64_t nbd_fence_unproven_ms(struct nbd_backend *be);
/* When to call it again, in ms; UINT64_MAX: there are no ranges. */
uint64_t nbd_fence_next_ms(struct nbd_backend *be);
void nbd_fence_set_timeout(struct nbd_backend *be, uint64_t timeout_ms);
/*
 * Somebody knows that nothing given up until then (ub_ledger_side.events) is executed any more. How
 * many ranges ended.
 */
unsigned nbd_fence_word(struct nbd_backend *be, uint64_t event);
bool nbd_fence_has_settled(struct nbd_backend *be);

/* ---- connector.c --------------------------------------------------------- */

/* Makes a link of a ready handle, which it takes. NULL: no memory, and the handle is closed. */
struct nbd_link *nbd_link_create(struct nbd_conn *conn, struct nbd_handle *handle,
				 const struct nbd_export *export);
void nbd_link_free(struct nbd_link *link);

/*
 * Makes the calling thread one whose sends find pages when others have to wait for them, or an
 * ordinary one again. 0 or -errno (it needs CAP_SYS_NICE).
 */
int nbd_thread_use_reserve(bool use);

int nbd_connector_start(struct nbd_backend *be, struct ub_err *err);
void nbd_connector_stop(struct nbd_backend *be); /* also one that was not started */
/* Any thread: backend.h. */
void nbd_connector_describe_outage(struct nbd_backend *be, char *buf, size_t len);
/*
 * The thread is over, or is the caller: the links that nobody has taken back yet are among those
 * that have ended.
 */
void nbd_connector_take_all(struct nbd_backend *be);
/* Ends what is left of its connections, and frees all of it. nbd.c. */
void nbd_backend_free(struct nbd_backend *be);

/* Any thread, never blocks: there is something to do for it. */
void nbd_connector_wake(struct nbd_backend *be);
/* A queue's thread: the link is the connector's from now on. */
void nbd_connector_retire(struct nbd_link *link);

#endif
