/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The layer of a migration, inside. From below to above: range.c and state.c, map.c, flush.c,
 * copier.c, mirror.c; none calls one above it. mirror.h is for others.
 */
#ifndef UB_BACKEND_MIRROR_INTERNAL_H
#define UB_BACKEND_MIRROR_INTERNAL_H

#include "backend/mirror/mirror.h"

#include <pthread.h>

#include "backend/mirror/pace.h"
#include "base/bitmap.h"
#include "base/loop.h"

/* copies in flight: all internal slots but a probe's and a flush's */
#define MIRROR_NR_SLOTS (UB_INTERNAL_SLOTS - 2)

#define MIRROR_LATE_TICKS 4 /* so often in late_ms is looked whether the destination is late */

/*
 * What somebody changes: nobody else does at the same time. Under the lock, but for the two offsets
 * of one that is held.
 */
struct mirror_range {
	uint64_t start, end;
	bool is_held;
	struct mirror_range *prev, *next;
	struct mirror_queue *mq;
	void (*granted)(struct mirror_range *);
	struct mirror_range *next_granted;
};

/* Clusters, and where the first and the last of them may be. */
struct mirror_unsafe {
	struct ub_bitmap map;
	uint64_t first, end;
};

struct mirror_ranges {
	struct mirror_range *first, *last;
};

/* The scratch of a request. */
struct mirror_slot {
	struct ub_io *parent;
	struct ub_io source, dest;
	struct mirror_range range;
	unsigned nr_pending;
	bool is_mirrored; /* the destination has, or had, its part */
	uint64_t sent_ms;
	uint64_t losses;		 /* mirror_losses() before that */
	struct mirror_slot *prev, *next; /* in the queue's list of those that the destination has */
};

enum mirror_step {
	COPY_IDLE,
	COPY_PEEK,
	COPY_LOOK,
	COPY_LOOK_DEST,
	COPY_READ,
	COPY_WRITE,
	COPY_ZERO
};

/* A piece that is being brought over. Queue 0's. */
struct mirror_copy {
	struct mirror *m;
	struct ub_io io;
	struct ub_extent extent;
	struct mirror_range range;
	enum mirror_step step;
	uint32_t len_bytes; /* as it shall be copied: at most the range */
	uint64_t sent_ms;   /* to the destination; 0: it has none of it */
	uint64_t losses;    /* mirror_losses() before that */
	uint64_t began_ns;
	bool is_beside; /* it began while the application was at work */
	bool is_whole;	/* it is as large as pieces are then */
	char *buf;	/* chunk_bytes */
};

struct mirror_queue {
	struct mirror *m;
	struct ub_backend_queue *source, *dest;
	struct mirror_slot *slots;
	struct mirror_slot *sent_first, *sent_last; /* to the destination, not answered yet */
	struct ub_timer late;
	bool is_ticking;
	bool is_stopped;
	int cancel_error; /* not 0: all was cancelled with it */
	struct ub_msg stop_msg, grant_msg;
	struct mirror_range *granted; /* under the lock: of this queue, newest first */
	bool is_grant_posted;	      /* likewise */
	_Atomic uint64_t *mirrored_bytes;
};

struct mirror {
	struct ub_mirror_config config;
	struct ub_backend *backend;
	struct mirror_queue *queues;

	pthread_mutex_t lock;
	struct mirror_ranges held, waiting;
	struct ub_bitmap dirty; /* a bit a cluster */
	uint64_t nr_dirty;
	/* the destination has them, and may forget them: not flushed yet */
	struct mirror_unsafe unsafe;
	struct mirror_unsafe pending; /* likewise: they are being flushed */
	uint64_t losses;	      /* of the destination: as many are dealt with */
	uint64_t nr_clusters;
	unsigned cluster_shift;
	uint32_t block_bytes;

	_Atomic int state; /* enum ub_mirror_state; changed under the lock */
	_Atomic int error; /* the first one: positive, the source's negative */
	_Atomic unsigned nr_started, nr_stopped; /* queues */
	_Atomic uint64_t rate_bytes;
	_Atomic uint64_t busy_ms; /* when the application last asked for something */

	/* The copier: queue 0's. */
	struct mirror_copy copies[MIRROR_NR_SLOTS];
	uint64_t cursor;	       /* the next cluster to look at */
	uint64_t data_start, data_end; /* there is data, as it was when it was looked at */
	struct ub_pace pace;
	/*
	 * the next piece is due then, perhaps in a turn of the application's; 0: when something
	 * ends
	 */
	uint64_t due_ns;
	struct ub_timer paced, probe_due;
	struct ub_msg start_msg, kick_msg, flush_msg;
	char *bufs; /* of all copies, chunk_bytes each */
	uint32_t chunk_bytes;
	unsigned nr_copies; /* not idle */
	struct ub_io probe_io;
	char probe_buf[4096];

	struct ub_io flush_source, flush_dest;
	struct ub_io sync_io; /* the copier's own flush of the destination */
	/* when the last flush of the destination began, and `losses` then */
	uint64_t synced_ms, flush_losses;
	unsigned nr_flushing;
	void (*go_on)(struct mirror *m); /* a flush is over: mirror_copier_run() */
	_Atomic int flushed;		 /* 0: not yet, 1: done, or a negative errno */

	_Atomic bool cannot_zero, is_kicked; /* any queue's; those below are the copier's */
	bool is_looking, cannot_look, cannot_look_dest;
	bool has_begun, is_running, is_probing, is_syncing, flush_waits;
};

/* ---- state.c: any thread; a queue's, but for ub_mirror_stop() ------------- */

static inline int mirror_get_state(const struct mirror *m)
{
	return atomic_load_explicit(&m->state, memory_order_acquire);
}

/* Whether the destination gets what the application changes. */
static inline bool mirror_is_mirroring(const struct mirror *m)
{
	int state = mirror_get_state(m);

	return state == UB_MIRROR_COPYING || state == UB_MIRROR_IN_STEP;
}

/* The main thread finds out: the state, or what a flush ended with, is another one. */
void mirror_tell(struct mirror *m);
/* What is over stays over. True: it is another one now. Takes the lock. */
bool mirror_set_state(struct mirror *m, enum ub_mirror_state state);
/*
 * There is something to copy (again). False, of the first: it was in another state, and still is;
 * under the lock.
 */
bool mirror_resume_locked(struct mirror *m, enum ub_mirror_state from);
void mirror_resume(struct mirror *m, enum ub_mirror_state from);
void mirror_fail(struct mirror *m, int32_t res, bool is_source);
/* What the destination answered with: out of step, or the end. Its range is marked already. */
void mirror_dest_failed(struct mirror *m, int32_t res);
/* There may be something to copy. */
void mirror_copier_kick(struct mirror *m);

/* Somebody has sent the destination something: whether it answers is looked at from now on. */
static inline void mirror_queue_tick(struct mirror_queue *mq)
{
	if (mq->is_ticking)
		return;
	mq->is_ticking = true;
	ub_timer_set(&mq->late, mq->m->config.late_ms / MIRROR_LATE_TICKS + 1);
}

/* ---- range.c ------------------------------------------------------------- */

/*
 * True: it is held. Else granted() follows, on the range's queue. Those that come first are first.
 */
bool mirror_range_take(struct mirror *m, struct mirror_range *r);
void mirror_range_give_back(struct mirror *m, struct mirror_range *r);
/* Keeps its first bytes only. */
void mirror_range_shrink(struct mirror *m, struct mirror_range *r, uint64_t end);
/* Under the lock: whether one of those before `until` (NULL: any) overlaps with it. */
bool mirror_ranges_overlap(const struct mirror_ranges *list, const struct mirror_range *r,
			   const struct mirror_range *until);
/* A queue's grant_msg: those of its ranges that are held by now. */
void mirror_take_granted(struct ub_msg *msg, struct ub_queue *q);
/*
 * Those that wait for a range, of one queue, and with this granted(): they will never have it. By
 * next_granted.
 */
struct mirror_range *mirror_take_waiting(struct mirror *m, const struct mirror_queue *mq,
					 void (*granted)(struct mirror_range *));

/* ---- map.c: takes the lock itself ---------------------------------------- */

/* Counts whenever a server of the destination may have died. Any thread, without the lock. */
uint64_t mirror_losses(const struct mirror *m);
/* Every cluster that the range touches. */
void mirror_dirty_set(struct mirror *m, uint64_t start, uint64_t end);
/*
 * Every cluster that lies within the range, or reaches over the device's end: the destination has
 * it. False: since it was sent there (`losses`), a server has been lost, and perhaps that, too;
 * nothing is cleared.
 */
bool mirror_dirty_clear(struct mirror *m, uint64_t start, uint64_t end, uint64_t losses);
/*
 * The next dirty clusters, or some of them, from the cursor on and then from the beginning. False:
 * there are none.
 */
bool mirror_dirty_find(struct mirror *m, uint64_t *first, uint64_t *count);
/* Tells the statistics. */
void mirror_dirty_note(struct mirror *m);
/*
 * The destination has lost a server since: what that one had not flushed is copied again. Queue 0,
 * as all that follow.
 */
void mirror_look_for_losses(struct mirror *m);
/* Around a flush of the destination: what it has by now is what is safe afterwards. */
void mirror_flush_begins(struct mirror *m);
void mirror_flush_ends(struct mirror *m, int32_t res);

/* ---- flush.c: queue 0 ---------------------------------------------------- */

void mirror_flush_init(struct mirror *m); /* when it is made */
/*
 * Flushes the destination when that is due, so that the loss of a server costs no more than what
 * was copied since.
 */
void mirror_sync(struct mirror *m);

/* ---- copier.c: queue 0 --------------------------------------------------- */

void mirror_copier_init(struct mirror *m); /* when it is made */
/* Does what there is to be done. */
void mirror_copier_run(struct mirror *m);
void mirror_copier_start(struct mirror *m);
/* Its timers go, and nothing is begun. False: not all has ended yet. */
bool mirror_copier_stop(struct mirror *m);
/* Any queue: something of it is at the destination. */
bool mirror_copier_has_sent(const struct mirror *m);
/*
 * The copier itself has time: it counts when the application waits for what the destination has of
 * it.
 */
bool mirror_copier_is_late(struct mirror *m, uint64_t now_ms);

#endif
