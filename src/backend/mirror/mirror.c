/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The layer of a migration: what the application asks for, and the contract. Queues' threads, but
 * for what is marked.
 */
#include "backend/mirror/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/cleanup.h"

#define MIRROR_CHUNK_BYTES  (256U << 10)   /* of data, in one piece of the copier's */
#define MIRROR_MAX_CLUSTERS (256ULL << 20) /* bits of a bitmap: 32 MiB */
#define MIRROR_MIN_CLUSTER  14		   /* 16 KiB, as a shift */

/* ---- what the application asks for --------------------------------------- */

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
	mirror_queue_tick(mq);
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

static void queue_look_for_late(struct ub_timer *timer)
{
	struct mirror_queue *mq = ub_container_of(timer, struct mirror_queue, late);
	struct mirror *m = mq->m;
	struct ub_backend *dest = m->config.dest;
	bool is_copier_s = mq == &m->queues[0];
	uint64_t now_ms = ub_now_ms();
	bool is_late;

	mq->is_ticking = false;
	if (mq->is_stopped || (!mq->sent_first && !(is_copier_s && mirror_copier_has_sent(m))))
		return;
	mirror_queue_tick(mq);
	is_late = mq->sent_first && now_ms - mq->sent_first->sent_ms >= m->config.late_ms;
	is_late |= is_copier_s && mirror_copier_is_late(m, now_ms);
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
	differs =
		differs || !mirror_dirty_clear(m, slot->range.start, slot->range.end, slot->losses);
	if (differs && mirror_get_state(m) < UB_MIRROR_FAILED)
		mirror_dirty_set(m, slot->range.start, slot->range.end);
	if (slot->is_mirrored && dest_res == -EOPNOTSUPP && slot->parent->op == UB_OP_WRITE_ZEROES)
		atomic_store_explicit(&m->cannot_zero, true, memory_order_relaxed);
	else if (slot->is_mirrored && dest_res < 0)
		mirror_dest_failed(m, dest_res);
	else if (!differs)
		ub_stat_add(mq->mirrored_bytes, slot->source.len_bytes);
	mirror_range_give_back(m, &slot->range);
	slot->parent->losses = slot->source.losses;
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

static void slot_copy_io(const struct mirror_slot *slot, struct ub_io *io,
			 void (*done)(struct ub_io *, int32_t))
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
		return m->config.dest->limits.can_zero &&
		       !atomic_load_explicit(&m->cannot_zero, memory_order_relaxed);
	/* what is discarded reads as anybody likes: as the source does, then */
	return slot->parent->op == UB_OP_WRITE;
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
		/*
		 * What counts is the source, until the cutover flushes both; and give_back() is for
		 * the source alone.
		 */
		slot->dest.flags &= (uint8_t) ~(UB_FUA | UB_PART);
		sent_add(mq, slot);
		slot->losses = mirror_losses(m);
		m->config.dest->ops->submit(mq->dest, &slot->dest);
	} else if (mirror_get_state(m) < UB_MIRROR_FAILED) {
		mirror_dirty_set(m, slot->range.start, slot->range.end);
	}
	m->config.source->ops->submit(mq->source, &slot->source);
}

/* The core tells the source of a change. */
static void mirror_give_back(struct ub_backend_queue *bq, const struct ub_io *io)
{
	struct mirror_queue *mq = bq->priv;
	const struct ub_backend_ops *ops = mq->m->config.source->ops;

	if (ops->give_back)
		ops->give_back(mq->source, io);
}

/* It ends before the source has seen it. */
static void slot_refuse(struct mirror_slot *slot, int err)
{
	const struct ub_backend_ops *ops = slot->range.mq->m->config.source->ops;

	if (ops->give_back && !(slot->parent->flags & UB_PART))
		ops->give_back(slot->range.mq->source, slot->parent);
	ub_io_complete(slot->parent, err);
}

static void slot_granted(struct mirror_range *range)
{
	struct mirror_queue *mq = range->mq;
	struct mirror_slot *slot = ub_container_of(range, struct mirror_slot, range);

	if (!mq->cancel_error) {
		slot_start(slot);
		return;
	}
	mirror_range_give_back(mq->m, range);
	slot_refuse(slot, mq->cancel_error);
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
	if (mirror_range_take(m, &slot->range))
		slot_start(slot);
}

static void mirror_submit_end(struct ub_backend_queue *bq)
{
	struct mirror_queue *mq = bq->priv;
	struct mirror *m = mq->m;
	const struct ub_mirror_config *c = &m->config;

	if (mq == &m->queues[0] && m->due_ns && ub_now_ns() >= m->due_ns)
		mirror_copier_run(m);
	if (c->source->ops->submit_end)
		c->source->ops->submit_end(mq->source);
	if (c->dest->ops->submit_end)
		c->dest->ops->submit_end(mq->dest);
}

/* ---- the end ------------------------------------------------------------- */

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
	mirror_copier_kick(m);
}

static void mirror_cancel(struct ub_backend_queue *bq, int err)
{
	struct mirror_queue *mq = bq->priv;
	struct mirror *m = mq->m;
	struct ub_backend *source = m->config.source, *dest = m->config.dest;

	mirror_set_state(m, UB_MIRROR_STOPPED);
	mq->cancel_error = err;
	for (struct mirror_range *r = mirror_take_waiting(m, mq, slot_granted), *next; r;
	     r = next) {
		next = r->next_granted;
		slot_refuse(ub_container_of(r, struct mirror_slot, range), err);
	}
	if (source->ops->cancel)
		source->ops->cancel(mq->source, err);
	if (!mq->is_stopped && dest->ops->cancel)
		dest->ops->cancel(mq->dest, err);
	mq->is_stopped = true;
}

/* ---- the contract -------------------------------------------------------- */

static int mirror_queue_init(struct ub_backend_queue *bq, unsigned nr_slots, struct ub_err *err)
{
	struct mirror *m = bq->backend->priv;
	struct mirror_queue *mq = &m->queues[bq->qid];

	(void)nr_slots;
	bq->priv = mq;
	mq->m = m;
	mq->source = &m->config.source_bqs[bq->qid];
	mq->dest = &m->config.dest_bqs[bq->qid];
	mq->grant_msg.fn = mirror_take_granted;
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
	mirror_copier_start(ub_container_of(msg, struct mirror, start_msg));
}

static bool mirror_queue_stop(struct ub_backend_queue *bq)
{
	struct mirror_queue *mq = bq->priv;
	struct mirror *m = mq->m;

	ub_timer_stop(&mq->late);
	return (mq != &m->queues[0] || mirror_copier_stop(m)) && !mq->late.armed_ns;
}

static const struct ub_backend_ops mirror_ops = {
	.name = "mirror",
	.queue_init = mirror_queue_init,
	.queue_destroy = mirror_queue_destroy,
	.queue_start = mirror_queue_start,
	.submit = mirror_submit,
	.give_back = mirror_give_back,
	.submit_end = mirror_submit_end,
	.cancel = mirror_cancel,
	.queue_stop = mirror_queue_stop,
};

/* What both sides take; what only one of them can is made up for here. */
static void mirror_limits(struct ub_limits *l, const struct ub_limits *source,
			  const struct ub_limits *dest)
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
		return ub_err_set(err, EFBIG,
				  "a device of %llu bytes is too large to be migrated with I/O of "
				  "at "
				  "most %u bytes",
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
	m->chunk_bytes = m->backend->limits.max_io_bytes < MIRROR_CHUNK_BYTES ?
				 m->backend->limits.max_io_bytes :
				 MIRROR_CHUNK_BYTES;
	m->chunk_bytes &= ~((1U << m->cluster_shift) - 1);
	if (m->chunk_bytes < 1U << m->cluster_shift)
		m->chunk_bytes = 1U << m->cluster_shift;
	return 0;
}

int ub_mirror_create(struct ub_backend *be, const struct ub_mirror_config *config,
		     struct ub_err *err)
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
	mirror_copier_init(m);
	m->start_msg.fn = mirror_all_started;
	mirror_limits(&be->limits, &config->source->limits, &config->dest->limits);
	m->queues = calloc(config->nr_queues, sizeof(*m->queues));
	if (!m->queues)
		return ub_err_errno(err, ENOMEM, "the queues of a migration");
	ret = mirror_make_bitmap(m, err);
	if (ret)
		return ret;
	bytes = (size_t)MIRROR_NR_SLOTS * m->chunk_bytes;
	m->bufs = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (m->bufs == MAP_FAILED) {
		m->bufs = NULL;
		return ub_err_errno(err, errno, "a migration's buffers of %zu bytes", bytes);
	}
	ub_stat_set(&config->stats->total_bytes, be->limits.size_bytes);
	ub_stat_set(&config->stats->copied_bytes, 0);
	ub_stat_set(&config->stats->zeroed_bytes, 0);
	for (unsigned i = 0; i < config->nr_queues; i++)
		ub_stat_set(&config->queue_stats[i].mirrored_bytes, 0);
	mirror_dirty_note(m);
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
