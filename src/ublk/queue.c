/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The queue's loop: one io_uring_enter a turn sends all commits of the last turn, fetches, and
 * sleeps.
 *
 * Runs on the queue's own thread, but for create, start and destroy, which are the main thread's.
 * Once live it neither allocates nor takes a lock. A queue thread never ends by itself while its
 * device lives: a lone dead queue would hang its I/O for ever, so what cannot be mended aborts the
 * server. Specification: Documentation/block/ublk.rst, "Data plane".
 */
#include "ublk/queue.h"

#include <assert.h>
#include <errno.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/lifo.h"
#include "base/log.h"
#include "base/step.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define QUEUE_STACK_BYTES (256U << 10)
#define QUEUE_OWN_SQES	  64 /* beside a commit for each tag: watches, timers, the mailbox */
#define QUEUE_USED_BYTES  (4U << 20) /* of tag buffers, where they are the exception */
#define QUEUE_CDEV_INDEX  0	     /* /dev/ublkcN in the ring's file table */
#define NS_PER_MS	  1000000ULL
#define NS_PER_S	  1000000000ULL

#define TIMER_STOPPING 1 /* armed_ns of one that is being taken out of the ring */

/* user_data: a handler's address (its low bits are clear), or a tag with this bit. */
#define QUEUE_DATA_TAG	 1
#define QUEUE_DATA_SHIFT 3

UB_LIFO(msg_lifo, struct ub_msg);
UB_LIFO(io_lifo, struct ub_io);

static __thread struct ub_queue *this_queue;

static _Noreturn void queue_fatal(struct ub_queue *q, const char *what, int code)
{
	ub_log(UB_LOG_ERROR, "queue %u: %s: %s: the server ends", q->qid, what, strerror(code));
	abort();
}

/* ---- what back ends get: SQEs, watches, timers, the mailbox -------------- */

static struct io_uring_sqe *queue_get_sqe(struct ub_queue *q)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

	if (__builtin_expect(!sqe, 0)) {
		int ret = io_uring_submit(&q->ring);

		ub_stat_add(&q->stats->nr_submits, 1);
		sqe = io_uring_get_sqe(&q->ring);
		if (!sqe)
			queue_fatal(q, "cannot submit", ret < 0 ? -ret : EAGAIN);
	}
	return sqe;
}

struct io_uring_sqe *ub_queue_sqe(struct ub_queue *q, struct ub_cqe_handler *handler)
{
	struct io_uring_sqe *sqe;

	assert(q == this_queue);
	sqe = queue_get_sqe(q);
	memset(sqe, 0, sizeof(*sqe));
	sqe->user_data = (uintptr_t)handler;
	return sqe;
}

static void watch_fired(struct ub_cqe_handler *handler, int32_t res, uint32_t flags)
{
	struct ub_watch *watch = ub_container_of(handler, struct ub_watch, handler);

	(void)flags;
	watch->ready(watch, res);
}

void ub_watch_arm(struct ub_watch *watch, int fd, uint32_t events)
{
	struct io_uring_sqe *sqe;

	watch->handler.fn = watch_fired;
	sqe = ub_queue_sqe(watch->queue, &watch->handler);
	io_uring_prep_poll_add(sqe, fd, events);
	sqe->user_data = (uintptr_t)&watch->handler;
}

static uint64_t queue_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t ub_queue_turn_ns(const struct ub_queue *q)
{
	return q->turn_ns;
}

void ub_queue_look_at_clock(struct ub_queue *q)
{
	if (!q->dev->config.no_clock)
		q->done_ns = queue_now_ns();
}

static void handler_ignore(struct ub_cqe_handler *handler, int32_t res, uint32_t flags)
{
	(void)handler;
	(void)res;
	(void)flags;
}

static void timer_arm(struct ub_timer *timer)
{
	static struct ub_cqe_handler ignored = { handler_ignore };
	struct __kernel_timespec *ts = (struct __kernel_timespec *)timer->timespec;
	bool update = timer->armed_ns != 0;
	struct io_uring_sqe *sqe;

	ts->tv_sec = (int64_t)(timer->deadline_ns / NS_PER_S);
	ts->tv_nsec = (int64_t)(timer->deadline_ns % NS_PER_S);
	sqe = ub_queue_sqe(timer->queue, update ? &ignored : &timer->handler);
	if (update) {
		io_uring_prep_timeout_update(sqe, ts, (uintptr_t)&timer->handler,
					     IORING_TIMEOUT_ABS);
		sqe->user_data = (uintptr_t)&ignored;
	} else {
		io_uring_prep_timeout(sqe, ts, 0, IORING_TIMEOUT_ABS);
		sqe->user_data = (uintptr_t)&timer->handler;
	}
	timer->armed_ns = timer->deadline_ns;
}

static void timer_fired(struct ub_cqe_handler *handler, int32_t res, uint32_t flags)
{
	struct ub_timer *timer = ub_container_of(handler, struct ub_timer, handler);

	(void)res;
	(void)flags;
	timer->armed_ns = 0;
	if (!timer->deadline_ns)
		return;
	if (queue_now_ns() < timer->deadline_ns) {
		timer_arm(timer); /* it was put off meanwhile */
		return;
	}
	timer->deadline_ns = 0;
	timer->expired(timer);
}

void ub_timer_set(struct ub_timer *timer, uint64_t delay_ms)
{
	timer->handler.fn = timer_fired;
	timer->deadline_ns = delay_ms ? queue_now_ns() + delay_ms * NS_PER_MS : 0;
	/* Putting off or disarming costs nothing: the wake-up that is set comes and finds it so. */
	if (delay_ms && (!timer->armed_ns || timer->deadline_ns < timer->armed_ns))
		timer_arm(timer);
}

void ub_timer_stop(struct ub_timer *timer)
{
	static struct ub_cqe_handler ignored = { handler_ignore };
	struct io_uring_sqe *sqe;

	timer->deadline_ns = 0;
	if (timer->armed_ns <= TIMER_STOPPING) /* nothing is there, or it is on its way out */
		return;
	sqe = ub_queue_sqe(timer->queue, &ignored);
	io_uring_prep_timeout_remove(sqe, (uintptr_t)&timer->handler, 0);
	sqe->user_data = (uintptr_t)&ignored;
	timer->armed_ns = TIMER_STOPPING;
}

static void queue_wake(struct ub_queue *q)
{
	if (eventfd_write(q->wake_fd, 1) < 0)
		queue_fatal(q, "cannot wake the thread", errno);
}

void ub_queue_post(struct ub_queue *q, struct ub_msg *msg)
{
	if (msg_lifo_push(&q->msgs, msg))
		queue_wake(q);
}

static void queue_link_done(struct ub_queue *q, struct ub_io *io)
{
	io->next = NULL;
	*q->done_last = io;
	q->done_last = &io->next;
}

void ub_io_complete(struct ub_io *io, int32_t res)
{
	struct ub_queue *q = io->home;

	assert(!io->is_completed); /* exactly once */
	io->is_completed = true;
	io->result = res;
	if (q == this_queue) {
		queue_link_done(q, io);
		return;
	}
	if (io_lifo_push(&q->foreign_done, io))
		queue_wake(q);
}

void ub_io_begin_internal(struct ub_io *io)
{
	assert(io->home == this_queue);
	io->is_completed = false;
	io->home->nr_internal++;
}

void ub_io_end_internal(struct ub_io *io)
{
	assert(io->home == this_queue && io->home->nr_internal > 0);
	io->home->nr_internal--;
}

/* What other threads completed. */
static void queue_take_foreign(struct ub_queue *q)
{
	struct ub_io *io = io_lifo_take(&q->foreign_done);

	while (io) {
		struct ub_io *next = io->next;

		queue_link_done(q, io);
		io = next;
	}
}

static void queue_take_msgs(struct ub_queue *q)
{
	struct ub_msg *msg = msg_lifo_take(&q->msgs);

	while (msg) {
		struct ub_msg *next = msg->next;

		msg->fn(msg, q);
		msg = next;
	}
}

static void queue_arm_wake(struct ub_queue *q)
{
	struct io_uring_sqe *sqe = ub_queue_sqe(q, &q->wake);

	io_uring_prep_poll_multishot(sqe, q->wake_fd, POLLIN);
	sqe->user_data = (uintptr_t)&q->wake;
}

static void queue_woken(struct ub_cqe_handler *handler, int32_t res, uint32_t flags)
{
	struct ub_queue *q = ub_container_of(handler, struct ub_queue, wake);
	eventfd_t ignored;

	if (res < 0 && res != -ECANCELED)
		queue_fatal(q, "its mailbox cannot be polled", -res);
	/* Read before the lists are taken, so that a later post writes it again. */
	eventfd_read(q->wake_fd, &ignored);
	queue_take_foreign(q);
	queue_take_msgs(q);
	if (!(flags & IORING_CQE_F_MORE))
		queue_arm_wake(q);
}

/* ---- tags ---------------------------------------------------------------- */

static void queue_send_io_cmd(struct ub_queue *q, uint32_t op, struct ub_req *req, int32_t result,
			      void *addr)
{
	struct io_uring_sqe *sqe = queue_get_sqe(q);
	struct ublksrv_io_cmd *cmd;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->fd = QUEUE_CDEV_INDEX;
	sqe->off = op; /* cmd_op is its low word */
	sqe->user_data = (uint64_t)req->tag << QUEUE_DATA_SHIFT | QUEUE_DATA_TAG;
	cmd = (struct ublksrv_io_cmd *)((char *)sqe + 48);
	cmd->q_id = q->qid;
	cmd->tag = req->tag;
	cmd->result = result;
	cmd->addr = (uintptr_t)addr;
}

/* Sends what is in the batch, and with it goes the data of READs: then their buffers can go too. */
static void queue_drop_used_bufs(struct ub_queue *q)
{
	struct ub_req *req;
	int ret = io_uring_submit(&q->ring);

	ub_stat_add(&q->stats->nr_submits, 1);
	if (ret < 0 && ret != -EINTR && ret != -EAGAIN && ret != -EBUSY)
		queue_fatal(q, "cannot commit", -ret);
	/* If not all of it went, these keep their memory until they are used again. */
	for (req = q->used_bufs; req && !io_uring_sq_ready(&q->ring); req = req->next_used)
		madvise(req->tag_buf, q->dev->config.max_io_bytes, MADV_DONTNEED);
	q->used_bufs = NULL;
	q->used_bytes = 0;
}

void ub_queue_commit(struct ub_queue *q, struct ub_req *req, int32_t res)
{
	void *addr = req->tag_buf;

	assert(req->state == UB_REQ_BACKEND);
	if (q->path == UB_DATA_PATH_USER_COPY)
		addr = NULL;
	else if (req->op == UB_OP_READ && req->data)
		addr = req->data;
	req->state = UB_REQ_KERNEL;
	assert(q->nr_owned > 0);
	q->nr_owned--;
	q->nr_commits++;
	queue_send_io_cmd(q, UBLK_U_IO_COMMIT_AND_FETCH_REQ, req, res, addr);
	if (__builtin_expect(q->has_spare_bufs && req->data == req->tag_buf, 0)) {
		req->next_used = q->used_bufs;
		q->used_bufs = req;
		q->used_bytes += req->len_bytes;
		if (q->used_bytes > QUEUE_USED_BYTES)
			queue_drop_used_bufs(q);
	}
}

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
			queue_fatal(q, "the kernel completed a tag that it did not have", EPROTO);
	} else if (res == UBLK_IO_RES_NEED_GET_DATA && req->state == UB_REQ_KERNEL) {
		if (__builtin_expect(q->is_yielding | q->is_pausing, 0))
			queue_hold(q, req, true);
		else
			queue_send_io_cmd(q, UBLK_U_IO_NEED_GET_DATA, req, 0,
					  ub_req_wants_data(q, req));
	} else if (res == -ENODEV || res == -ECANCELED) {
		if (req->state == UB_REQ_GET_DATA)
			q->nr_owned--;
		req->state = UB_REQ_GONE;
		q->nr_gone++;
	} else {
		/* A refused command leaves its request here and the client waiting for ever. */
		queue_fatal(q, "the kernel refused an I/O command", res < 0 ? -res : EPROTO);
	}
}

static void queue_fetch_all(struct ub_queue *q)
{
	for (unsigned tag = 0; tag < q->depth; tag++) {
		struct ub_req *req = &q->reqs[tag];

		queue_send_io_cmd(q, UBLK_U_IO_FETCH_REQ, req, 0,
				  q->path == UB_DATA_PATH_USER_COPY ? NULL : req->tag_buf);
	}
}

/* ---- the loop ------------------------------------------------------------ */

static void queue_run_done(struct ub_queue *q)
{
	if (q->done_first)
		ub_queue_look_at_clock(q);
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
	const struct ub_backend_ops *ops = q->bq->backend->ops;

	if (ops->submit_end)
		ops->submit_end(q->bq);
	while (q->done_first) {
		queue_run_done(q);
		if (ops->submit_end)
			ops->submit_end(q->bq);
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

static void queue_begin_with(struct ub_queue *q, struct ub_backend_queue *bq)
{
	const struct ub_backend_ops *ops = bq->backend->ops;

	q->bq = bq;
	q->limits = bq->backend->limits;
	q->has_spare_bufs = ub_device_has_spare_bufs(q->dev, bq->backend);
	if (!bq->is_started && ops->queue_start)
		ops->queue_start(bq);
	bq->is_started = true;
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
		queue_begin_with(q, next);
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
		const struct ub_backend_ops *ops = bq->backend->ops;

		if (ops->queue_stop && bq->is_started && !ops->queue_stop(bq)) {
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

static void queue_turn(struct ub_queue *q)
{
	struct io_uring_cqe *cqe;
	unsigned head, nr = 0;
	int ret;

	ret = io_uring_submit_and_wait(&q->ring, 1);
	if (__builtin_expect(ret < 0 && ret != -EINTR && ret != -EAGAIN && ret != -EBUSY, 0))
		queue_fatal(q, "cannot wait for I/O", -ret);
	ub_stat_add(&q->stats->nr_turns, 1);
	ub_queue_look_at_clock(q);
	q->turn_ns = q->done_ns;
	io_uring_for_each_cqe(&q->ring, head, cqe) {
		uint64_t data = cqe->user_data;

		nr++;
		if (__builtin_expect(data & QUEUE_DATA_TAG, 1)) {
			queue_tag_event(q, &q->reqs[data >> QUEUE_DATA_SHIFT], cqe->res);
		} else {
			struct ub_cqe_handler *handler = (void *)(uintptr_t)data;

			handler->fn(handler, cqe->res, cqe->flags);
		}
	}
	io_uring_cq_advance(&q->ring, nr);
	queue_end_batch(q);
	queue_count_batch(q);
	if (__builtin_expect(q->used_bufs != NULL, 0))
		queue_drop_used_bufs(q);
	if (__builtin_expect(q->is_shrinking, 0))
		queue_look_behind_end(q);
	if (__builtin_expect(q->is_pausing || q->leaving, 0))
		queue_end_rare_turn(q);
}

static int queue_ring_setup(struct ub_queue *q)
{
	struct io_uring_params params = {
		/*
		 * The thread that makes the ring is the only one that uses it, and task work runs
		 * only when it asks for events: 2 % less of everything at depth 1 (HACKING.md).
		 */
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_CQSIZE,
		.cq_entries = 2 * (q->depth + QUEUE_OWN_SQES),
	};
	int ret;

	ret = ub_step("queue-ring", &q->err);
	if (ret)
		return ret;
	ret = io_uring_queue_init_params(q->depth + QUEUE_OWN_SQES, &q->ring, &params);
	if (ret < 0)
		return ub_err_errno(&q->err, -ret, "queue %u: cannot make its ring", q->qid);
	io_uring_ring_dontfork(&q->ring);
	io_uring_register_ring_fd(&q->ring); /* best effort: it saves a look-up a turn */
	return 0;
}

/* Until the device is there. False: it is not to be served after all. */
static bool queue_await_go(struct ub_queue *q)
{
	while (sem_wait(&q->go) < 0 && errno == EINTR)
		;
	return !q->must_not_go;
}

/*
 * Linux 6.12 scans partitions inside START, with the device's mutex held, and for ever when the
 * server dies then and its requests wait for the next one. It does not where a queue's thread may
 * not administrate.
 */
static void queue_drop_admin(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &header, data) < 0)
		return;
	for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		uint32_t keep =
			i == CAP_TO_INDEX(CAP_SYS_ADMIN) ? ~CAP_TO_MASK(CAP_SYS_ADMIN) : ~0U;

		data[i].effective &= keep;
		data[i].permitted &= keep;
		data[i].inheritable &= keep;
	}
	if (syscall(SYS_capset, &header, data) < 0)
		ub_log(UB_LOG_DEBUG, "cannot drop CAP_SYS_ADMIN: %s", strerror(errno));
}

/* Takes the device into the ring and fetches every tag. */
static int queue_take(struct ub_queue *q)
{
	int ret = io_uring_register_files(&q->ring, &q->dev->cdev_fd, 1);

	if (ret < 0)
		return ub_err_errno(&q->err, -ret, "queue %u: cannot register the device", q->qid);
	if (!q->dev->config.scans_partitions)
		queue_drop_admin();
	queue_arm_wake(q);
	queue_fetch_all(q);
	ret = io_uring_submit(&q->ring);
	if (ret < 0)
		return ub_err_errno(&q->err, -ret, "queue %u: cannot fetch", q->qid);
	return ub_step("queue-fetch", &q->err);
}

/* To the CPUs whose requests come to this queue; a mask that cannot be set is no reason to fail. */
static void queue_set_affinity(const struct ub_queue *q)
{
	const uint8_t *mask = q->dev->config.affinity[q->qid];

	sched_setaffinity(0, UB_CPU_MASK_BYTES, (const cpu_set_t *)(const void *)mask);
}

static void queue_set_state(struct ub_queue *q, enum ub_queue_state state)
{
	atomic_store_explicit(&q->state, (int)state, memory_order_release);
	eventfd_write(q->dev->event_fd, 1);
}

/* All that was taken is finished; it counts once the driver has it. */
static void queue_say_yielded(struct ub_queue *q)
{
	int ret = io_uring_submit(&q->ring);

	if (ret < 0 && ret != -EINTR && ret != -EAGAIN && ret != -EBUSY)
		queue_fatal(q, "cannot commit", -ret);
	if (io_uring_sq_ready(&q->ring))
		return; /* not all of it went: the next turn */
	q->has_yielded = true;
	queue_set_state(q, UB_QUEUE_YIELDED);
}

/* The device ends: what is in flight of a layer's own ends, too. */
static void queue_end_internal(struct ub_queue *q)
{
	const struct ub_backend_ops *ops = q->bq->backend->ops;

	if (q->nr_internal && ops->cancel)
		ops->cancel(q->bq, -ENODEV);
	while (q->nr_internal || q->leaving)
		queue_turn(q);
}

static void *queue_main(void *arg)
{
	struct ub_queue *q = arg;
	char name[16];
	int ret;

	snprintf(name, sizeof(name), "ublk-q%u", q->qid);
	prctl(PR_SET_NAME, name);
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	queue_set_affinity(q);
	this_queue = q;
	ret = queue_ring_setup(q);
	if (ret) {
		queue_set_state(q, UB_QUEUE_FAILED);
		return NULL;
	}
	queue_set_state(q, UB_QUEUE_READY);
	if (!queue_await_go(q)) {
		io_uring_queue_exit(&q->ring);
		queue_set_state(q, UB_QUEUE_ENDED);
		return NULL;
	}
	if (queue_take(q)) {
		io_uring_queue_exit(&q->ring);
		queue_set_state(q, UB_QUEUE_FAILED);
		return NULL;
	}
	queue_begin_with(q, q->bq);
	queue_set_state(q, UB_QUEUE_FETCHING);
	/* Told to quit, it still waits for the back end to let go of what it holds. */
	while ((q->nr_gone < q->depth && !q->quit) || q->nr_owned) {
		queue_turn(q);
		if (__builtin_expect(q->is_yielding && !q->has_yielded && !q->nr_owned, 0))
			queue_say_yielded(q);
	}
	queue_end_internal(q);
	/*
	 * Linux 6.12 waits here for every command on the file: with a tag still fetched, for ever.
	 */
	if (q->nr_gone == q->depth)
		io_uring_unregister_files(&q->ring);
	io_uring_queue_exit(&q->ring);
	queue_set_state(q, UB_QUEUE_ENDED);
	return NULL;
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

	*out = q;
	if (!q)
		return ub_err_errno(err, ENOMEM, "queue %u", qid);
	memset(q, 0, sizeof(*q));
	q->dev = dev;
	q->qid = qid;
	q->depth = dev->config.depth;
	q->path = dev->config.data_path;
	q->stats = &dev->config.stats->queues[qid];
	q->done_last = &q->done_first;
	q->held_last = &q->held_first;
	q->wake.fn = queue_woken;
	sem_init(&q->go, 0, 0);
	q->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->wake_fd < 0)
		return ub_err_errno(err, errno, "queue %u: an event descriptor", qid);
	q->limits = dev->backend->limits;
	q->size_bytes = q->limits.size_bytes;
	return queue_make_reqs(q, err);
}

/*
 * The stack is ours, so that it can be locked: a page of it that is not there must not be needed.
 */
static int queue_make_stack(struct ub_queue *q, pthread_attr_t *attr, struct ub_err *err)
{
	q->stack = mmap(NULL, QUEUE_STACK_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (q->stack == MAP_FAILED) {
		q->stack = NULL;
		return ub_err_errno(err, errno, "queue %u: its stack", q->qid);
	}
	if (mlock(q->stack, QUEUE_STACK_BYTES) < 0)
		return ub_err_errno(err, errno,
				    "cannot lock a stack of %u bytes (raise RLIMIT_MEMLOCK, or "
				    "give "
				    "CAP_IPC_LOCK)",
				    QUEUE_STACK_BYTES);
	/* A guard page below, so that running over it kills and does not corrupt. */
	mprotect(q->stack, (size_t)sysconf(_SC_PAGESIZE), PROT_NONE);
	pthread_attr_setstack(attr, q->stack, QUEUE_STACK_BYTES);
	return 0;
}

int ub_queue_start_thread(struct ub_queue *q, struct ub_err *err)
{
	pthread_attr_t attr;
	sigset_t all, before;
	int ret;

	ret = ub_step("queue-thread", err);
	if (ret)
		return ret;
	pthread_attr_init(&attr);
	ret = queue_make_stack(q, &attr, err);
	if (ret == 0) {
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		ret = pthread_create(&q->thread, &attr, queue_main, q);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
		q->has_thread = ret == 0;
		if (ret)
			ret = ub_err_errno(err, ret, "queue %u: its thread", q->qid);
	}
	pthread_attr_destroy(&attr);
	return ret;
}

void ub_queue_go(struct ub_queue *q)
{
	sem_post(&q->go);
}

void ub_queue_cancel(struct ub_queue *q)
{
	if (q->cancel_error)
		return;
	q->cancel_error = -EIO;
	if (q->bq->backend->ops->cancel)
		q->bq->backend->ops->cancel(q->bq, q->cancel_error);
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
		q->bq->backend->ops->submit(q->bq, io);
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

static void queue_quit(struct ub_msg *msg, struct ub_queue *q)
{
	(void)msg;
	q->quit = true;
	ub_queue_cancel(q);
}

void ub_queue_end_thread(struct ub_queue *q)
{
	if (!q || !q->has_thread)
		return;
	if (!q->dev->is_taken) {
		q->must_not_go = true;
		ub_queue_go(q);
	} else if (atomic_load_explicit(&q->state, memory_order_acquire) < UB_QUEUE_ENDED) {
		q->quit_msg.fn = queue_quit;
		ub_queue_post(q, &q->quit_msg);
	}
	pthread_join(q->thread, NULL);
	q->has_thread = false;
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
	if (q->stack)
		munmap(q->stack, QUEUE_STACK_BYTES);
	ub_close(&q->wake_fd);
	free(q->reqs);
	free(q);
}
