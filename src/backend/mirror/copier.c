/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The copier, which brings the rest over: queue 0's, but for what is marked. */
#include "backend/mirror/internal.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"

#define COPIER_LOOK_BYTES (128U << 20) /* about so much is asked at once what it has */
/* where there is data, so much is read without another look */
#define COPIER_MIN_DATA	  (1U << 20)
#define COPIER_ZERO_BYTES (16U << 20) /* of zeroes, in one piece: writes there wait for it */
/*
 * While the application is at work, in small pieces: what it asks for waits behind one on either
 * side.
 */
#define COPIER_BUSY_BYTES      (16U << 10)
#define COPIER_BUSY_ZERO_BYTES (1U << 20)
#define COPIER_MAX_TURN	       (2 * MIRROR_NR_SLOTS)
#define COPIER_BUSY_MS	       100 /* it is at work for so long after its last I/O */
#define COPIER_PROBE_MS	       200 /* a destination that is out of step */

static void copy_granted(struct mirror_range *range);

/*
 * Whether the application is at work. One that waits for all that it asked for asks for nothing
 * new.
 */
static bool copier_is_busy(const struct mirror *m)
{
	if (ub_now_ms() - atomic_load_explicit(&m->busy_ms, memory_order_relaxed) < COPIER_BUSY_MS)
		return true;
	for (unsigned i = 0; i < m->config.nr_queues; i++) {
		if (ub_stat_read(&m->config.queue_stats[i].in_flight))
			return true;
	}
	return false;
}

static void copier_kicked(struct ub_msg *msg, struct ub_queue *q)
{
	struct mirror *m = ub_container_of(msg, struct mirror, kick_msg);

	(void)q;
	atomic_exchange_explicit(&m->is_kicked, false, memory_order_acq_rel);
	mirror_copier_run(m);
}

static void copy_submit(struct mirror_copy *c, enum mirror_step step, uint8_t op, bool to_dest,
			void *buf, uint32_t len)
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
		mirror_queue_tick(mq);
	}
	ub_io_begin_internal(&c->io);
	be->ops->submit(to_dest ? mq->dest : mq->source, &c->io);
}

static void copy_end(struct mirror_copy *c)
{
	struct mirror *m = c->m;

	if (c->range.is_held)
		mirror_range_give_back(m, &c->range);
	c->step = COPY_IDLE;
	m->nr_copies--;
	ub_pace_end(&m->pace, c->began_ns, ub_now_ns(), c->is_beside, c->is_whole);
}

/* The range's first len_bytes are the same on both sides. */
static void copy_done(struct mirror_copy *c, _Atomic uint64_t *counter)
{
	struct mirror *m = c->m;

	if (mirror_dirty_clear(m, c->range.start, c->range.start + c->len_bytes, c->losses))
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
	mirror_range_shrink(m, &c->range, c->range.start + len);
	copier_go_back(m, c->range.end);
}

static void copy_zero(struct mirror_copy *c)
{
	struct mirror *m = c->m;
	const struct ub_limits *l = &m->config.dest->limits;
	uint32_t most =
		l->max_zeroes_bytes < COPIER_ZERO_BYTES ? l->max_zeroes_bytes : COPIER_ZERO_BYTES;
	uint32_t most_written = m->chunk_bytes;
	bool can_zero = l->can_zero && !atomic_load_explicit(&m->cannot_zero, memory_order_relaxed);

	if (copier_is_busy(m)) {
		most = copier_busy_bytes(m, most, COPIER_BUSY_ZERO_BYTES);
		most_written = copier_busy_bytes(m, most_written, COPIER_BUSY_BYTES);
	}
	c->is_whole = false;
	most &= ~((1U << m->cluster_shift) - 1);
	can_zero &= most != 0; /* less than a cluster: they are written */
	copy_shrink(c, can_zero ? most : most_written);
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

	/*
	 * Where data and holes take turns in small parts, looking costs more than reading what is
	 * zero.
	 */
	m->data_start = c->range.start;
	m->data_end = c->range.start + (len > COPIER_MIN_DATA ? len : COPIER_MIN_DATA);
	m->cursor = c->range.start >> m->cluster_shift;
	m->is_looking = false;
	copy_end(c);
}

/*
 * What a look at the source has told. False: nothing more is to be done. Else *len bytes read as
 * zeroes.
 */
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

/*
 * A first look, which nobody waits for. Zeroes are looked at again, while nobody may change them.
 */
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
	if (mirror_range_take(m, &c->range))
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
	mirror_copier_run(m);
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

	ub_pace_set_latency(&m->pace,
			    side_latency(m->config.source) + side_latency(m->config.dest));
	ub_pace_set_rate(&m->pace, now_ns,
			 atomic_load_explicit(&m->rate_bytes, memory_order_relaxed));
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
	bool is_busy = copier_is_busy(m);

	if (!c || !copier_may_begin(m, is_busy) || !mirror_dirty_find(m, &first, &count))
		return false;
	if (is_busy)
		most = copier_busy_bytes(m, most, COPIER_BUSY_BYTES);
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
		most = is_known ? most : COPIER_LOOK_BYTES;
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
	c->is_whole = step == COPY_READ && c->len_bytes == most;
	ub_pace_begin(&m->pace, c->began_ns, is_busy, step == COPY_READ ? c->len_bytes : 0);
	m->nr_copies++;
	m->cursor = (end + (1ULL << m->cluster_shift) - 1) >> m->cluster_shift;
	if (step == COPY_PEEK) {
		m->is_looking = true;
		copy_submit(c, COPY_PEEK, UB_OP_STATUS, false, &c->extent, c->len_bytes);
		return true;
	}
	c->step = step;
	if (mirror_range_take(m, &c->range))
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

void mirror_copier_run(struct mirror *m)
{
	if (!m->has_begun || m->is_running) /* a piece that was begun below may end at once */
		return;
	m->is_running = true;
	mirror_look_for_losses(m);
	mirror_sync(m);
	/* Where pieces end at once, others' I/O has its turn in between. */
	for (unsigned nr = 0; mirror_is_mirroring(m) && copier_start_one(m);) {
		if (++nr == COPIER_MAX_TURN) {
			mirror_copier_kick(m);
			break;
		}
	}
	m->is_running = false;
	/* Not put off by every turn of a busy application. */
	if (mirror_get_state(m) == UB_MIRROR_OUT && !m->is_probing && !m->probe_due.deadline_ns)
		ub_timer_set(&m->probe_due, COPIER_PROBE_MS);
	mirror_dirty_note(m);
	if (m->nr_copies == 0)
		copier_say_in_step(m);
}

static void copier_paced(struct ub_timer *timer)
{
	mirror_copier_run(ub_container_of(timer, struct mirror, paced));
}

bool mirror_copier_has_sent(const struct mirror *m)
{
	for (unsigned i = 0; i < MIRROR_NR_SLOTS; i++) {
		if (m->copies[i].sent_ms)
			return true;
	}
	return false;
}

bool mirror_copier_is_late(struct mirror *m, uint64_t now_ms)
{
	bool is_late = false;

	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < MIRROR_NR_SLOTS && !is_late; i++) {
		const struct mirror_copy *c = &m->copies[i];

		is_late = c->sent_ms && now_ms - c->sent_ms >= m->config.late_ms &&
			  mirror_ranges_overlap(&m->waiting, &c->range, NULL);
	}
	pthread_mutex_unlock(&m->lock);
	return is_late;
}

/* ---- is it back? --------------------------------------------------------- */

static void probe_done(struct ub_io *io, int32_t res)
{
	struct mirror *m = ub_container_of(io, struct mirror, probe_io);
	struct ub_backend *dest = m->config.dest;

	ub_io_end_internal(io);
	m->is_probing = false;
	/* While a server may still execute what was given up, writes would only wait. */
	if (res >= 0 && (!dest->ops->has_settled || dest->ops->has_settled(dest)))
		mirror_resume(m, UB_MIRROR_OUT);
	mirror_copier_run(m);
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

/* ---- its beginning ------------------------------------------------------- */

static void copier_init_io(struct mirror *m, struct ub_io *io, unsigned index)
{
	io->slot = (uint16_t)(m->config.depth + index);
	io->home = m->queues[0].source->queue;
}

void mirror_copier_init(struct mirror *m)
{
	m->kick_msg.fn = copier_kicked;
	m->go_on = mirror_copier_run;
	mirror_flush_init(m);
}

void mirror_copier_start(struct mirror *m)
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
	/*
	 * What an earlier attempt has sent may still land: nothing goes there before that is over,
	 * and nobody waits for it.
	 */
	if (m->config.dest->ops->has_settled && !m->config.dest->ops->has_settled(m->config.dest))
		mirror_dest_failed(m, -ENOLINK);
	mirror_copier_run(m);
}

bool mirror_copier_stop(struct mirror *m)
{
	ub_timer_stop(&m->paced);
	ub_timer_stop(&m->probe_due);
	return !m->paced.armed_ns && !m->probe_due.armed_ns && !m->nr_copies && !m->nr_flushing &&
	       !m->is_syncing && !m->is_probing && !atomic_load(&m->is_kicked);
}
