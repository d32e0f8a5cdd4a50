/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The core without a kernel: the test's side of it. The test's own thread, but for what queues are
 * told to run. The rest is as src/ublk/ has it.
 */
#include "core-queue.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/cleanup.h"
#include "base/log.h"

_Atomic int core_health;
_Atomic unsigned core_nr_reports[UB_HEALTH_FAILED + 1];
struct ub_ledger *core_ledger;

static bool core_is_verbose;

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
		ret = -pthread_create(&c->queues[i]->thread, NULL, core_queue_main, c->queues[i]);
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
	struct ub_queue *q = core_this_queue;
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
	core_queue_run_watches(q, fds);
	core_order_is_done(ub_container_of(msg, struct order, msg));
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
	core_order_is_done(order);
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
	core_order_is_done(order);
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
	core_queue_begin_with(q, order->bq);
	core_order_is_done(order);
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
