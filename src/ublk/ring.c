/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A queue's ring: SQEs, watches, timers and the mailbox that back ends get (io.h), and the commits
 * of tags.
 *
 * The queue's thread, but for ub_queue_post() and ub_io_complete(), which any thread may call. Once
 * live it neither allocates nor takes a lock. Knows no back end.
 */
#include "ublk/ring.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/lifo.h"
#include "base/log.h"
#include "base/step.h"

#define RING_OWN_SQES	64	   /* beside a commit for each tag: watches, timers, the mailbox */
#define RING_USED_BYTES (4U << 20) /* of tag buffers, where they are the exception */
#define NS_PER_MS	1000000ULL
#define NS_PER_S	1000000000ULL

#define TIMER_STOPPING 1 /* armed_ns of one that is being taken out of the ring */

UB_LIFO(msg_lifo, struct ub_msg);
UB_LIFO(io_lifo, struct ub_io);

static __thread struct ub_queue *this_queue;

_Noreturn void ub_ring_fatal(struct ub_queue *q, const char *what, int code)
{
	ub_log(UB_LOG_ERROR, "queue %u: %s: %s: the server ends", q->qid, what, strerror(code));
	abort();
}

/* ---- what back ends get: SQEs, watches, timers, the mailbox -------------- */

struct io_uring_sqe *ub_queue_sqe(struct ub_queue *q, struct ub_cqe_handler *handler)
{
	struct io_uring_sqe *sqe;

	assert(q == this_queue);
	sqe = ub_ring_get_sqe(q);
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

uint64_t ub_queue_turn_ns(const struct ub_queue *q)
{
	return q->turn_ns;
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
	if (ub_ring_now_ns() < timer->deadline_ns) {
		timer_arm(timer); /* it was put off meanwhile */
		return;
	}
	timer->deadline_ns = 0;
	timer->expired(timer);
}

void ub_timer_set(struct ub_timer *timer, uint64_t delay_ms)
{
	timer->handler.fn = timer_fired;
	timer->deadline_ns = delay_ms ? ub_ring_now_ns() + delay_ms * NS_PER_MS : 0;
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

static void ring_wake(struct ub_queue *q)
{
	if (eventfd_write(q->wake_fd, 1) < 0)
		ub_ring_fatal(q, "cannot wake the thread", errno);
}

void ub_queue_post(struct ub_queue *q, struct ub_msg *msg)
{
	if (msg_lifo_push(&q->msgs, msg))
		ring_wake(q);
}

static void ring_link_done(struct ub_queue *q, struct ub_io *io)
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
		ring_link_done(q, io);
		return;
	}
	if (io_lifo_push(&q->foreign_done, io))
		ring_wake(q);
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
static void ring_take_foreign(struct ub_queue *q)
{
	struct ub_io *io = io_lifo_take(&q->foreign_done);

	while (io) {
		struct ub_io *next = io->next;

		ring_link_done(q, io);
		io = next;
	}
}

static void ring_take_msgs(struct ub_queue *q)
{
	struct ub_msg *msg = msg_lifo_take(&q->msgs);

	while (msg) {
		struct ub_msg *next = msg->next;

		msg->fn(msg, q);
		msg = next;
	}
}

void ub_ring_arm_wake(struct ub_queue *q)
{
	struct io_uring_sqe *sqe = ub_queue_sqe(q, &q->wake);

	io_uring_prep_poll_multishot(sqe, q->wake_fd, POLLIN);
	sqe->user_data = (uintptr_t)&q->wake;
}

static void ring_woken(struct ub_cqe_handler *handler, int32_t res, uint32_t flags)
{
	struct ub_queue *q = ub_container_of(handler, struct ub_queue, wake);
	eventfd_t ignored;

	if (res < 0 && res != -ECANCELED)
		ub_ring_fatal(q, "its mailbox cannot be polled", -res);
	/* Read before the lists are taken, so that a later post writes it again. */
	eventfd_read(q->wake_fd, &ignored);
	ring_take_foreign(q);
	ring_take_msgs(q);
	if (!(flags & IORING_CQE_F_MORE))
		ub_ring_arm_wake(q);
}

int ub_ring_open_mailbox(struct ub_queue *q, struct ub_err *err)
{
	q->done_last = &q->done_first;
	q->wake.fn = ring_woken;
	q->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->wake_fd < 0)
		return ub_err_errno(err, errno, "queue %u: an event descriptor", q->qid);
	return 0;
}

/* ---- tags ---------------------------------------------------------------- */

void ub_ring_drop_used_bufs(struct ub_queue *q)
{
	struct ub_req *req;
	int ret = io_uring_submit(&q->ring);

	ub_stat_add(&q->stats->nr_submits, 1);
	if (ret < 0 && ret != -EINTR && ret != -EAGAIN && ret != -EBUSY)
		ub_ring_fatal(q, "cannot commit", -ret);
	/* If not all of it went, these keep their memory until they are used again. */
	for (req = q->used_bufs; req && !io_uring_sq_ready(&q->ring); req = req->next_used)
		madvise(req->tag_buf, q->dev->config.max_io_bytes, MADV_DONTNEED);
	q->used_bufs = NULL;
	q->used_bytes = 0;
}

void ub_ring_commit(struct ub_queue *q, struct ub_req *req, int32_t res)
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
	ub_ring_send_io_cmd(q, UBLK_U_IO_COMMIT_AND_FETCH_REQ, req, res, addr);
	if (__builtin_expect(q->has_spare_bufs && req->data == req->tag_buf, 0)) {
		req->next_used = q->used_bufs;
		q->used_bufs = req;
		q->used_bytes += req->len_bytes;
		if (q->used_bytes > RING_USED_BYTES)
			ub_ring_drop_used_bufs(q);
	}
}

/* ---- its beginning ------------------------------------------------------- */

int ub_ring_make(struct ub_queue *q)
{
	struct io_uring_params params = {
		/*
		 * The thread that makes the ring is the only one that uses it, and task work runs
		 * only when it asks for events: 2 % less of everything at depth 1 (HACKING.md).
		 */
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_CQSIZE,
		.cq_entries = 2 * (q->depth + RING_OWN_SQES),
	};
	int ret;

	this_queue = q;
	ret = ub_step("queue-ring", &q->err);
	if (ret)
		return ret;
	ret = io_uring_queue_init_params(q->depth + RING_OWN_SQES, &q->ring, &params);
	if (ret < 0)
		return ub_err_errno(&q->err, -ret, "queue %u: cannot make its ring", q->qid);
	io_uring_ring_dontfork(&q->ring);
	io_uring_register_ring_fd(&q->ring); /* best effort: it saves a look-up a turn */
	return 0;
}
