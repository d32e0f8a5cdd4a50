/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A queue's tags and its loop: one io_uring_enter a turn sends all commits of the last turn,
 * fetches, and sleeps. And what interrupts it: another size, a pause, another back end.
 *
 * The queue's own thread, but for what queue.h gives to the main thread. Once live it neither
 * allocates nor takes a lock. Specification: Documentation/block/ublk.rst, "Data plane".
 */
#include "ublk/queue.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "ublk/ring.h"

/* ---- tags ---------------------------------------------------------------- */

/* For after a pause, or, while the queue yields, for the next server. */
static void queue_hold(struct ub_queue *q, struct ub_req *req, bool wants_data)
{
	req->state = UB_REQ_HELD;
	req->wants_data = wants_data;
	req->next_held = NULL;
	*q->held_last = req;
	q->held_last = &req->next_held;
}

static void queue_tag_event(struct ub_queue *q, struct ub_req *req, int32_t res)
{
	if (__builtin_expect(res == UBLK_IO_RES_OK, 1)) {
		if (__builtin_expect(req->state == UB_REQ_KERNEL, 1) &&
		    __builtin_expect(!(q->is_yielding | q->is_pausing), 1))
			ub_req_arrived(q, req);
		else if (req->state == UB_REQ_KERNEL)
			queue_hold(q, req, false);
		else if (req->state == UB_REQ_GET_DATA)
			ub_req_has_data(q, req);
		else
			ub_ring_fatal(q, "the kernel completed a tag that it did not have", EPROTO);
	} else if (res == UBLK_IO_RES_NEED_GET_DATA && req->state == UB_REQ_KERNEL) {
		if (__builtin_expect(q->is_yielding | q->is_pausing, 0))
			queue_hold(q, req, true);
		else
			ub_ring_send_io_cmd(q, UBLK_U_IO_NEED_GET_DATA, req, 0,
					    ub_req_wants_data(q, req));
	} else if (res == -ENODEV || res == -ECANCELED) {
		if (req->state == UB_REQ_GET_DATA)
			q->nr_owned--;
		req->state = UB_REQ_GONE;
		q->nr_gone++;
	} else {
		/* A refused command leaves its request here and the client waiting for ever. */
		ub_ring_fatal(q, "the kernel refused an I/O command", res < 0 ? -res : EPROTO);
	}
}

void ub_queue_fetch_all(struct ub_queue *q)
{
	for (unsigned tag = 0; tag < q->depth; tag++) {
		struct ub_req *req = &q->reqs[tag];

		ub_ring_send_io_cmd(q, UBLK_U_IO_FETCH_REQ, req, 0,
				    q->path == UB_DATA_PATH_USER_COPY ? NULL : req->tag_buf);
	}
}

/* ---- the loop ------------------------------------------------------------ */

static void queue_run_done(struct ub_queue *q)
{
	if (q->done_first)
		ub_ring_look_at_clock(q);
	/* done() may submit a next part, and that may complete here: the list grows at its end. */
	while (q->done_first) {
		struct ub_io *io = q->done_first;

		q->done_first = io->next;
		if (!q->done_first)
			q->done_last = &q->done_first;
		io->done(io, io->result);
	}
}

/* What completes inside may bring new submits, and those want their submit_end() too. */
static void queue_end_batch(struct ub_queue *q)
{
	ub_backend_submit_end(q->bq);
	while (q->done_first) {
		queue_run_done(q);
		ub_backend_submit_end(q->bq);
	}
}

/* The end of a turn: how much was given back in one go, and what is left. */
static void queue_count_batch(struct ub_queue *q)
{
	struct ub_queue_stats *stats = q->stats;
	unsigned size = 31 - (unsigned)__builtin_clz(q->nr_commits | 1);

	ub_stat_set(&stats->in_flight, q->nr_owned);
	if (!q->nr_commits)
		return;
	ub_stat_add(&stats->batches[size < UB_STATS_BATCH_SIZES ? size : UB_STATS_BATCH_SIZES - 1],
		    1);
	if (q->nr_commits > ub_stat_read(&stats->max_batch))
		ub_stat_set(&stats->max_batch, q->nr_commits);
	q->nr_commits = 0;
}

/* Tells the main thread, once no I/O is left behind the end. */
static void queue_look_behind_end(struct ub_queue *q)
{
	for (unsigned tag = 0; tag < q->depth; tag++) {
		const struct ub_req *req = &q->reqs[tag];

		if ((req->state == UB_REQ_BACKEND || req->state == UB_REQ_GET_DATA) &&
		    req->offset_bytes + req->len_bytes > q->limits.size_bytes)
			return;
	}
	q->is_shrinking = false;
	atomic_store_explicit(&q->size_bytes, q->limits.size_bytes, memory_order_release);
	eventfd_write(q->dev->event_fd, 1);
}

static void queue_take_size(struct ub_msg *msg, struct ub_queue *q)
{
	(void)msg;
	q->limits.size_bytes = atomic_load_explicit(&q->wanted_bytes, memory_order_acquire);
	q->is_shrinking = true; /* or it grows: there is nothing to wait for then */
}

/* ---- pausing, and another back end --------------------------------------- */

void ub_queue_begin_with(struct ub_queue *q, struct ub_backend_queue *bq)
{
	q->bq = bq;
	q->limits = bq->backend->limits;
	q->has_spare_bufs = ub_data_path_spares_bufs(q->path, bq->backend->ops->caps);
	ub_backend_queue_start(bq);
}

/* What came while it paused. */
static void queue_take_held(struct ub_queue *q)
{
	struct ub_req *req = q->held_first;

	q->held_first = NULL;
	q->held_last = &q->held_first;
	while (req) {
		struct ub_req *next = req->next_held;

		req->state = UB_REQ_KERNEL;
		queue_tag_event(q, req,
				req->wants_data ? UBLK_IO_RES_NEED_GET_DATA : UBLK_IO_RES_OK);
		req = next;
	}
}

static void queue_pause(struct ub_msg *msg, struct ub_queue *q)
{
	(void)msg;
	q->is_pausing = true;
	q->pause_id = atomic_load_explicit(&q->pause_wanted, memory_order_acquire);
}

static void queue_resume(struct ub_msg *msg, struct ub_queue *q)
{
	struct ub_backend_queue *next = q->next_bq;

	(void)msg;
	q->next_bq = NULL;
	q->is_pausing = false;
	if (next)
		ub_queue_begin_with(q, next);
	if (!q->is_yielding)
		queue_take_held(q);
}

static void queue_leave(struct ub_msg *msg, struct ub_queue *q)
{
	struct ub_backend_queue *bq = ub_container_of(msg, struct ub_backend_queue, leave_msg);

	bq->next_leaving = q->leaving;
	q->leaving = bq;
}

/* The end of a turn: those that nothing in the ring refers to any more have left. */
static void queue_let_leave(struct ub_queue *q)
{
	struct ub_backend_queue **at = &q->leaving;

	while (*at) {
		struct ub_backend_queue *bq = *at;

		if (!ub_backend_queue_stop(bq)) {
			at = &bq->next_leaving;
			continue;
		}
		*at = bq->next_leaving;
		atomic_store_explicit(&bq->has_left, true, memory_order_release);
	}
}

static void queue_say_paused(struct ub_queue *q)
{
	atomic_store_explicit(&q->paused_for, q->pause_id, memory_order_release);
	eventfd_write(q->dev->event_fd, 1);
}

/* For whoever asks what a pause waits for. */
static void queue_find_oldest(struct ub_queue *q)
{
	uint64_t oldest_ns = 0;

	for (unsigned tag = 0; tag < q->depth; tag++) {
		const struct ub_req *req = &q->reqs[tag];

		if ((req->state == UB_REQ_BACKEND || req->state == UB_REQ_GET_DATA) &&
		    (!oldest_ns || req->arrived_ns < oldest_ns))
			oldest_ns = req->arrived_ns;
	}
	atomic_store_explicit(&q->oldest_ns, oldest_ns, memory_order_release);
}

/* What does not happen in each turn. */
static void queue_end_rare_turn(struct ub_queue *q)
{
	if (q->leaving)
		queue_let_leave(q);
	if (q->is_pausing)
		queue_find_oldest(q);
	if (q->is_pausing && !q->nr_owned &&
	    atomic_load_explicit(&q->paused_for, memory_order_relaxed) != q->pause_id)
		queue_say_paused(q);
}

void ub_queue_turn(struct ub_queue *q)
{
	struct io_uring_cqe *cqe;
	unsigned head, nr = 0;
	int ret;

	ret = io_uring_submit_and_wait(&q->ring, 1);
	if (__builtin_expect(ret < 0 && ret != -EINTR && ret != -EAGAIN && ret != -EBUSY, 0))
		ub_ring_fatal(q, "cannot wait for I/O", -ret);
	ub_stat_add(&q->stats->nr_turns, 1);
	ub_ring_look_at_clock(q);
	q->turn_ns = q->done_ns;
	io_uring_for_each_cqe(&q->ring, head, cqe) {
		uint64_t data = cqe->user_data;

		nr++;
		if (__builtin_expect(data & RING_DATA_TAG, 1)) {
			queue_tag_event(q, &q->reqs[data >> RING_DATA_SHIFT], cqe->res);
		} else {
			struct ub_cqe_handler *handler = (void *)(uintptr_t)data;

			handler->fn(handler, cqe->res, cqe->flags);
		}
	}
	io_uring_cq_advance(&q->ring, nr);
	queue_end_batch(q);
	queue_count_batch(q);
	if (__builtin_expect(q->used_bufs != NULL, 0))
		ub_ring_drop_used_bufs(q);
	if (__builtin_expect(q->is_shrinking, 0))
		queue_look_behind_end(q);
	if (__builtin_expect(q->is_pausing || q->leaving, 0))
		queue_end_rare_turn(q);
}

/* ---- making and ending: the main thread's -------------------------------- */

int ub_queue_map(struct ub_queue *q, struct ub_err *err)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *p;

	q->desc_bytes = (q->depth * sizeof(struct ublksrv_io_desc) + page - 1) & ~(page - 1);
	p = mmap(NULL, q->desc_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, q->dev->cdev_fd,
		 (off_t)(q->qid * UBLK_QUEUE_DESC_STRIDE));
	if (p == MAP_FAILED)
		return ub_err_errno(err, errno, "queue %u: cannot map its descriptors", q->qid);
	/* a child that has it keeps a dead server alive */
	madvise(p, q->desc_bytes, MADV_DONTFORK);
	q->descs = p;
	return 0;
}

static int queue_make_reqs(struct ub_queue *q, struct ub_err *err)
{
	const struct ub_device_config *config = &q->dev->config;

	q->reqs = aligned_alloc(64, q->depth * sizeof(*q->reqs));
	if (!q->reqs)
		return ub_err_errno(err, ENOMEM, "queue %u: %u tags", q->qid, q->depth);
	memset(q->reqs, 0, q->depth * sizeof(*q->reqs));
	for (unsigned tag = 0; tag < q->depth; tag++) {
		struct ub_req *req = &q->reqs[tag];

		req->tag = (uint16_t)tag;
		req->io.slot = (uint16_t)tag;
		req->io.home = q;
		req->tag_buf = (char *)q->dev->arena +
			       ((size_t)q->qid * q->depth + tag) * config->max_io_bytes;
	}
	q->zeroes_bytes = config->max_io_bytes;
	q->zeroes = mmap(NULL, q->zeroes_bytes, PROT_READ,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (q->zeroes == MAP_FAILED) {
		q->zeroes = NULL;
		return ub_err_errno(err, errno, "queue %u: a buffer of zeroes", q->qid);
	}
	q->sink = mmap(NULL, config->max_io_bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (q->sink == MAP_FAILED) {
		q->sink = NULL;
		return ub_err_errno(err, errno, "queue %u: a buffer for what fails", q->qid);
	}
	return 0;
}

int ub_queue_create(struct ub_queue **out, struct ub_device *dev, uint16_t qid, struct ub_err *err)
{
	struct ub_queue *q = aligned_alloc(64, (sizeof(*q) + 63) & ~(size_t)63);
	int ret;

	*out = q;
	if (!q)
		return ub_err_errno(err, ENOMEM, "queue %u", qid);
	memset(q, 0, sizeof(*q));
	q->dev = dev;
	q->qid = qid;
	q->depth = dev->config.depth;
	q->path = dev->config.data_path;
	q->stats = &dev->config.stats->queues[qid];
	q->held_last = &q->held_first;
	sem_init(&q->go, 0, 0);
	ret = ub_ring_open_mailbox(q, err);
	if (ret)
		return ret;
	q->limits = dev->backend->limits;
	q->size_bytes = q->limits.size_bytes;
	return queue_make_reqs(q, err);
}

void ub_queue_cancel(struct ub_queue *q)
{
	if (q->cancel_error)
		return;
	q->cancel_error = -EIO;
	ub_backend_cancel(q->bq, q->cancel_error);
	q->is_pausing = false; /* there is nothing more to wait for */
	if (!q->is_yielding)
		queue_take_held(q);
}

void ub_queue_pause(struct ub_queue *q)
{
	atomic_fetch_add(&q->pause_wanted, 1);
	q->pause_msg.fn = queue_pause;
	ub_queue_post(q, &q->pause_msg);
}

bool ub_queue_is_paused(const struct ub_queue *q)
{
	return atomic_load_explicit(&q->paused_for, memory_order_acquire) ==
	       atomic_load(&q->pause_wanted);
}

uint64_t ub_queue_oldest_ns(const struct ub_queue *q)
{
	return atomic_load_explicit(&q->oldest_ns, memory_order_acquire);
}

void ub_queue_resume(struct ub_queue *q, struct ub_backend_queue *next)
{
	atomic_fetch_add(&q->pause_wanted, 1);
	q->next_bq = next;
	q->resume_msg.fn = queue_resume;
	ub_queue_post(q, &q->resume_msg);
}

static void queue_flushed(struct ub_io *io, int32_t res)
{
	struct ub_queue *q = io->home;

	atomic_store_explicit(&q->flush_result, res, memory_order_relaxed);
	ub_io_end_internal(io);
	atomic_store_explicit(&q->is_flushing, false, memory_order_release);
	eventfd_write(q->dev->event_fd, 1);
}

static void queue_flush(struct ub_msg *msg, struct ub_queue *q)
{
	struct ub_io *io = &q->flush_io;

	(void)msg;
	*io = (struct ub_io){ .op = UB_OP_FLUSH, .home = q, .done = queue_flushed };
	io->slot = (uint16_t)(q->depth + UB_INTERNAL_SLOTS - 1);
	ub_io_begin_internal(io);
	if (q->limits.can_flush && !q->cancel_error)
		ub_backend_submit(q->bq, io);
	else
		ub_io_complete(io, 0);
}

void ub_queue_flush(struct ub_queue *q)
{
	if (atomic_exchange_explicit(&q->is_flushing, true, memory_order_acq_rel))
		return;
	q->flush_msg.fn = queue_flush;
	ub_queue_post(q, &q->flush_msg);
}

void ub_queue_leave(struct ub_queue *q, struct ub_backend_queue *bq)
{
	bq->leave_msg.fn = queue_leave;
	ub_queue_post(q, &bq->leave_msg);
}

void ub_queue_set_size(struct ub_queue *q, uint64_t size_bytes)
{
	atomic_store_explicit(&q->wanted_bytes, size_bytes, memory_order_release);
	q->size_msg.fn = queue_take_size;
	ub_queue_post(q, &q->size_msg);
}

void ub_queue_destroy(struct ub_queue *q)
{
	if (!q)
		return;
	if (q->descs)
		munmap((void *)(uintptr_t)q->descs, q->desc_bytes);
	if (q->zeroes)
		munmap((void *)(uintptr_t)q->zeroes, q->zeroes_bytes);
	if (q->sink)
		munmap(q->sink, q->zeroes_bytes);
	ub_close(&q->wake_fd);
	free(q->reqs);
	free(q);
}
