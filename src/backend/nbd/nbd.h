/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD back end's parts and what they share. Private to src/backend/nbd/.
 *
 *   queue thread                               connector thread (one a back end)
 *   conn ── link: commands ◄────────── link ── connector.c: sessions, back-off, comparing
 *     └── retired link ──────────────────────► frees it, when nothing needs it any more
 *   send.c, cmd.c: what goes and what waits, what an answer means; engine-libnbd.c: how it goes
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
#include <ublk-bridge/page.h>

#include "backend/nbd/conn.h"
#include "backend/nbd/link.h"
#include "backend/nbd/options.h"
#include "backend/nbd/session.h"
#include "base/fence.h"

struct nbd_queue {
	struct nbd_backend *be;
	struct ub_backend_queue *bq;
	struct nbd_cmd *cmds; /* one a slot */
	struct nbd_conn **own;
	unsigned nr_own;
	unsigned nr_armed; /* operations of own conns' links that the ring still has */
	bool has_left;	   /* nbd_queue_stop() was called */
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

static inline uint64_t nbd_stall_ms(const struct nbd_backend *be)
{
	return atomic_load_explicit(&be->stall_timeout_ms, memory_order_relaxed);
}

/* How many conns have a link, as the connector knows it. The connector's. */
static inline unsigned nbd_nr_given(const struct nbd_backend *be)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < be->nr_conns; i++)
		nr += be->conns[i].given != NULL;
	return nr;
}

static inline struct ub_backend_queue_stats *nbd_conn_stats(const struct nbd_conn *conn)
{
	return conn->home->bq->stats;
}

/* A request's answer is there, or none will come. */
static inline void nbd_cmd_count_wait(const struct nbd_cmd *cmd, const struct nbd_conn *conn)
{
	ub_stat_add(&nbd_conn_stats(conn)->wait_ns,
		    ub_queue_turn_ns(conn->home->bq->queue) - cmd->sent_ns);
}

#endif
