/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The core without a kernel: what io.h and backend.h give to back ends, on poll(2), so that a real
 * back end runs its queues in a test.
 *
 * It is stricter than the core where it can be: what a back end may not do fails an assertion. An
 * I/O is the test's own until core_start_io(), and again after core_wait_io() returned true.
 */
#ifndef UB_TESTS_CORE_H
#define UB_TESTS_CORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/backend.h>
#include <ublk-bridge/page.h>

#include "base/err.h"

#define CORE_MAX_QUEUES 8

/*
 * Embeds what the core's request has. Zero it, set io's op, flags, slot, offset, length and buffer.
 */
struct core_io {
	struct ub_io io;
	struct ub_msg msg;
	_Atomic bool is_done;
	unsigned nr_done; /* since it was zeroed: 1 for each start */
};

struct core {
	struct ub_backend backend;
	struct ub_host host; /* the back end's; only reports are heard */
	struct ub_backend_stats stats;
	struct ub_backend_queue_stats queue_stats[CORE_MAX_QUEUES];
	struct ub_queue *queues[CORE_MAX_QUEUES];
	struct ub_backend_queue bqs[CORE_MAX_QUEUES]; /* of the back end that was opened */
	unsigned nr_queues, depth;
	unsigned nr_started; /* under the lock */
	pthread_mutex_t lock;
	pthread_cond_t done;
};

/* What the back end reported last, and how often since core_open(). */
extern _Atomic int core_health;
extern _Atomic unsigned core_nr_reports[UB_HEALTH_FAILED + 1];

/* The first side of the next core_open()'s ledger; NULL: it has none. The test's. */
extern struct ub_ledger *core_ledger;

/* Logs go to stderr, and not to nowhere. */
void core_be_verbose(void);

/*
 * Opens cfg->kind, makes the queues and starts their threads. 0 or -errno with *err; core_close()
 * in every case.
 */
int core_open(struct core *c, const struct ub_backend_config *cfg, unsigned depth,
	      struct ub_err *err);
void core_set_live(struct core *c);

/* Submits on a queue's thread. Those of one call are one batch. */
void core_start_io(struct core *c, unsigned qid, struct core_io *cio);
/* False: it is not done within the time. */
bool core_wait_io(struct core *c, struct core_io *cio, unsigned timeout_ms);

/*
 * Tells each watch for POLLIN on a queue that there is something, as the ring's polls on a unix
 * socket do now and then of what was read before they were armed. Returns when the queue has been
 * told.
 */
void core_wake_falsely(struct core *c, unsigned qid);

/*
 * A change that the back end has not seen whole goes back to the kernel. Returns when the back end
 * has been told.
 */
void core_give_back(struct core *c, unsigned qid, const struct ub_io *io);

/* All queues complete with err what they hold. Returns when each has been told. */
void core_cancel(struct core *c, int err);

/* Parts of another back end, which is the test's, on all queues. NULL with *err. */
struct ub_backend_queue *core_make_queues(struct core *c, struct ub_backend *be,
					  struct ub_err *err);
void core_free_queues(struct core *c, struct ub_backend_queue *bqs);
/*
 * The queues go on with these (c->bqs: with the first ones). No I/O is in flight. Returns when all
 * have begun.
 */
void core_swap(struct core *c, struct ub_backend_queue *bqs);
/* Returns when the queues know no more of them, which are not the present ones. */
void core_leave(struct core *c, struct ub_backend_queue *bqs);

/*
 * Ends the threads (nothing may be in flight, and the queues are with the first back end) and
 * closes the back end. Also of one that did not open.
 */
void core_close(struct core *c);

#endif
