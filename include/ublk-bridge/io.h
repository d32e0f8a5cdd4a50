/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One I/O as it travels between the core (src/ublk/) and a back end (src/backend/).
 *
 * Everything here belongs to a queue's thread in the server process. Neither side allocates, blocks
 * or takes a lock with these.
 */
#ifndef UBLK_BRIDGE_IO_H
#define UBLK_BRIDGE_IO_H

#include <stdbool.h>
#include <stdint.h>

struct io_uring_sqe;
struct ub_queue;

enum ub_op {
	UB_OP_READ,
	UB_OP_WRITE,
	UB_OP_FLUSH, /* no range: offset and length are 0 */
	UB_OP_DISCARD,
	UB_OP_WRITE_ZEROES,
	UB_NR_OPS,
	/*
	 * Never the kernel's, and only where a back end has UB_CAP_STATUS: what is known of the
	 * range's beginning. buf is a struct ub_extent, which is filled in when it succeeds.
	 */
	UB_OP_STATUS = UB_NR_OPS,
};

struct ub_extent {
	/*
	 * of the range's first part, which is all of one kind: at least a block, at most the range
	 */
	uint32_t len_bytes;
	bool is_zero; /* it reads as zeroes for certain */
};

/*
 * Slots behind the queue's depth, for what no request of the kernel's asks for: a migration's
 * copying.
 */
#define UB_INTERNAL_SLOTS 16

enum {
	UB_FUA = 1 << 0,     /* WRITE, WRITE_ZEROES: on stable storage before it completes */
	UB_NOUNMAP = 1 << 1, /* WRITE_ZEROES: the range stays allocated */
	/* of a change in several I/Os: give_back() comes after the last of them */
	UB_PART = 1 << 2,
};

/*
 * An I/O has one owner at a time: the core until submit(), the back end until ub_io_complete(),
 * then the core again. A back end may change `next` while it owns the I/O, and nothing else;
 * place() may also set `buf`.
 */
struct ub_io {
	uint8_t op;    /* enum ub_op */
	uint8_t flags; /* UB_FUA, UB_NOUNMAP, UB_PART */
	/* index of the back end's scratch for this I/O: below queue_init's nr_slots */
	uint16_t slot;
	uint32_t len_bytes;
	uint64_t offset_bytes;
	void *buf; /* len_bytes of data for READ and WRITE; STATUS: see there; else NULL */
	struct ub_queue *home;			   /* the queue whose thread runs done() */
	void (*done)(struct ub_io *, int32_t res); /* the core's, or a parent layer's */
	int32_t result;				   /* set by ub_io_complete() */
	/* the core's: guards against a second completion */
	uint8_t is_completed;
	/*
	 * Set by a back end that has nr_losses(), when it completes: that count, as of the answer.
	 * Of several parts of one request, those with a lower one than the last may be lost. Zero
	 * elsewhere.
	 */
	uint64_t losses;
	/* of the request that this is a part of: as many follow behind it. The core's */
	uint32_t rest_bytes;
	/*
	 * The order in which the core has submitted I/Os on `home`, from 1: of two of one queue the
	 * lower one was accepted first, and one that is sent again gets a new number. 0: no request
	 * of the kernel's stands behind it (a layer's own, unless that copies its parent's).
	 *
	 * Between queues it says nothing, because a counter of the device's would be one cache line
	 * that each I/O of each queue writes, a tenth of a microsecond away on another CPU. The
	 * kernel orders only what it has waited for; and of two I/Os on two queues of which one was
	 * completed before the other came, the first was submitted in a turn with a lower
	 * ub_queue_turn_ns(). Who has to order more than that decides it where both pass, under the
	 * lock that it has for the range, as the mirror does.
	 */
	uint64_t seq;
	struct ub_io *next; /* the owner's list link */
};

/*
 * Completes an I/O: `res` is len_bytes (0 for a FLUSH) or a negative errno, nothing between. Any
 * thread; exactly once for each submit(), which an assertion guards in the core. Never recurses
 * into done(): on the home thread it links the I/O, elsewhere it posts it home and wakes that
 * thread.
 */
void ub_io_complete(struct ub_io *io, int32_t res);

/*
 * An internal I/O, in a slot behind the depth, is about to be submitted, and has been completed:
 * the queue does not end in between. Each begin has its end, in done(). Queue thread.
 */
void ub_io_begin_internal(struct ub_io *io);
void ub_io_end_internal(struct ub_io *io);

/* ---- what the queue's thread offers to back ends: its ring, its clock, its mailbox ---- */

/* A callback for one completion on the queue's ring. Embed it; it must outlive the operation. */
struct ub_cqe_handler {
	void (*fn)(struct ub_cqe_handler *, int32_t res, uint32_t cqe_flags);
};

/*
 * An empty SQE whose completion calls handler->fn on the same thread. It is sent with the batch, at
 * the end of the loop's turn. Queue thread only; never NULL (a full ring is submitted first).
 */
struct io_uring_sqe *ub_queue_sqe(struct ub_queue *q, struct ub_cqe_handler *handler);

/* Waits once for `events` (poll(2)) on a descriptor, without blocking. */
struct ub_watch {
	struct ub_cqe_handler handler; /* private */
	struct ub_queue *queue;
	void (*ready)(struct ub_watch *, int32_t res); /* the events that came, or -errno */
};

/*
 * One-shot and level-triggered: ready() runs once, and again only after another arm. Queue thread.
 */
void ub_watch_arm(struct ub_watch *watch, int fd, uint32_t events);

/* A one-shot timer. Zero it, set `queue` and `expired`, then ub_timer_set(). */
struct ub_timer {
	struct ub_cqe_handler handler; /* private, as all that follows `expired` */
	struct ub_queue *queue;
	void (*expired)(struct ub_timer *);
	uint64_t deadline_ns; /* 0: disarmed */
	uint64_t armed_ns;    /* when the ring will wake for it; 0: no operation is in the ring */
	int64_t timespec[2];
};

/* (Re)arms it to expire in delay_ms; 0 disarms. Queue thread. */
void ub_timer_set(struct ub_timer *timer, uint64_t delay_ms);

/*
 * Takes what is left of it out of the ring, for good: armed_ns is 0 soon, and then its memory may
 * go. Queue thread.
 */
void ub_timer_stop(struct ub_timer *timer);

/*
 * The monotonic clock as of the beginning of this turn of the queue's loop, in nanoseconds: it
 * costs nothing. 0 where nothing is measured (--no-stats). Queue thread.
 */
uint64_t ub_queue_turn_ns(const struct ub_queue *q);

/* Something to be run on a queue's thread. Embed it; it is the poster's again when fn runs. */
struct ub_msg {
	void (*fn)(struct ub_msg *, struct ub_queue *);
	struct ub_msg *next;
};

/* Runs msg->fn on the queue's thread. Any thread; lock-free; wakes the thread if it sleeps. */
void ub_queue_post(struct ub_queue *q, struct ub_msg *msg);

#endif
