/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A queue without a ring: what io.h gives to back ends, on poll(2). The queue's thread, but for
 * ub_queue_post() and ub_io_complete(), which any thread may call.
 */
#include "core-queue.h"

#include <assert.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/lifo.h"

#define NS_PER_MS 1000000ULL

UB_LIFO(msg_lifo, struct ub_msg);
UB_LIFO(io_lifo, struct ub_io);

__thread struct ub_queue *core_this_queue;

static uint64_t core_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* ---- what back ends get -------------------------------------------------- */

struct io_uring_sqe *ub_queue_sqe(struct ub_queue *q, struct ub_cqe_handler *handler)
{
	(void)q;
	(void)handler;
	assert(!"a back end that uses the ring itself cannot be run here");
	return NULL;
}

void ub_watch_arm(struct ub_watch *watch, int fd, uint32_t events)
{
	struct ub_queue *q = watch->queue;

	assert(q == core_this_queue);
	assert(watch->ready);
	assert(q->nr_watches < CORE_MAX_WATCHES);
	for (unsigned i = 0; i < q->nr_watches; i++)
		assert(q->watches[i].watch != watch); /* one-shot: not twice */
	q->watches[q->nr_watches++] = (struct core_watch){ watch, fd, events };
}

void ub_timer_set(struct ub_timer *timer, uint64_t delay_ms)
{
	struct ub_queue *q = timer->queue;
	unsigned i = 0;

	assert(q == core_this_queue);
	assert(timer->expired);
	timer->deadline_ns = delay_ms ? core_now_ns() + delay_ms * NS_PER_MS : 0;
	timer->armed_ns = timer->deadline_ns;
	while (i < q->nr_timers && q->timers[i] != timer)
		i++;
	if (i < q->nr_timers)
		return;
	assert(q->nr_timers < CORE_MAX_TIMERS);
	q->timers[q->nr_timers++] = timer;
}

void ub_timer_stop(struct ub_timer *timer)
{
	struct ub_queue *q = timer->queue;

	assert(q == core_this_queue);
	timer->deadline_ns = timer->armed_ns = 0;
	for (unsigned i = 0; i < q->nr_timers; i++) {
		if (q->timers[i] == timer)
			q->timers[i--] = q->timers[--q->nr_timers];
	}
}

uint64_t ub_queue_turn_ns(const struct ub_queue *q)
{
	assert(q == core_this_queue);
	return q->turn_ns;
}

static void queue_wake(struct ub_queue *q)
{
	int ret = eventfd_write(q->wake_fd, 1);

	assert(ret == 0);
	(void)ret;
}

void ub_queue_post(struct ub_queue *q, struct ub_msg *msg)
{
	assert(msg->fn);
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
	assert(res == (int32_t)io->len_bytes || (res < 0 && res > -4096));
	io->is_completed = true;
	io->result = res;
	if (q == core_this_queue) {
		queue_link_done(q, io);
		return;
	}
	if (io_lifo_push(&q->foreign_done, io))
		queue_wake(q);
}

void ub_io_begin_internal(struct ub_io *io)
{
	assert(io->home == core_this_queue);
	assert(io->slot >= core_this_queue->core->depth &&
	       io->slot < core_this_queue->core->depth + UB_INTERNAL_SLOTS);
	io->is_completed = false;
	io->home->nr_internal++;
}

void ub_io_end_internal(struct ub_io *io)
{
	assert(io->home == core_this_queue && io->is_completed && io->home->nr_internal > 0);
	io->home->nr_internal--;
}

/* ---- the loop ------------------------------------------------------------ */

void core_order_is_done(struct order *order)
{
	struct core *c = order->core;

	pthread_mutex_lock(&c->lock);
	order->is_done = true;
	pthread_cond_broadcast(&c->done);
	pthread_mutex_unlock(&c->lock);
}

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

static void queue_end_batch(struct ub_queue *q)
{
	ub_backend_submit_end(q->bq);
	while (q->done_first) {
		struct ub_io *io = q->done_first;

		q->done_first = io->next;
		if (!q->done_first)
			q->done_last = &q->done_first;
		io->done(io, io->result);
		if (!q->done_first)
			ub_backend_submit_end(q->bq);
	}
}

void core_queue_begin_with(struct ub_queue *q, struct ub_backend_queue *bq)
{
	q->bq = bq;
	ub_backend_queue_start(bq);
}

/* The end of a turn: those that nothing here refers to any more have left. */
static void queue_let_leave(struct ub_queue *q)
{
	struct order **at = &q->leaving;

	while (*at) {
		struct order *order = *at;

		if (!ub_backend_queue_stop(order->bq)) {
			at = &order->next;
			continue;
		}
		*at = order->next;
		core_order_is_done(order);
	}
}

/*
 * Milliseconds to the next timer, at most a second: a forgotten wake-up shall not look like a hang.
 */
static int queue_timeout_ms(const struct ub_queue *q)
{
	uint64_t now = core_now_ns(), next = now + NS_PER_S;

	for (unsigned i = 0; i < q->nr_timers; i++) {
		if (q->timers[i]->deadline_ns && q->timers[i]->deadline_ns < next)
			next = q->timers[i]->deadline_ns;
	}
	return next <= now ? 0 : (int)((next - now + NS_PER_MS - 1) / NS_PER_MS);
}

static void queue_run_timers(struct ub_queue *q)
{
	uint64_t now = core_now_ns();

	for (unsigned i = 0; i < q->nr_timers; i++) {
		struct ub_timer *timer = q->timers[i];

		if (timer->deadline_ns && timer->deadline_ns <= now) {
			timer->deadline_ns = timer->armed_ns = 0;
			timer->expired(timer);
		}
	}
}

void core_queue_run_watches(struct ub_queue *q, const struct pollfd *fds)
{
	struct core_watch fired[CORE_MAX_WATCHES];
	int32_t results[CORE_MAX_WATCHES];
	unsigned nr = 0, kept = 0;

	for (unsigned i = 0; i < q->nr_watches; i++) {
		assert(!(fds[i].revents & POLLNVAL)); /* closed while it was watched */
		if (fds[i].revents) {
			results[nr] = fds[i].revents;
			fired[nr++] = q->watches[i];
		} else {
			q->watches[kept++] = q->watches[i];
		}
	}
	q->nr_watches = kept;
	for (unsigned i = 0; i < nr; i++)
		fired[i].watch->ready(fired[i].watch, results[i]);
}

static void queue_turn(struct ub_queue *q)
{
	struct pollfd fds[CORE_MAX_WATCHES + 1];
	unsigned nr = q->nr_watches;
	eventfd_t ignored;

	for (unsigned i = 0; i < nr; i++)
		fds[i] = (struct pollfd){ .fd = q->watches[i].fd,
					  .events = (short)q->watches[i].events };
	fds[nr] = (struct pollfd){ .fd = q->wake_fd, .events = POLLIN };
	if (poll(fds, nr + 1, queue_timeout_ms(q)) < 0)
		return;
	q->turn_ns = core_now_ns();
	core_queue_run_watches(q, fds);
	if (fds[nr].revents) {
		eventfd_read(q->wake_fd, &ignored);
		queue_take_foreign(q);
		queue_take_msgs(q);
	}
	queue_run_timers(q);
	queue_end_batch(q);
	queue_let_leave(q);
}

void *core_queue_main(void *arg)
{
	struct ub_queue *q = arg;

	core_this_queue = q;
	core_queue_begin_with(q, q->bq);
	pthread_mutex_lock(&q->core->lock);
	q->core->nr_started++;
	pthread_cond_broadcast(&q->core->done);
	pthread_mutex_unlock(&q->core->lock);
	while (!q->quit || q->nr_owned || q->nr_internal)
		queue_turn(q);
	return NULL;
}
