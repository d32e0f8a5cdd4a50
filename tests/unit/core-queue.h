/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A queue of the core without a kernel (core.h), inside: core.c and core-queue.c share it. */
#ifndef UB_TESTS_CORE_QUEUE_H
#define UB_TESTS_CORE_QUEUE_H

#include <poll.h>

#include "core.h"

#define CORE_MAX_WATCHES 256
#define CORE_MAX_TIMERS	 256
#define NS_PER_S	 1000000000ULL

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

/* The one whose thread this is; NULL: the test's own thread. */
extern __thread struct ub_queue *core_this_queue;

/* Its thread. arg: struct ub_queue *. Ends once q->quit is set, and nothing is in flight. */
void *core_queue_main(void *arg);

/* Queue thread: it goes on with this part of a back end. */
void core_queue_begin_with(struct ub_queue *q, struct ub_backend_queue *bq);
/*
 * Queue thread: calls the watches for which fds, one each, have something in revents. Those are
 * taken out before one of them runs: it may arm itself and others again.
 */
void core_queue_run_watches(struct ub_queue *q, const struct pollfd *fds);
/* Queue thread: the test need not wait for it any more. */
void core_order_is_done(struct order *order);

#endif
