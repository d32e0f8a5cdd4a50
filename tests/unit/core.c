/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The core without a kernel. A queue is a thread that polls; the rest is as src/ublk/ has it.
 */
#include "core.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/cleanup.h"
#include "base/lifo.h"
#include "base/log.h"

#define CORE_MAX_WATCHES 256
#define CORE_MAX_TIMERS	 256
#define NS_PER_MS	 1000000ULL
#define NS_PER_S	 1000000000ULL

UB_LIFO(msg_lifo, struct ub_msg);
UB_LIFO(io_lifo, struct ub_io);

struct ub_queue {
	struct core *core;
	struct ub_backend_queue *bq; /* the root's */
	pthread_t thread;
	bool has_thread;
	int wake_fd;
	struct ub_msg *_Atomic msgs;
	struct ub_io *_Atomic foreign_done;
	struct ub_io *done_first, **done_last;
	unsigned nr_owned; /* by the back end */
	uint64_t last_seq;
	unsigned nr_internal;
	struct order *leaving;
	uint64_t turn_ns;
	bool quit;
	struct ub_msg quit_msg;
	struct core_watch {
		struct ub_watch *watch;
		int fd;
		uint32_t events;
	} watches[CORE_MAX_WATCHES];
	unsigned nr_watches;
	struct ub_timer *timers[CORE_MAX_TIMERS];
	unsigned nr_timers;
};

/* What a queue is told to do, while the test waits. */
struct order {
	struct ub_msg msg;
	struct core *core;
	struct ub_backend_queue *bq;
	const struct ub_io *io;
	int err;
	bool is_done; /* under the core's lock */
	struct order *next;
};

_Atomic int core_health;
_Atomic unsigned core_nr_reports[UB_HEALTH_FAILED + 1];
struct ub_ledger *core_ledger;

static __thread struct ub_queue *this_queue;
static bool core_is_verbose;

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

	assert(q == this_queue);
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

	assert(q == this_queue);
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

	assert(q == this_queue);
	timer->deadline_ns = timer->armed_ns = 0;
	for (unsigned i = 0; i < q->nr_timers; i++) {
		if (q->timers[i] == timer)
			q->timers[i--] = q->timers[--q->nr_timers];
	}
}

uint64_t ub_queue_turn_ns(const struct ub_queue *q)
{
	assert(q == this_queue);
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
	assert(io->slot >= this_queue->core->depth &&
	       io->slot < this_queue->core->depth + UB_INTERNAL_SLOTS);
	io->is_completed = false;
	io->home->nr_internal++;
}

void ub_io_end_internal(struct ub_io *io)
{
	assert(io->home == this_queue && io->is_completed && io->home->nr_internal > 0);
	io->home->nr_internal--;
}

/* ---- the loop ------------------------------------------------------------ */

static void order_is_done(struct order *order)
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

static void queue_begin_with(struct ub_queue *q, struct ub_backend_queue *bq)
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
		order_is_done(order);
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

/* Takes those that fired out before one of them runs: it may arm itself and others again. */
static void queue_run_watches(struct ub_queue *q, const struct pollfd *fds)
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
	queue_run_watches(q, fds);
	if (fds[nr].revents) {
		eventfd_read(q->wake_fd, &ignored);
		queue_take_foreign(q);
		queue_take_msgs(q);
	}
	queue_run_timers(q);
	queue_end_batch(q);
	queue_let_leave(q);
}

static void *queue_main(void *arg)
{
	struct ub_queue *q = arg;

	this_queue = q;
	queue_begin_with(q, q->bq);
	pthread_mutex_lock(&q->core->lock);
	q->core->nr_started++;
	pthread_cond_broadcast(&q->core->done);
	pthread_mutex_unlock(&q->core->lock);
	while (!q->quit || q->nr_owned || q->nr_internal)
		queue_turn(q);
	return NULL;
}

/* ---- the test's side ----------------------------------------------------- */

static bool core_log(enum ub_log_level level, const char *line)
{
	if (core_is_verbose)
		fprintf(stderr, "  [%d] %s\n", (int)level, line);
	return true;
}

static void core_report(struct ub_host *host, struct ub_backend *be, enum ub_health health,
			const char *why)
{
	(void)host;
	(void)be;
	atomic_store(&core_health, (int)health);
	atomic_fetch_add(&core_nr_reports[health], 1);
	ub_log(UB_LOG_NOTICE, "health %d: %s", (int)health, why);
}

/* There is no keeper: an id is all that it gets. */
static uint32_t core_hold(struct ub_host *host, const struct ub_backend *be, int fd)
{
	static _Atomic uint32_t last_id;

	(void)host;
	(void)be;
	(void)fd;
	return atomic_fetch_add(&last_id, 1) + 1;
}

void core_be_verbose(void)
{
	core_is_verbose = true;
	ub_log_set_level(UB_LOG_DEBUG);
}

static int core_init_bq(struct core *c, struct ub_backend_queue *bq, struct ub_backend *be,
			unsigned qid, struct ub_err *err)
{
	*bq = (struct ub_backend_queue){
		.backend = be,
		.queue = c->queues[qid],
		.qid = qid,
		.nr_slots = c->depth + UB_INTERNAL_SLOTS,
		.stats = &c->queue_stats[qid],
	};
	return ub_backend_queue_init(bq, bq->nr_slots, err);
}

static int core_make_queue(struct core *c, unsigned qid, struct ub_err *err)
{
	struct ub_queue *q = calloc(1, sizeof(*q));

	assert(q);
	c->queues[qid] = q;
	q->core = c;
	q->done_last = &q->done_first;
	q->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert(q->wake_fd >= 0);
	q->bq = &c->bqs[qid];
	return core_init_bq(c, q->bq, &c->backend, qid, err);
}

int core_open(struct core *c, const struct ub_backend_config *cfg, unsigned depth,
	      struct ub_err *err)
{
	struct ub_backend_config own = *cfg;
	int ret;

	memset(c, 0, sizeof(*c));
	assert(cfg->nr_queues >= 1 && cfg->nr_queues <= CORE_MAX_QUEUES);
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->done, NULL);
	c->depth = depth;
	ub_log_to_sink(core_log);
	c->host = (struct ub_host){ .report = core_report, .hold = core_hold };
	own.host = &c->host;
	for (unsigned i = 0; i < UB_ARRAY_SIZE(core_nr_reports); i++)
		atomic_store(&core_nr_reports[i], 0);
	atomic_store(&core_health, UB_HEALTH_ONLINE);
	ret = ub_backend_open(&c->backend, &own, err);
	c->backend.stats = &c->stats;
	c->backend.ledger = core_ledger;
	for (unsigned i = 0; ret == 0 && i < cfg->nr_queues; i++) {
		c->nr_queues++;
		ret = core_make_queue(c, i, err);
	}
	for (unsigned i = 0; ret == 0 && i < c->nr_queues; i++) {
		ret = -pthread_create(&c->queues[i]->thread, NULL, queue_main, c->queues[i]);
		assert(ret == 0);
		c->queues[i]->has_thread = true;
	}
	/* As a device, which has no I/O before every queue has fetched. */
	pthread_mutex_lock(&c->lock);
	while (ret == 0 && c->nr_started < c->nr_queues)
		pthread_cond_wait(&c->done, &c->lock);
	pthread_mutex_unlock(&c->lock);
	return ret;
}

void core_set_live(struct core *c)
{
	struct ub_err ignored;

	/* One that failed by now says so to each I/O. */
	(void)ub_backend_set_live(&c->backend, &ignored);
}

static void io_done(struct ub_io *io, int32_t res)
{
	struct core_io *cio = ub_container_of(io, struct core_io, io);
	struct ub_queue *q = this_queue;
	struct core *c = q->core;

	assert(q == io->home);
	assert(res == io->result);
	assert(q->nr_owned > 0);
	q->nr_owned--;
	pthread_mutex_lock(&c->lock);
	cio->nr_done++;
	atomic_store(&cio->is_done, true);
	pthread_cond_broadcast(&c->done);
	pthread_mutex_unlock(&c->lock);
}

static void io_submit(struct ub_msg *msg, struct ub_queue *q)
{
	struct core_io *cio = ub_container_of(msg, struct core_io, msg);

	assert(cio->io.slot < q->core->depth);
	q->nr_owned++;
	cio->io.seq = ++q->last_seq;
	ub_backend_submit(q->bq, &cio->io);
}

void core_start_io(struct core *c, unsigned qid, struct core_io *cio)
{
	atomic_store(&cio->is_done, false);
	cio->io.is_completed = false;
	cio->io.result = 4711;
	cio->io.home = c->queues[qid];
	cio->io.done = io_done;
	cio->msg.fn = io_submit;
	ub_queue_post(c->queues[qid], &cio->msg);
}

bool core_wait_io(struct core *c, struct core_io *cio, unsigned timeout_ms)
{
	struct timespec until;
	int ret = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (until.tv_nsec >= (long)NS_PER_S) {
		until.tv_sec++;
		until.tv_nsec -= (long)NS_PER_S;
	}
	pthread_mutex_lock(&c->lock);
	while (!atomic_load(&cio->is_done) && ret == 0)
		ret = pthread_cond_timedwait(&c->done, &c->lock, &until);
	pthread_mutex_unlock(&c->lock);
	return atomic_load(&cio->is_done);
}

static void orders_await(struct core *c, const struct order *orders, unsigned nr)
{
	pthread_mutex_lock(&c->lock);
	for (unsigned i = 0; i < nr; i++) {
		while (!orders[i].is_done)
			pthread_cond_wait(&c->done, &c->lock);
	}
	pthread_mutex_unlock(&c->lock);
}

static void queue_wake_falsely(struct ub_msg *msg, struct ub_queue *q)
{
	struct pollfd fds[CORE_MAX_WATCHES];

	for (unsigned i = 0; i < q->nr_watches; i++)
		fds[i].revents = q->watches[i].events & POLLIN ? POLLIN : 0;
	queue_run_watches(q, fds);
	order_is_done(ub_container_of(msg, struct order, msg));
}

void core_wake_falsely(struct core *c, unsigned qid)
{
	struct order order = { .msg = { .fn = queue_wake_falsely }, .core = c };

	ub_queue_post(c->queues[qid], &order.msg);
	orders_await(c, &order, 1);
}

static void queue_give_back(struct ub_msg *msg, struct ub_queue *q)
{
	struct order *order = ub_container_of(msg, struct order, msg);

	ub_backend_give_back(q->bq, order->io);
	order_is_done(order);
}

void core_give_back(struct core *c, unsigned qid, const struct ub_io *io)
{
	struct order order = { .msg = { .fn = queue_give_back }, .io = io, .core = c };

	ub_queue_post(c->queues[qid], &order.msg);
	orders_await(c, &order, 1);
}

static void queue_cancel(struct ub_msg *msg, struct ub_queue *q)
{
	struct order *order = ub_container_of(msg, struct order, msg);

	ub_backend_cancel(q->bq, order->err);
	order_is_done(order);
}

void core_cancel(struct core *c, int err)
{
	struct order orders[CORE_MAX_QUEUES] = { 0 };

	for (unsigned i = 0; i < c->nr_queues; i++) {
		orders[i] = (struct order){ .msg = { .fn = queue_cancel }, .err = err, .core = c };
		ub_queue_post(c->queues[i], &orders[i].msg);
	}
	orders_await(c, orders, c->nr_queues);
}

struct ub_backend_queue *core_make_queues(struct core *c, struct ub_backend *be, struct ub_err *err)
{
	struct ub_backend_queue *bqs = calloc(CORE_MAX_QUEUES, sizeof(*bqs));

	assert(bqs);
	for (unsigned i = 0; i < c->nr_queues; i++) {
		if (core_init_bq(c, &bqs[i], be, i, err) == 0)
			continue;
		core_free_queues(c, bqs);
		return NULL;
	}
	return bqs;
}

void core_free_queues(struct core *c, struct ub_backend_queue *bqs)
{
	for (unsigned i = 0; i < c->nr_queues; i++) {
		if (bqs[i].backend)
			ub_backend_queue_destroy(&bqs[i]);
	}
	free(bqs);
}

static void core_order(struct core *c, struct ub_backend_queue *bqs,
		       void (*fn)(struct ub_msg *, struct ub_queue *))
{
	struct order orders[CORE_MAX_QUEUES] = { 0 };

	for (unsigned i = 0; i < c->nr_queues; i++) {
		orders[i] = (struct order){ .msg = { .fn = fn }, .bq = &bqs[i], .core = c };
		ub_queue_post(c->queues[i], &orders[i].msg);
	}
	orders_await(c, orders, c->nr_queues);
}

static void queue_swap(struct ub_msg *msg, struct ub_queue *q)
{
	struct order *order = ub_container_of(msg, struct order, msg);

	assert(q->nr_owned == 0);
	queue_begin_with(q, order->bq);
	order_is_done(order);
}

void core_swap(struct core *c, struct ub_backend_queue *bqs)
{
	core_order(c, bqs, queue_swap);
}

static void queue_leave(struct ub_msg *msg, struct ub_queue *q)
{
	struct order *order = ub_container_of(msg, struct order, msg);

	assert(q->bq != order->bq);
	order->next = q->leaving;
	q->leaving = order;
}

void core_leave(struct core *c, struct ub_backend_queue *bqs)
{
	core_order(c, bqs, queue_leave);
}

static void queue_quit(struct ub_msg *msg, struct ub_queue *q)
{
	(void)msg;
	q->quit = true;
}

void core_close(struct core *c)
{
	for (unsigned i = 0; i < c->nr_queues; i++) {
		struct ub_queue *q = c->queues[i];

		if (q->has_thread) {
			q->quit_msg.fn = queue_quit;
			ub_queue_post(q, &q->quit_msg);
			pthread_join(q->thread, NULL);
		}
	}
	for (unsigned i = 0; i < c->nr_queues; i++) {
		ub_backend_queue_destroy(&c->bqs[i]);
		close(c->queues[i]->wake_fd);
		free(c->queues[i]);
	}
	c->nr_queues = 0;
	ub_backend_close(&c->backend);
	pthread_cond_destroy(&c->done);
	pthread_mutex_destroy(&c->lock);
}
