/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The layer of a migration: what is in flight, who holds which range, and the copier. Queues' threads, but for what is marked. */
#include "backend/mirror.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "backend/pace.h"
#include "base/bitmap.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"

#define MIRROR_CHUNK_BYTES   (256U << 10) /* of data, in one piece */
#define MIRROR_LOOK_BYTES    (128U << 20) /* about so much is asked at once what it has */
#define MIRROR_MIN_DATA	     (1U << 20)   /* where there is data, so much is read without another look */
#define MIRROR_ZERO_BYTES    (16U << 20)  /* of zeroes, in one piece: writes there wait for it */
#define MIRROR_NR_SLOTS	     (UB_INTERNAL_SLOTS - 2) /* copies in flight: all internal slots but a flush's two */
/* While the application is at work, in small pieces: what it asks for waits behind one on either side. */
#define MIRROR_BUSY_BYTES    (32U << 10)
#define MIRROR_BUSY_ZERO_BYTES (1U << 20)
#define MIRROR_BUSY_MS	     100 /* it is at work for so long after its last I/O */
#define MIRROR_PROBE_MS	     200 /* a destination that is out of step */
#define MIRROR_SYNC_MS	     10000 /* so often the destination is flushed while it is copied: this much may have to be copied again */
#define MIRROR_LATE_TICKS    4
#define MIRROR_MAX_CLUSTERS  (256ULL << 20) /* bits of the bitmap: 32 MiB */
#define MIRROR_MIN_CLUSTER   15 /* 32 KiB, as a shift */

/* What somebody changes: nobody else does at the same time. Under the lock, but for the two offsets of one that is held. */
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
	uint64_t losses; /* mirror_losses() before that */
	struct mirror_slot *prev, *next; /* in the queue's list of those that the destination has */
};

enum mirror_step { COPY_IDLE, COPY_PEEK, COPY_LOOK, COPY_LOOK_DEST, COPY_READ, COPY_WRITE, COPY_ZERO };

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
	struct mirror_unsafe unsafe;  /* the destination has them, and may forget them: not flushed yet */
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
	uint64_t cursor;    /* the next cluster to look at */
	uint64_t data_start, data_end; /* there is data, as it was when it was looked at */
	struct ub_pace pace;
	uint64_t due_ns; /* the next piece is due then, perhaps in a turn of the application's; 0: when something ends */
	struct ub_timer paced, probe_due;
	struct ub_msg start_msg, kick_msg, flush_msg;
	char *bufs; /* of all copies, chunk_bytes each */
	uint32_t chunk_bytes;
	unsigned nr_copies; /* not idle */
	struct ub_io probe_io;
	char probe_buf[4096];

	struct ub_io flush_source, flush_dest;
	struct ub_io sync_io; /* the copier's own flush of the destination */
	uint64_t synced_ms, flush_losses; /* when the last flush of the destination began, and `losses` then */
	unsigned nr_flushing;
	_Atomic int flushed; /* 0: not yet, 1: done, or a negative errno */

	_Atomic bool cannot_zero, is_kicked; /* any queue's; those below are the copier's */
	bool is_looking, cannot_look, cannot_look_dest;
	bool has_begun, is_running, is_probing, is_syncing, flush_waits;
};

static void copier_kick(struct mirror *m);
static void copier_run(struct mirror *m);
static void copy_granted(struct mirror_range *range);
static void copier_begin_flush(struct mirror *m);
static void flush_begins_at_dest(struct mirror *m);
static void flush_ends_at_dest(struct mirror *m, int32_t res);
static void flush_submit(struct ub_backend *be, struct ub_backend_queue *bq, struct ub_io *io,
			 void (*done)(struct ub_io *, int32_t));

/* Whether the application is at work. One that waits for all that it asked for asks for nothing new. */
static bool mirror_is_busy(const struct mirror *m)
{
	if (ub_now_ms() - atomic_load_explicit(&m->busy_ms, memory_order_relaxed) < MIRROR_BUSY_MS)
		return true;
	for (unsigned i = 0; i < m->config.nr_queues; i++) {
		if (ub_stat_read(&m->config.queue_stats[i].in_flight))
			return true;
	}
	return false;
}

/* ---- the state ------------------------------------------------------------------------------------------------- */

static int mirror_get_state(const struct mirror *m)
{
	return atomic_load_explicit(&m->state, memory_order_acquire);
}

static void mirror_tell(struct mirror *m)
{
	eventfd_write(m->config.event_fd, 1);
}

/* What is over stays over. True: it is another one now. */
static bool mirror_set_state(struct mirror *m, enum ub_mirror_state state)
{
	bool changes;
	int was;

	pthread_mutex_lock(&m->lock);
	was = mirror_get_state(m);
	changes = was < (int)state || (was == UB_MIRROR_IN_STEP && state == UB_MIRROR_OUT);
	if (changes)
		atomic_store_explicit(&m->state, (int)state, memory_order_release);
	pthread_mutex_unlock(&m->lock);
	if (changes)
		mirror_tell(m);
	return changes;
}

/* Under the lock: there is something to copy (again). False: it was in another state, and still is. */
static bool mirror_resume_locked(struct mirror *m, enum ub_mirror_state from)
{
	if (mirror_get_state(m) != (int)from)
		return false;
	atomic_store_explicit(&m->state, UB_MIRROR_COPYING, memory_order_release);
	return true;
}

static void mirror_resume(struct mirror *m, enum ub_mirror_state from)
{
	bool is_news;

	pthread_mutex_lock(&m->lock);
	is_news = mirror_resume_locked(m, from);
	pthread_mutex_unlock(&m->lock);
	if (is_news)
		mirror_tell(m);
}

static void mirror_fail(struct mirror *m, int32_t res, bool is_source)
{
	int none = 0;

	atomic_compare_exchange_strong(&m->error, &none, is_source ? res : -res);
	mirror_set_state(m, UB_MIRROR_FAILED);
}

/* Whether the destination gets what the application changes. */
static bool mirror_is_mirroring(const struct mirror *m)
{
	int state = mirror_get_state(m);

	return state == UB_MIRROR_COPYING || state == UB_MIRROR_IN_STEP;
}

/* What the destination answered with: out of step, or the end. Its range is marked already. */
static void mirror_dest_failed(struct mirror *m, int32_t res)
{
	if (res == -ENOLINK) {
		if (mirror_set_state(m, UB_MIRROR_OUT))
			copier_kick(m);
	} else if (mirror_get_state(m) != UB_MIRROR_STOPPED) {
		mirror_fail(m, res, false);
	}
}

/* ---- what the destination may forget ------------------------------------------------------------------------------ */

/*
 * A server that dies, and is started again, has what it was told to flush, and of the rest what it likes. This counts
 * whenever one may have died.
 */
static uint64_t mirror_losses(const struct mirror *m)
{
	struct ub_backend *dest = m->config.dest;

	return dest->ops->nr_losses ? dest->ops->nr_losses(dest) : 0;
}

/* All of these under the lock. */
static void unsafe_add(struct mirror_unsafe *u, uint64_t first, uint64_t end)
{
	bool is_empty = u->first == u->end;

	ub_bitmap_set(&u->map, first, end - first);
	u->first = is_empty || first < u->first ? first : u->first;
	u->end = is_empty || end > u->end ? end : u->end;
}

static void unsafe_add_all(struct mirror_unsafe *u, const struct mirror_unsafe *from)
{
	uint64_t at = from->first;

	while (at < from->end) {
		bool value;
		uint64_t run = ub_bitmap_run(&from->map, at, from->end - at, &value);

		if (value)
			unsafe_add(u, at, at + run);
		at += run;
	}
}

static void unsafe_clear(struct mirror_unsafe *u)
{
	if (u->first < u->end)
		ub_bitmap_clear(&u->map, u->first, u->end - u->first);
	u->first = u->end = 0;
}

/* ---- dirty clusters ----------------------------------------------------------------------------------------------- */

/* Under the lock. */
static uint64_t dirty_count(const struct mirror *m, uint64_t first, uint64_t count)
{
	uint64_t nr = 0;

	while (count) {
		bool value;
		uint64_t run = ub_bitmap_run(&m->dirty, first, count, &value);

		nr += value ? run : 0;
		first += run;
		count -= run;
	}
	return nr;
}

/* Under the lock. */
static void dirty_add(struct mirror *m, uint64_t first, uint64_t count)
{
	m->nr_dirty += count - dirty_count(m, first, count);
	ub_bitmap_set(&m->dirty, first, count);
}

/* Under the lock. */
static void dirty_add_unsafe(struct mirror *m, struct mirror_unsafe *u)
{
	uint64_t at = u->first;

	while (at < u->end) {
		bool value;
		uint64_t run = ub_bitmap_run(&u->map, at, u->end - at, &value);

		if (value)
			dirty_add(m, at, run);
		at += run;
	}
	unsafe_clear(u);
}

static void dirty_note(struct mirror *m)
{
	uint64_t bytes, size = m->backend->limits.size_bytes;

	pthread_mutex_lock(&m->lock);
	bytes = m->nr_dirty << m->cluster_shift;
	pthread_mutex_unlock(&m->lock);
	ub_stat_set(&m->config.stats->dirty_bytes, bytes < size ? bytes : size);
}

/* Every cluster that the range touches. */
static void dirty_set(struct mirror *m, uint64_t start, uint64_t end)
{
	uint64_t first = start >> m->cluster_shift, count = ((end - 1) >> m->cluster_shift) + 1 - first;

	pthread_mutex_lock(&m->lock);
	dirty_add(m, first, count);
	mirror_resume_locked(m, UB_MIRROR_IN_STEP);
	pthread_mutex_unlock(&m->lock);
	if (mirror_get_state(m) == UB_MIRROR_COPYING)
		copier_kick(m);
}

/*
 * Every cluster that lies within the range, or reaches over the device's end: the destination has it. False: since it was
 * sent there (`losses`), a server has been lost, and perhaps that, too; nothing is cleared.
 */
static bool dirty_clear(struct mirror *m, uint64_t start, uint64_t end, uint64_t losses)
{
	uint64_t cluster = 1ULL << m->cluster_shift;
	uint64_t first = (start + cluster - 1) >> m->cluster_shift;
	uint64_t last = end >= m->backend->limits.size_bytes ? m->nr_clusters : end >> m->cluster_shift;
	bool is_there;

	pthread_mutex_lock(&m->lock);
	is_there = losses == mirror_losses(m);
	if (is_there)
		unsafe_add(&m->unsafe, start >> m->cluster_shift, ((end - 1) >> m->cluster_shift) + 1);
	if (is_there && first < last) {
		m->nr_dirty -= dirty_count(m, first, last - first);
		ub_bitmap_clear(&m->dirty, first, last - first);
	}
	pthread_mutex_unlock(&m->lock);
	return is_there;
}

/* The destination has lost a server since: what that one had not flushed is copied again. Queue 0. */
static void dirty_look_for_losses(struct mirror *m)
{
	uint64_t losses = mirror_losses(m);
	bool is_news = false;

	pthread_mutex_lock(&m->lock);
	if (losses != m->losses) {
		m->losses = losses;
		dirty_add_unsafe(m, &m->unsafe);
		dirty_add_unsafe(m, &m->pending);
		is_news = m->nr_dirty && mirror_resume_locked(m, UB_MIRROR_IN_STEP);
	}
	pthread_mutex_unlock(&m->lock);
	if (is_news)
		mirror_tell(m);
}

/* ---- ranges ----------------------------------------------------------------------------------------------------------- */

static void ranges_add(struct mirror_ranges *list, struct mirror_range *r)
{
	r->prev = list->last;
	r->next = NULL;
	if (list->last)
		list->last->next = r;
	else
		list->first = r;
	list->last = r;
}

static void ranges_remove(struct mirror_ranges *list, struct mirror_range *r)
{
	if (r->prev)
		r->prev->next = r->next;
	else
		list->first = r->next;
	if (r->next)
		r->next->prev = r->prev;
	else
		list->last = r->prev;
}

/* Whether one of those before `until` (NULL: any) overlaps with it. */
static bool ranges_overlap(const struct mirror_ranges *list, const struct mirror_range *r, const struct mirror_range *until)
{
	for (const struct mirror_range *at = list->first; at && at != until; at = at->next) {
		if (at->start < r->end && r->start < at->end)
			return true;
	}
	return false;
}

/* True: it is held. Else granted() follows, on the range's queue. Those that come first are first. */
static bool range_take(struct mirror *m, struct mirror_range *r)
{
	bool is_held;

	pthread_mutex_lock(&m->lock);
	is_held = !ranges_overlap(&m->held, r, NULL) && !ranges_overlap(&m->waiting, r, NULL);
	r->is_held = is_held;
	ranges_add(is_held ? &m->held : &m->waiting, r);
	pthread_mutex_unlock(&m->lock);
	return is_held; /* one that waits may be granted by now: that comes by itself */
}

/* Under the lock: whose turn it is now. */
static void ranges_grant(struct mirror *m)
{
	struct mirror_range *next;

	for (struct mirror_range *r = m->waiting.first; r; r = next) {
		next = r->next;
		if (ranges_overlap(&m->held, r, NULL) || ranges_overlap(&m->waiting, r, r))
			continue;
		ranges_remove(&m->waiting, r);
		r->is_held = true;
		ranges_add(&m->held, r);
		r->next_granted = r->mq->granted;
		r->mq->granted = r;
		if (!r->mq->is_grant_posted) {
			r->mq->is_grant_posted = true;
			ub_queue_post(r->mq->source->queue, &r->mq->grant_msg);
		}
	}
}

static void range_give_back(struct mirror *m, struct mirror_range *r)
{
	pthread_mutex_lock(&m->lock);
	ranges_remove(&m->held, r);
	r->is_held = false;
	if (m->waiting.first)
		ranges_grant(m);
	pthread_mutex_unlock(&m->lock);
}

/* Keeps its first bytes only. */
static void range_shrink(struct mirror *m, struct mirror_range *r, uint64_t end)
{
	pthread_mutex_lock(&m->lock);
	r->end = end;
	if (m->waiting.first)
		ranges_grant(m);
	pthread_mutex_unlock(&m->lock);
}

static void queue_take_granted(struct ub_msg *msg, struct ub_queue *q)
{
	struct mirror_queue *mq = ub_container_of(msg, struct mirror_queue, grant_msg);
	struct mirror_range *oldest = NULL, *r;

	(void)q;
	pthread_mutex_lock(&mq->m->lock);
	mq->is_grant_posted = false;
	for (r = mq->granted; r;) {
		struct mirror_range *next = r->next_granted;

		r->next_granted = oldest;
		oldest = r;
		r = next;
	}
	mq->granted = NULL;
	pthread_mutex_unlock(&mq->m->lock);
	while (oldest) {
		r = oldest;
		oldest = r->next_granted;
		r->granted(r);
	}
}

/* ---- what the application asks for ------------------------------------------------------------------------------ */

static void queue_tick(struct mirror_queue *mq)
{
	if (mq->is_ticking)
		return;
	mq->is_ticking = true;
	ub_timer_set(&mq->late, mq->m->config.late_ms / MIRROR_LATE_TICKS + 1);
}

static void sent_add(struct mirror_queue *mq, struct mirror_slot *slot)
{
	slot->prev = mq->sent_last;
	slot->next = NULL;
	if (mq->sent_last)
		mq->sent_last->next = slot;
	else
		mq->sent_first = slot;
	mq->sent_last = slot;
	slot->sent_ms = ub_now_ms();
	queue_tick(mq);
}

static void sent_remove(struct mirror_queue *mq, struct mirror_slot *slot)
{
	if (slot->prev)
		slot->prev->next = slot->next;
	else
		mq->sent_first = slot->next;
	if (slot->next)
		slot->next->prev = slot->prev;
	else
		mq->sent_last = slot->prev;
}

static bool copier_has_sent(const struct mirror *m)
{
	for (unsigned i = 0; i < MIRROR_NR_SLOTS; i++) {
		if (m->copies[i].sent_ms)
			return true;
	}
	return false;
}

/* The copier itself has time: it counts when the application waits for what the destination has of it. */
static bool copier_is_late(struct mirror *m, uint64_t now_ms)
{
	bool is_late = false;

	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < MIRROR_NR_SLOTS && !is_late; i++) {
		const struct mirror_copy *c = &m->copies[i];

		is_late = c->sent_ms && now_ms - c->sent_ms >= m->config.late_ms && ranges_overlap(&m->waiting, &c->range, NULL);
	}
	pthread_mutex_unlock(&m->lock);
	return is_late;
}

static void queue_look_for_late(struct ub_timer *timer)
{
	struct mirror_queue *mq = ub_container_of(timer, struct mirror_queue, late);
	struct mirror *m = mq->m;
	struct ub_backend *dest = m->config.dest;
	bool is_copier_s = mq == &m->queues[0];
	uint64_t now_ms = ub_now_ms();
	bool is_late;

	mq->is_ticking = false;
	if (mq->is_stopped || (!mq->sent_first && !(is_copier_s && copier_has_sent(m))))
		return;
	queue_tick(mq);
	is_late = mq->sent_first && now_ms - mq->sent_first->sent_ms >= m->config.late_ms;
	is_late |= is_copier_s && copier_is_late(m, now_ms);
	if (is_late && dest->ops->reset)
		dest->ops->reset(dest);
}

/* Both sides have answered, or the one that was asked. */
static void slot_finish(struct mirror_slot *slot)
{
	struct mirror_queue *mq = slot->range.mq;
	struct mirror *m = mq->m;
	int32_t res = slot->source.result, dest_res = slot->dest.result;
	bool differs = !slot->is_mirrored || dest_res < 0 || res < 0;

	/* Before the source's answer is passed on. */
	differs = differs || !dirty_clear(m, slot->range.start, slot->range.end, slot->losses);
	if (differs && mirror_get_state(m) < UB_MIRROR_FAILED)
		dirty_set(m, slot->range.start, slot->range.end);
	if (slot->is_mirrored && dest_res == -EOPNOTSUPP && slot->parent->op == UB_OP_WRITE_ZEROES)
		atomic_store_explicit(&m->cannot_zero, true, memory_order_relaxed);
	else if (slot->is_mirrored && dest_res < 0)
		mirror_dest_failed(m, dest_res);
	else if (!differs)
		ub_stat_add(mq->mirrored_bytes, slot->source.len_bytes);
	range_give_back(m, &slot->range);
	ub_io_complete(slot->parent, res);
}

static void slot_source_done(struct ub_io *io, int32_t res)
{
	struct mirror_slot *slot = ub_container_of(io, struct mirror_slot, source);

	(void)res;
	if (--slot->nr_pending == 0)
		slot_finish(slot);
}

static void slot_dest_done(struct ub_io *io, int32_t res)
{
	struct mirror_slot *slot = ub_container_of(io, struct mirror_slot, dest);

	(void)res;
	sent_remove(slot->range.mq, slot);
	if (--slot->nr_pending == 0)
		slot_finish(slot);
}

static void slot_copy_io(const struct mirror_slot *slot, struct ub_io *io, void (*done)(struct ub_io *, int32_t))
{
	*io = *slot->parent;
	io->done = done;
	io->is_completed = false;
	io->result = 0;
	io->next = NULL;
}

/* What the destination cannot be told in the same words is copied to it afterwards. */
static bool slot_is_for_dest(const struct mirror_slot *slot)
{
	const struct mirror *m = slot->range.mq->m;

	if (slot->range.mq->is_stopped || !mirror_is_mirroring(m))
		return false;
	if (slot->parent->op == UB_OP_WRITE_ZEROES)
		return m->config.dest->limits.can_zero && !atomic_load_explicit(&m->cannot_zero, memory_order_relaxed);
	return slot->parent->op == UB_OP_WRITE; /* what is discarded reads as anybody likes: as the source does, then */
}

static void slot_start(struct mirror_slot *slot)
{
	struct mirror_queue *mq = slot->range.mq;
	struct mirror *m = mq->m;

	slot->is_mirrored = slot_is_for_dest(slot);
	slot->nr_pending = 1 + slot->is_mirrored;
	slot_copy_io(slot, &slot->source, slot_source_done);
	if (slot->is_mirrored) {
		slot_copy_io(slot, &slot->dest, slot_dest_done);
		slot->dest.flags &= (uint8_t)~UB_FUA; /* what counts is the source, until the cutover flushes both */
		sent_add(mq, slot);
		slot->losses = mirror_losses(m);
		m->config.dest->ops->submit(mq->dest, &slot->dest);
	} else if (mirror_get_state(m) < UB_MIRROR_FAILED) {
		dirty_set(m, slot->range.start, slot->range.end);
	}
	m->config.source->ops->submit(mq->source, &slot->source);
}

static void slot_granted(struct mirror_range *range)
{
	struct mirror_queue *mq = range->mq;
	struct mirror_slot *slot = ub_container_of(range, struct mirror_slot, range);

	if (!mq->cancel_error) {
		slot_start(slot);
		return;
	}
	range_give_back(mq->m, range);
	ub_io_complete(slot->parent, mq->cancel_error);
}

static void mirror_submit(struct ub_backend_queue *bq, struct ub_io *io)
{
	struct mirror_queue *mq = bq->priv;
	struct mirror *m = mq->m;
	struct mirror_slot *slot = &mq->slots[io->slot];

	atomic_store_explicit(&m->busy_ms, ub_now_ms(), memory_order_relaxed);
	if (io->op == UB_OP_READ || io->op == UB_OP_FLUSH) {
		m->config.source->ops->submit(mq->source, io);
		return;
	}
	slot->parent = io;
	slot->range.start = io->offset_bytes;
	slot->range.end = io->offset_bytes + io->len_bytes;
	if (range_take(m, &slot->range))
		slot_start(slot);
}

static void mirror_submit_end(struct ub_backend_queue *bq)
{
	struct mirror_queue *mq = bq->priv;
	struct mirror *m = mq->m;
	const struct ub_mirror_config *c = &m->config;

	if (mq == &m->queues[0] && m->due_ns && ub_now_ns() >= m->due_ns)
		copier_run(m);
	if (c->source->ops->submit_end)
		c->source->ops->submit_end(mq->source);
	if (c->dest->ops->submit_end)
		c->dest->ops->submit_end(mq->dest);
}

/* ---- the copier: queue 0 ------------------------------------------------------------------------------------------ */

static void copier_kicked(struct ub_msg *msg, struct ub_queue *q)
{
	struct mirror *m = ub_container_of(msg, struct mirror, kick_msg);

	(void)q;
	atomic_exchange_explicit(&m->is_kicked, false, memory_order_acq_rel);
	copier_run(m);
}

static void copier_kick(struct mirror *m)
{
	if (atomic_exchange_explicit(&m->is_kicked, true, memory_order_acq_rel))
		return;
	ub_queue_post(m->queues[0].source->queue, &m->kick_msg);
}

static void copy_submit(struct mirror_copy *c, enum mirror_step step, uint8_t op, bool to_dest, void *buf, uint32_t len)
{
	struct mirror *m = c->m;
	const struct ub_backend *be = to_dest ? m->config.dest : m->config.source;
	struct mirror_queue *mq = &m->queues[0];

	c->step = step;
	c->io.op = op;
	c->io.flags = 0;
	c->io.offset_bytes = c->range.start;
	c->io.len_bytes = len;
	c->io.buf = buf;
	c->sent_ms = to_dest ? ub_now_ms() : 0;
	if (to_dest) {
		c->losses = mirror_losses(m);
		queue_tick(mq);
	}
	ub_io_begin_internal(&c->io);
	be->ops->submit(to_dest ? mq->dest : mq->source, &c->io);
}

static void copy_end(struct mirror_copy *c)
{
	struct mirror *m = c->m;

	if (c->range.is_held)
		range_give_back(m, &c->range);
	c->step = COPY_IDLE;
	m->nr_copies--;
	ub_pace_end(&m->pace, c->began_ns, ub_now_ns(), c->is_beside, c->len_bytes == m->chunk_bytes);
}

/* The range's first len_bytes are the same on both sides. */
static void copy_done(struct mirror_copy *c, _Atomic uint64_t *counter)
{
	struct mirror *m = c->m;

	if (dirty_clear(m, c->range.start, c->range.start + c->len_bytes, c->losses))
		ub_stat_add(counter, c->len_bytes);
	copy_end(c);
}

static void copy_failed(struct mirror_copy *c, int32_t res, bool is_source)
{
	struct mirror *m = c->m;

	/* It stays dirty. The source's outage is nobody's end: its back end waits by itself. */
	copy_end(c);
	if (mirror_get_state(m) >= UB_MIRROR_FAILED)
		return;
	if (is_source)
		mirror_fail(m, res, true);
	else
		mirror_dest_failed(m, res);
}

/* No more than so much, but a cluster. */
static uint32_t copier_busy_bytes(const struct mirror *m, uint32_t most, uint32_t busy_bytes)
{
	uint32_t cluster = 1U << m->cluster_shift;

	if (busy_bytes < cluster)
		busy_bytes = cluster;
	return most < busy_bytes ? most : busy_bytes;
}

/* To what is behind a piece that became smaller. */
static void copier_go_back(struct mirror *m, uint64_t offset_bytes)
{
	uint64_t cluster = (offset_bytes + (1ULL << m->cluster_shift) - 1) >> m->cluster_shift;

	if (cluster < m->cursor)
		m->cursor = cluster;
}

/* The rest is another piece's. */
static void copy_shrink(struct mirror_copy *c, uint32_t len)
{
	struct mirror *m = c->m;

	if (len >= c->range.end - c->range.start)
		return;
	c->len_bytes = len;
	range_shrink(m, &c->range, c->range.start + len);
	copier_go_back(m, c->range.end);
}

static void copy_zero(struct mirror_copy *c)
{
	struct mirror *m = c->m;
	const struct ub_limits *l = &m->config.dest->limits;
	uint32_t most = l->max_zeroes_bytes < MIRROR_ZERO_BYTES ? l->max_zeroes_bytes : MIRROR_ZERO_BYTES;
	bool can_zero = l->can_zero && !atomic_load_explicit(&m->cannot_zero, memory_order_relaxed);

	if (mirror_is_busy(m))
		most = copier_busy_bytes(m, most, MIRROR_BUSY_ZERO_BYTES);
	most &= ~((1U << m->cluster_shift) - 1);
	can_zero &= most != 0; /* less than a cluster: they are written */
	copy_shrink(c, can_zero ? most : m->chunk_bytes);
	if (can_zero) {
		copy_submit(c, COPY_ZERO, UB_OP_WRITE_ZEROES, true, NULL, c->len_bytes);
	} else {
		if (c->step != COPY_READ) /* that was paid for */
			ub_pace_pay(&m->pace, c->len_bytes);
		memset(c->buf, 0, c->len_bytes);
		copy_submit(c, COPY_ZERO, UB_OP_WRITE, true, c->buf, c->len_bytes);
	}
}

static void copy_read(struct mirror_copy *c)
{
	copy_submit(c, COPY_READ, UB_OP_READ, false, c->buf, c->len_bytes);
}

/* How much of an answer can be used: whole clusters, or up to the range's end. */
static uint32_t copy_whole(const struct mirror_copy *c, uint32_t len)
{
	uint64_t all = c->range.end - c->range.start;

	return len >= all ? (uint32_t)all : len & ~((1U << c->m->cluster_shift) - 1);
}

/* Data, or a cluster of both kinds: it is read in pieces, by whoever is free. */
static void copy_found_data(struct mirror_copy *c, uint32_t len)
{
	struct mirror *m = c->m;

	/* Where data and holes take turns in small parts, looking costs more than reading what is zero. */
	m->data_start = c->range.start;
	m->data_end = c->range.start + (len > MIRROR_MIN_DATA ? len : MIRROR_MIN_DATA);
	m->cursor = c->range.start >> m->cluster_shift;
	m->is_looking = false;
	copy_end(c);
}

/* What a look at the source has told. False: nothing more is to be done. Else *len bytes read as zeroes. */
static bool copy_take_look(struct mirror_copy *c, int32_t res, uint32_t *len)
{
	struct mirror *m = c->m;

	*len = res < 0 ? 0 : copy_whole(c, c->extent.len_bytes);
	if (res < 0 && res != -EOPNOTSUPP) {
		m->is_looking = false;
		copy_failed(c, res, true);
		return false;
	}
	m->cannot_look |= res < 0;
	if (*len && c->extent.is_zero)
		return true;
	copy_found_data(c, *len);
	return false;
}

/* A first look, which nobody waits for. Zeroes are looked at again, while nobody may change them. */
static void copy_peeked(struct mirror_copy *c, int32_t res)
{
	struct mirror *m = c->m;
	uint32_t len;

	if (!copy_take_look(c, res, &len))
		return;
	c->step = COPY_LOOK;
	c->len_bytes = len;
	c->range.end = c->range.start + len;
	copier_go_back(m, c->range.end);
	if (range_take(m, &c->range))
		copy_granted(&c->range);
}

static void copy_looked(struct mirror_copy *c, int32_t res)
{
	struct mirror *m = c->m;
	uint32_t len;

	if (!copy_take_look(c, res, &len)) /* somebody has written there since, perhaps */
		return;
	copy_shrink(c, len);
	m->is_looking = false;
	if (m->cannot_look_dest || !(m->config.dest->ops->caps & UB_CAP_STATUS))
		copy_zero(c);
	else
		copy_submit(c, COPY_LOOK_DEST, UB_OP_STATUS, true, &c->extent, len);
}

static void copy_looked_at_dest(struct mirror_copy *c, int32_t res)
{
	struct mirror *m = c->m;
	uint32_t len = res < 0 ? 0 : copy_whole(c, c->extent.len_bytes);

	if (res < 0 && res != -EOPNOTSUPP) {
		copy_failed(c, res, false);
		return;
	}
	m->cannot_look_dest |= res < 0;
	if (len)
		copy_shrink(c, len);
	if (len && c->extent.is_zero)
		copy_done(c, &m->config.stats->zeroed_bytes);
	else
		copy_zero(c);
}

static bool copy_is_zero(const struct mirror_copy *c)
{
	return c->buf[0] == 0 && memcmp(c->buf, c->buf + 1, c->len_bytes - 1) == 0;
}

static void copy_next(struct ub_io *io, int32_t res)
{
	struct mirror_copy *c = ub_container_of(io, struct mirror_copy, io);
	struct mirror *m = c->m;

	ub_io_end_internal(io);
	c->sent_ms = 0;
	if (mirror_get_state(m) >= UB_MIRROR_FAILED)
		res = -ECANCELED;
	switch (c->step) {
	case COPY_PEEK:
		copy_peeked(c, res);
		break;
	case COPY_LOOK:
		copy_looked(c, res);
		break;
	case COPY_LOOK_DEST:
		copy_looked_at_dest(c, res);
		break;
	case COPY_READ:
		if (res < 0)
			copy_failed(c, res, true);
		else if (copy_is_zero(c))
			copy_zero(c);
		else
			copy_submit(c, COPY_WRITE, UB_OP_WRITE, true, c->buf, c->len_bytes);
		break;
	case COPY_ZERO:
		if (res == -EOPNOTSUPP && io->op == UB_OP_WRITE_ZEROES) {
			atomic_store_explicit(&m->cannot_zero, true, memory_order_relaxed);
			copy_zero(c);
		} else if (res < 0) {
			copy_failed(c, res, false);
		} else {
			copy_done(c, &m->config.stats->zeroed_bytes);
		}
		break;
	default:
		if (res < 0)
			copy_failed(c, res, false);
		else
			copy_done(c, &m->config.stats->copied_bytes);
		break;
	}
	copier_run(m);
}

static void copy_granted(struct mirror_range *range)
{
	struct mirror_copy *c = ub_container_of(range, struct mirror_copy, range);

	if (!mirror_is_mirroring(c->m)) {
		c->m->is_looking &= c->step != COPY_LOOK;
		copy_end(c);
	} else if (c->step == COPY_LOOK) {
		copy_submit(c, COPY_LOOK, UB_OP_STATUS, false, &c->extent, c->len_bytes);
	} else {
		copy_read(c);
	}
}

/* The next dirty clusters, from the cursor on and then from the beginning. False: there are none. */
static bool copier_find(struct mirror *m, uint64_t *first, uint64_t *count)
{
	bool found = false;

	pthread_mutex_lock(&m->lock);
	for (unsigned pass = 0; pass < 2 && m->nr_dirty && !found; pass++) {
		uint64_t at = pass == 0 && m->cursor < m->nr_clusters ? m->cursor : 0;

		while (at < m->nr_clusters && !found) {
			bool is_dirty;
			uint64_t run = ub_bitmap_run(&m->dirty, at, m->nr_clusters - at, &is_dirty);

			found = is_dirty;
			*first = at;
			*count = run;
			at += run;
		}
	}
	pthread_mutex_unlock(&m->lock);
	return found;
}

/* Whether another piece has this one in hand: its bits are still set. */
static bool copier_has(const struct mirror *m, uint64_t start, uint64_t *end)
{
	for (unsigned i = 0; i < MIRROR_NR_SLOTS; i++) {
		const struct mirror_copy *c = &m->copies[i];

		if (c->step == COPY_IDLE)
			continue;
		if (c->range.start <= start && start < c->range.end)
			return true;
		if (c->range.start > start && c->range.start < *end)
			*end = c->range.start;
	}
	return false;
}

static uint64_t side_latency(struct ub_backend *be)
{
	return be->ops->latency_ns ? be->ops->latency_ns(be) : 0;
}

/* False: not now; the timer is set, or the end of a piece is when it may be. */
static bool copier_may_begin(struct mirror *m, bool is_busy)
{
	uint64_t now_ns = ub_now_ns(), wait_ns;

	ub_pace_set_latency(&m->pace, side_latency(m->config.source) + side_latency(m->config.dest));
	ub_pace_set_rate(&m->pace, now_ns, atomic_load_explicit(&m->rate_bytes, memory_order_relaxed));
	m->due_ns = 0;
	if (ub_pace_may_begin(&m->pace, now_ns, m->nr_copies, is_busy, &wait_ns))
		return true;
	if (wait_ns) {
		m->due_ns = now_ns + wait_ns;
		ub_timer_set(&m->paced, wait_ns / 1000000 + 1);
	}
	return false;
}

static struct mirror_copy *copier_idle(struct mirror *m)
{
	for (unsigned i = 0; i < MIRROR_NR_SLOTS; i++) {
		if (m->copies[i].step == COPY_IDLE)
			return &m->copies[i];
	}
	return NULL;
}

/* Begins with one more piece. False: there is none now. */
static bool copier_start_one(struct mirror *m)
{
	struct mirror_copy *c = copier_idle(m);
	uint64_t first, count, start, end, size = m->backend->limits.size_bytes;
	enum mirror_step step = COPY_READ;
	uint32_t most = m->chunk_bytes;
	bool is_busy = mirror_is_busy(m);

	if (!c || !copier_may_begin(m, is_busy) || !copier_find(m, &first, &count))
		return false;
	if (is_busy)
		most = copier_busy_bytes(m, most, MIRROR_BUSY_BYTES);
	start = first << m->cluster_shift;
	end = (first + count) << m->cluster_shift;
	end = end < size ? end : size;
	if (copier_has(m, start, &end)) {
		if (first < m->cursor) /* it has been all round */
			return false;
		m->cursor = first + 1;
		return true;
	}
	if (!m->cannot_look && (m->config.source->ops->caps & UB_CAP_STATUS)) {
		bool is_known = m->data_start <= start && start < m->data_end;

		if (!is_known && m->is_looking)
			return false;
		step = is_known ? COPY_READ : COPY_PEEK;
		most = is_known ? most : MIRROR_LOOK_BYTES;
		if (is_known && end > m->data_end)
			end = m->data_end;
	}
	if (end - start > most)
		end = start + most;
	c->len_bytes = (uint32_t)(end - start);
	c->range.start = start;
	c->range.end = end;
	c->began_ns = ub_now_ns();
	c->is_beside = is_busy;
	ub_pace_begin(&m->pace, c->began_ns, is_busy, step == COPY_READ ? c->len_bytes : 0);
	m->nr_copies++;
	m->cursor = (end + (1ULL << m->cluster_shift) - 1) >> m->cluster_shift;
	if (step == COPY_PEEK) {
		m->is_looking = true;
		copy_submit(c, COPY_PEEK, UB_OP_STATUS, false, &c->extent, c->len_bytes);
		return true;
	}
	c->step = step;
	if (range_take(m, &c->range))
		copy_granted(&c->range);
	return true;
}

/* Nothing is dirty, and nothing in hand. */
static void copier_say_in_step(struct mirror *m)
{
	bool is_news;

	pthread_mutex_lock(&m->lock);
	is_news = m->nr_dirty == 0 && mirror_get_state(m) == UB_MIRROR_COPYING;
	if (is_news) {
		ub_stat_set(&m->config.stats->dirty_bytes, 0);
		atomic_store_explicit(&m->state, UB_MIRROR_IN_STEP, memory_order_release);
	}
	pthread_mutex_unlock(&m->lock);
	if (is_news)
		mirror_tell(m);
}

static void sync_done(struct ub_io *io, int32_t res)
{
	struct mirror *m = ub_container_of(io, struct mirror, sync_io);

	ub_io_end_internal(io);
	m->is_syncing = false;
	flush_ends_at_dest(m, res);
	if (res < 0)
		mirror_dest_failed(m, res);
	if (m->flush_waits)
		copier_begin_flush(m);
	copier_run(m);
}

/* So that the loss of a server costs no more than what was copied since. */
static void copier_sync(struct mirror *m)
{
	if (m->is_syncing || m->nr_flushing || !m->config.dest->limits.can_flush ||
	    mirror_get_state(m) != UB_MIRROR_COPYING || ub_now_ms() - m->synced_ms < MIRROR_SYNC_MS)
		return;
	m->is_syncing = true;
	flush_begins_at_dest(m);
	flush_submit(m->config.dest, m->queues[0].dest, &m->sync_io, sync_done);
}

static void copier_run(struct mirror *m)
{
	if (!m->has_begun || m->is_running) /* a piece that was begun below may end at once */
		return;
	m->is_running = true;
	dirty_look_for_losses(m);
	copier_sync(m);
	while (mirror_is_mirroring(m) && copier_start_one(m))
		;
	m->is_running = false;
	/* Not put off by every turn of a busy application. */
	if (mirror_get_state(m) == UB_MIRROR_OUT && !m->is_probing && !m->probe_due.deadline_ns)
		ub_timer_set(&m->probe_due, MIRROR_PROBE_MS);
	dirty_note(m);
	if (m->nr_copies == 0)
		copier_say_in_step(m);
}

static void copier_paced(struct ub_timer *timer)
{
	copier_run(ub_container_of(timer, struct mirror, paced));
}

/* ---- is it back? ---------------------------------------------------------------------------------------------------- */

static void probe_done(struct ub_io *io, int32_t res)
{
	struct mirror *m = ub_container_of(io, struct mirror, probe_io);
	struct ub_backend *dest = m->config.dest;

	ub_io_end_internal(io);
	m->is_probing = false;
	/* While a server may still execute what was given up, writes would only wait. */
	if (res >= 0 && (!dest->ops->has_settled || dest->ops->has_settled(dest)))
		mirror_resume(m, UB_MIRROR_OUT);
	copier_run(m);
}

static void probe_is_due(struct ub_timer *timer)
{
	struct mirror *m = ub_container_of(timer, struct mirror, probe_due);

	if (m->is_probing || mirror_get_state(m) != UB_MIRROR_OUT)
		return;
	m->is_probing = true;
	m->probe_io.op = UB_OP_READ;
	m->probe_io.flags = 0;
	m->probe_io.offset_bytes = 0;
	m->probe_io.len_bytes = m->block_bytes;
	m->probe_io.buf = m->probe_buf;
	ub_io_begin_internal(&m->probe_io);
	m->config.dest->ops->submit(m->queues[0].dest, &m->probe_io);
}

/* ---- flushing both sides -------------------------------------------------------------------------------------------- */

/* What it has by now is what is safe afterwards. */
static void flush_begins_at_dest(struct mirror *m)
{
	struct mirror_unsafe none;

	m->synced_ms = ub_now_ms();
	m->flush_losses = m->losses;
	dirty_look_for_losses(m); /* if there is one, this flush comes too early */
	pthread_mutex_lock(&m->lock);
	none = m->pending;
	m->pending = m->unsafe;
	m->unsafe = none;
	pthread_mutex_unlock(&m->lock);
}

static void flush_ends_at_dest(struct mirror *m, int32_t res)
{
	dirty_look_for_losses(m);
	pthread_mutex_lock(&m->lock);
	if (res < 0)
		unsafe_add_all(&m->unsafe, &m->pending);
	unsafe_clear(&m->pending);
	pthread_mutex_unlock(&m->lock);
}

static void flush_done(struct mirror *m)
{
	int result = 1;

	if (--m->nr_flushing)
		return;
	if (m->flush_source.result < 0)
		result = m->flush_source.result;
	else if (m->flush_dest.result < 0)
		result = m->flush_dest.result;
	else if (m->flush_losses != m->losses)
		result = -EAGAIN; /* there is something to be copied again */
	atomic_store_explicit(&m->flushed, result, memory_order_release);
	mirror_tell(m);
	copier_run(m);
}

static void flush_source_done(struct ub_io *io, int32_t res)
{
	struct mirror *m = ub_container_of(io, struct mirror, flush_source);

	ub_io_end_internal(io);
	if (res < 0)
		mirror_fail(m, res, true);
	flush_done(m);
}

static void flush_dest_done(struct ub_io *io, int32_t res)
{
	struct mirror *m = ub_container_of(io, struct mirror, flush_dest);

	ub_io_end_internal(io);
	flush_ends_at_dest(m, res);
	if (res < 0)
		mirror_dest_failed(m, res);
	flush_done(m);
}

static void flush_submit(struct ub_backend *be, struct ub_backend_queue *bq, struct ub_io *io,
			 void (*done)(struct ub_io *, int32_t))
{
	io->op = UB_OP_FLUSH;
	io->flags = 0;
	io->offset_bytes = 0;
	io->len_bytes = 0;
	io->buf = NULL;
	io->done = done;
	ub_io_begin_internal(io);
	if (be->limits.can_flush)
		be->ops->submit(bq, io);
	else
		ub_io_complete(io, 0);
}

static void copier_begin_flush(struct mirror *m)
{
	struct mirror_queue *mq = &m->queues[0];

	m->flush_waits = false;
	m->nr_flushing = 2;
	flush_begins_at_dest(m);
	flush_submit(m->config.source, mq->source, &m->flush_source, flush_source_done);
	if (mq->is_stopped) { /* meanwhile: nothing goes there any more */
		m->flush_dest.done = flush_dest_done;
		ub_io_begin_internal(&m->flush_dest);
		ub_io_complete(&m->flush_dest, -ECANCELED);
	} else {
		flush_submit(m->config.dest, mq->dest, &m->flush_dest, flush_dest_done);
	}
}

static void copier_flush(struct ub_msg *msg, struct ub_queue *q)
{
	struct mirror *m = ub_container_of(msg, struct mirror, flush_msg);

	(void)q;
	/* What the copier's own one may not have covered is what this one is for. */
	m->flush_waits = m->is_syncing;
	if (!m->flush_waits)
		copier_begin_flush(m);
}

void ub_mirror_flush(struct ub_backend *be)
{
	struct mirror *m = be->priv;

	atomic_store_explicit(&m->flushed, 0, memory_order_relaxed);
	m->flush_msg.fn = copier_flush;
	ub_queue_post(m->queues[0].source->queue, &m->flush_msg);
}

int ub_mirror_flushed(const struct ub_backend *be)
{
	const struct mirror *m = be->priv;

	return atomic_load_explicit(&m->flushed, memory_order_acquire);
}

/* ---- the end ------------------------------------------------------------------------------------------------------------ */

static void queue_stop(struct mirror_queue *mq)
{
	struct ub_backend *dest = mq->m->config.dest;

	mq->is_stopped = true;
	if (dest->ops->queue_stop && mq->dest->is_started)
		dest->ops->queue_stop(mq->dest);
}

static void queue_told_to_stop(struct ub_msg *msg, struct ub_queue *q)
{
	struct mirror_queue *mq = ub_container_of(msg, struct mirror_queue, stop_msg);

	(void)q;
	queue_stop(mq);
	atomic_fetch_add(&mq->m->nr_stopped, 1);
	mirror_tell(mq->m);
}

void ub_mirror_stop(struct ub_backend *be)
{
	struct mirror *m = be->priv;

	mirror_set_state(m, UB_MIRROR_STOPPED);
	for (unsigned i = 0; i < m->config.nr_queues; i++) {
		m->queues[i].stop_msg.fn = queue_told_to_stop;
		ub_queue_post(m->queues[i].source->queue, &m->queues[i].stop_msg);
	}
}

enum ub_mirror_state ub_mirror_state(const struct ub_backend *be)
{
	const struct mirror *m = be->priv;
	int state = mirror_get_state(m);

	if (state == UB_MIRROR_STOPPED && atomic_load(&m->nr_stopped) < m->config.nr_queues)
		return UB_MIRROR_COPYING; /* not yet */
	return (enum ub_mirror_state)state;
}

int ub_mirror_error(const struct ub_backend *be, bool *is_source)
{
	const struct mirror *m = be->priv;
	int error = atomic_load(&m->error);

	*is_source = error < 0;
	return error < 0 ? -error : error;
}

void ub_mirror_set_rate(struct ub_backend *be, uint64_t rate_bytes)
{
	struct mirror *m = be->priv;

	atomic_store_explicit(&m->rate_bytes, rate_bytes, memory_order_relaxed);
	copier_kick(m);
}

/* Those that wait for a range, of one queue: they will never have it. */
static struct mirror_range *ranges_take_waiting(struct mirror *m, const struct mirror_queue *mq)
{
	struct mirror_range *taken = NULL, *next;

	pthread_mutex_lock(&m->lock);
	for (struct mirror_range *r = m->waiting.first; r; r = next) {
		next = r->next;
		if (r->mq != mq || r->granted != slot_granted)
			continue;
		ranges_remove(&m->waiting, r);
		r->next_granted = taken;
		taken = r;
	}
	pthread_mutex_unlock(&m->lock);
	return taken;
}

static void mirror_cancel(struct ub_backend_queue *bq, int err)
{
	struct mirror_queue *mq = bq->priv;
	struct mirror *m = mq->m;
	struct ub_backend *source = m->config.source, *dest = m->config.dest;

	mirror_set_state(m, UB_MIRROR_STOPPED);
	mq->cancel_error = err;
	for (struct mirror_range *r = ranges_take_waiting(m, mq), *next; r; r = next) {
		next = r->next_granted;
		ub_io_complete(ub_container_of(r, struct mirror_slot, range)->parent, err);
	}
	if (source->ops->cancel)
		source->ops->cancel(mq->source, err);
	if (!mq->is_stopped && dest->ops->cancel)
		dest->ops->cancel(mq->dest, err);
	mq->is_stopped = true;
}

/* ---- the contract --------------------------------------------------------------------------------------------------- */

static int mirror_queue_init(struct ub_backend_queue *bq, unsigned nr_slots, struct ub_err *err)
{
	struct mirror *m = bq->backend->priv;
	struct mirror_queue *mq = &m->queues[bq->qid];

	(void)nr_slots;
	bq->priv = mq;
	mq->m = m;
	mq->source = &m->config.source_bqs[bq->qid];
	mq->dest = &m->config.dest_bqs[bq->qid];
	mq->grant_msg.fn = queue_take_granted;
	mq->mirrored_bytes = &m->config.queue_stats[bq->qid].mirrored_bytes;
	mq->slots = calloc(m->config.depth, sizeof(*mq->slots));
	if (!mq->slots)
		return ub_err_errno(err, ENOMEM, "queue %u of a migration", bq->qid);
	for (unsigned i = 0; i < m->config.depth; i++) {
		mq->slots[i].range.mq = mq;
		mq->slots[i].range.granted = slot_granted;
	}
	return 0;
}

static void mirror_queue_destroy(struct ub_backend_queue *bq)
{
	struct mirror_queue *mq = bq->priv;

	if (!mq)
		return;
	free(mq->slots);
	mq->slots = NULL;
	bq->priv = NULL;
}

static void copier_init_io(struct mirror *m, struct ub_io *io, unsigned index)
{
	io->slot = (uint16_t)(m->config.depth + index);
	io->home = m->queues[0].source->queue;
}

static void copier_start(struct mirror *m)
{
	struct ub_queue *q = m->queues[0].source->queue;

	for (unsigned i = 0; i < MIRROR_NR_SLOTS; i++) {
		struct mirror_copy *c = &m->copies[i];

		c->m = m;
		c->io.done = copy_next;
		copier_init_io(m, &c->io, i);
		c->range.mq = &m->queues[0];
		c->range.granted = copy_granted;
		c->buf = m->bufs + (size_t)i * m->chunk_bytes;
	}
	copier_init_io(m, &m->probe_io, MIRROR_NR_SLOTS);
	m->probe_io.done = probe_done;
	copier_init_io(m, &m->flush_source, MIRROR_NR_SLOTS);
	copier_init_io(m, &m->flush_dest, MIRROR_NR_SLOTS + 1);
	copier_init_io(m, &m->sync_io, MIRROR_NR_SLOTS + 1); /* never both at a time */
	ub_pace_init(&m->pace, MIRROR_NR_SLOTS);
	m->synced_ms = ub_now_ms();
	m->paced = (struct ub_timer){ .queue = q, .expired = copier_paced };
	m->probe_due = (struct ub_timer){ .queue = q, .expired = probe_is_due };
	m->has_begun = true;
	copier_run(m);
}

static void mirror_queue_start(struct ub_backend_queue *bq)
{
	struct mirror_queue *mq = bq->priv;
	struct ub_backend_queue *dest = mq->dest;

	mq->late = (struct ub_timer){ .queue = bq->queue, .expired = queue_look_for_late };
	if (!dest->is_started && dest->backend->ops->queue_start)
		dest->backend->ops->queue_start(dest);
	dest->is_started = true;
	/* The last one: from now on every queue mirrors. */
	if (atomic_fetch_add(&mq->m->nr_started, 1) + 1 == mq->m->config.nr_queues)
		ub_queue_post(mq->m->queues[0].source->queue, &mq->m->start_msg);
}

static void mirror_all_started(struct ub_msg *msg, struct ub_queue *q)
{
	(void)q;
	copier_start(ub_container_of(msg, struct mirror, start_msg));
}

static bool mirror_queue_stop(struct ub_backend_queue *bq)
{
	struct mirror_queue *mq = bq->priv;
	struct mirror *m = mq->m;

	ub_timer_stop(&mq->late);
	if (mq != &m->queues[0])
		return !mq->late.armed_ns;
	ub_timer_stop(&m->paced);
	ub_timer_stop(&m->probe_due);
	return !mq->late.armed_ns && !m->paced.armed_ns && !m->probe_due.armed_ns && !m->nr_copies && !m->nr_flushing &&
	       !m->is_syncing && !m->is_probing && !atomic_load(&m->is_kicked);
}

static const struct ub_backend_ops mirror_ops = {
	.name = "mirror",
	.queue_init = mirror_queue_init,
	.queue_destroy = mirror_queue_destroy,
	.queue_start = mirror_queue_start,
	.submit = mirror_submit,
	.submit_end = mirror_submit_end,
	.cancel = mirror_cancel,
	.queue_stop = mirror_queue_stop,
};

/* What both sides take; what only one of them can is made up for here. */
static void mirror_limits(struct ub_limits *l, const struct ub_limits *source, const struct ub_limits *dest)
{
	*l = *source;
	if (dest->max_io_bytes < l->max_io_bytes)
		l->max_io_bytes = dest->max_io_bytes;
	if (dest->can_zero && dest->max_zeroes_bytes < l->max_zeroes_bytes)
		l->max_zeroes_bytes = dest->max_zeroes_bytes;
}

/* Small enough that one piece covers a cluster, and large enough for a bitmap that fits. */
static int mirror_make_bitmap(struct mirror *m, struct ub_err *err)
{
	uint64_t size = m->backend->limits.size_bytes;
	unsigned most = 31 - (unsigned)__builtin_clz(m->backend->limits.max_io_bytes);
	int ret;

	m->cluster_shift = most < MIRROR_MIN_CLUSTER ? most : MIRROR_MIN_CLUSTER;
	while (size >> m->cluster_shift > MIRROR_MAX_CLUSTERS && m->cluster_shift < most)
		m->cluster_shift++;
	if (size >> m->cluster_shift > MIRROR_MAX_CLUSTERS)
		return ub_err_set(err, EFBIG, "a device of %llu bytes is too large to be moved with I/O of at most %u bytes",
				  (unsigned long long)size, m->backend->limits.max_io_bytes);
	m->nr_clusters = (size + (1ULL << m->cluster_shift) - 1) >> m->cluster_shift;
	ret = ub_bitmap_init(&m->dirty, m->nr_clusters, -1, 0);
	if (ret == 0)
		ret = ub_bitmap_init(&m->unsafe.map, m->nr_clusters, -1, 0);
	if (ret == 0)
		ret = ub_bitmap_init(&m->pending.map, m->nr_clusters, -1, 0);
	if (ret)
		return ub_err_errno(err, -ret, "the migration's bitmap");
	ub_bitmap_set(&m->dirty, 0, m->nr_clusters);
	m->nr_dirty = m->nr_clusters;
	m->chunk_bytes = m->backend->limits.max_io_bytes < MIRROR_CHUNK_BYTES ? m->backend->limits.max_io_bytes :
										MIRROR_CHUNK_BYTES;
	m->chunk_bytes &= ~((1U << m->cluster_shift) - 1);
	if (m->chunk_bytes < 1U << m->cluster_shift)
		m->chunk_bytes = 1U << m->cluster_shift;
	return 0;
}

int ub_mirror_create(struct ub_backend *be, const struct ub_mirror_config *config, struct ub_err *err)
{
	struct mirror *m = calloc(1, sizeof(*m));
	size_t bytes;
	int ret;

	*be = (struct ub_backend){ .ops = &mirror_ops, .priv = m };
	if (!m)
		return ub_err_errno(err, ENOMEM, "a migration");
	pthread_mutex_init(&m->lock, NULL);
	m->config = *config;
	m->backend = be;
	m->block_bytes = config->source->limits.logical_block_bytes;
	m->losses = mirror_losses(m);
	atomic_init(&m->rate_bytes, config->rate_bytes);
	m->kick_msg.fn = copier_kicked;
	m->start_msg.fn = mirror_all_started;
	mirror_limits(&be->limits, &config->source->limits, &config->dest->limits);
	m->queues = calloc(config->nr_queues, sizeof(*m->queues));
	if (!m->queues)
		return ub_err_errno(err, ENOMEM, "the queues of a migration");
	ret = mirror_make_bitmap(m, err);
	if (ret)
		return ret;
	bytes = (size_t)MIRROR_NR_SLOTS * m->chunk_bytes;
	m->bufs = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (m->bufs == MAP_FAILED) {
		m->bufs = NULL;
		return ub_err_errno(err, errno, "a migration's buffers of %zu bytes", bytes);
	}
	ub_stat_set(&config->stats->total_bytes, be->limits.size_bytes);
	ub_stat_set(&config->stats->copied_bytes, 0);
	ub_stat_set(&config->stats->zeroed_bytes, 0);
	for (unsigned i = 0; i < config->nr_queues; i++)
		ub_stat_set(&config->queue_stats[i].mirrored_bytes, 0);
	dirty_note(m);
	return 0;
}

void ub_mirror_destroy(struct ub_backend *be)
{
	struct mirror *m = be->priv;

	if (!m)
		return;
	ub_bitmap_destroy(&m->dirty);
	ub_bitmap_destroy(&m->unsafe.map);
	ub_bitmap_destroy(&m->pending.map);
	if (m->bufs)
		munmap(m->bufs, (size_t)MIRROR_NR_SLOTS * m->chunk_bytes);
	pthread_mutex_destroy(&m->lock);
	free(m->queues);
	free(m);
	*be = (struct ub_backend){ 0 };
}
