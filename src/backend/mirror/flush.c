/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Flushing: both sides, for whoever moves the device, and the destination alone, for the copier.
 * Queue 0's, but for what mirror.h has.
 */
#include "backend/mirror/internal.h"

#include <errno.h>

#include "base/cleanup.h"

/* so often the destination is flushed: as much may have to be copied again */
#define FLUSH_SYNC_MS 10000

/* ---- both sides ---------------------------------------------------------- */

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
	m->go_on(m);
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
	mirror_flush_ends(m, res);
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

static void flush_begin(struct mirror *m)
{
	struct mirror_queue *mq = &m->queues[0];

	m->flush_waits = false;
	m->nr_flushing = 2;
	mirror_flush_begins(m);
	flush_submit(m->config.source, mq->source, &m->flush_source, flush_source_done);
	if (mq->is_stopped) { /* meanwhile: nothing goes there any more */
		m->flush_dest.done = flush_dest_done;
		ub_io_begin_internal(&m->flush_dest);
		ub_io_complete(&m->flush_dest, -ECANCELED);
	} else {
		flush_submit(m->config.dest, mq->dest, &m->flush_dest, flush_dest_done);
	}
}

static void flush_asked(struct ub_msg *msg, struct ub_queue *q)
{
	struct mirror *m = ub_container_of(msg, struct mirror, flush_msg);

	(void)q;
	/* What the copier's own one may not have covered is what this one is for. */
	m->flush_waits = m->is_syncing;
	if (!m->flush_waits)
		flush_begin(m);
}

void ub_mirror_flush(struct ub_backend *be)
{
	struct mirror *m = be->priv;

	atomic_store_explicit(&m->flushed, 0, memory_order_relaxed);
	ub_queue_post(m->queues[0].source->queue, &m->flush_msg);
}

int ub_mirror_flushed(const struct ub_backend *be)
{
	const struct mirror *m = be->priv;

	return atomic_load_explicit(&m->flushed, memory_order_acquire);
}

/* ---- the destination alone ----------------------------------------------- */

static void sync_done(struct ub_io *io, int32_t res)
{
	struct mirror *m = ub_container_of(io, struct mirror, sync_io);

	ub_io_end_internal(io);
	m->is_syncing = false;
	mirror_flush_ends(m, res);
	if (res < 0)
		mirror_dest_failed(m, res);
	if (m->flush_waits)
		flush_begin(m);
	m->go_on(m);
}

void mirror_sync(struct mirror *m)
{
	if (m->is_syncing || m->nr_flushing || !m->config.dest->limits.can_flush ||
	    mirror_get_state(m) != UB_MIRROR_COPYING || ub_now_ms() - m->synced_ms < FLUSH_SYNC_MS)
		return;
	m->is_syncing = true;
	mirror_flush_begins(m);
	flush_submit(m->config.dest, m->queues[0].dest, &m->sync_io, sync_done);
}

void mirror_flush_init(struct mirror *m)
{
	m->flush_msg.fn = flush_asked;
}
