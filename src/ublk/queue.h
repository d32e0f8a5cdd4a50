/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A queue: one thread, one ring, its tags. Private to src/ublk/.
 *
 * Everything in it belongs to its thread, but for what is marked. A tag's life:
 *
 *            FETCH                  WRITE, get-data only
 *   (new) ──────────► KERNEL ───────────────────────────► GET_DATA
 *                      ▲  │ CQE 0: a request                 │ CQE 0
 *       COMMIT_AND_    │  └──────────────► BACKEND ◄─────────┘
 *       FETCH          └───────────────────────┘  ub_io_complete()
 *
 *   CQE -ENODEV, from KERNEL or after a commit ──► GONE: nothing may be sent for that tag again
 */
#ifndef UB_UBLK_QUEUE_H
#define UB_UBLK_QUEUE_H

#include <liburing.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include <ublk-bridge/backend.h>
#include <ublk-bridge/ublk-abi.h>

#include "ublk/device.h"

enum ub_req_state {
	UB_REQ_KERNEL,	 /* fetched, or committed and fetched again */
	UB_REQ_GET_DATA, /* the driver was told where to copy a WRITE's data */
	UB_REQ_BACKEND,	 /* the back end has it, or the core works on its behalf */
	UB_REQ_HELD,	 /* it came while the queue pauses, or yields: the next server's */
	UB_REQ_GONE,	 /* aborted: the device stops */
};

/* One tag. `io` is what the back end sees; the rest is what the kernel asked for. */
struct ub_req {
	struct ub_io io;
	void *tag_buf; /* its own buffer in the arena */
	void *data;    /* where the whole request's data lies: tag_buf, or in the store */
	uint64_t offset_bytes;
	uint64_t arrived_ns; /* turn_ns when it came */
	uint32_t len_bytes;
	uint32_t done_bytes; /* by the parts that were sent so far: requests that the core splits */
	uint64_t losses;     /* io.losses of the last part that was answered */
	int32_t error;	     /* GET_DATA: fail with this as soon as the data has come */
	struct ub_req *next_used; /* in used_bufs */
	uint16_t tag;
	uint8_t op, flags; /* as asked; io.op may be what the core makes of it */
	uint8_t state;	   /* enum ub_req_state */
	bool wants_data;   /* HELD: GET_DATA is still to be sent */
	struct ub_req *next_held;
} __attribute__((aligned(64)));

struct ub_queue {
	struct io_uring ring;
	struct ub_device *dev;
	struct ub_backend_queue *bq; /* of the present back end: the device's */
	const struct ublksrv_io_desc *descs;
	struct ub_req *reqs;
	struct ub_queue_stats *stats;
	struct ub_limits limits; /* the present back end's */
	/* max_io_bytes of them: what WRITE_ZEROES becomes without can_zero */
	const void *zeroes;
	size_t zeroes_bytes;
	enum ub_data_path path;
	uint16_t qid;
	unsigned depth, nr_gone;
	/*
	 * The clock is read once a turn, and again before a batch is given back; 0 with no_clock.
	 */
	uint64_t turn_ns, done_ns;
	unsigned nr_commits;  /* of this turn */
	unsigned nr_owned;    /* requests that are ours: in BACKEND or GET_DATA state */
	unsigned nr_internal; /* I/Os of a layer's own */
	uint64_t last_seq;    /* ub_io.seq of the I/O that was submitted last */
	int32_t cancel_error; /* not 0: every I/O fails with it */
	bool quit;
	bool is_yielding, has_yielded;
	bool is_pausing;
	unsigned pause_id;   /* of pause_wanted, when it began */
	bool is_shrinking;   /* I/O behind the new end may still be in flight */
	bool has_spare_bufs; /* see below */
	/* came while it pauses, or yields, in their order */
	struct ub_req *held_first, **held_last;
	struct ub_backend_queue *leaving;      /* of back ends that are being taken out */
	struct ub_io *done_first, **done_last; /* completed, waiting to be committed */

	/*
	 * Where the back end names its store, the tag buffers are the exception, and their memory
	 * is given back after each use (has_spare_bufs): those of this turn, and how much that is.
	 */
	struct ub_req *used_bufs;
	size_t used_bytes;
	void *sink; /* max_io_bytes: where GET_DATA drops the data of a WRITE that is to fail */

	/* The mailbox: any thread. */
	int wake_fd;
	struct ub_cqe_handler wake;
	struct ub_io *_Atomic foreign_done;
	struct ub_msg *_Atomic msgs;
	struct ub_msg cancel_msg, quit_msg, yield_msg; /* the main thread's, posted once */
	struct ub_msg size_msg, pause_msg, resume_msg; /* the main thread's, one at a time each */
	struct ub_msg flush_msg;		       /* likewise, while is_flushing */
	struct ub_io flush_io;
	/* to begin with at resume_msg; NULL: none. The main thread's until then */
	struct ub_backend_queue *next_bq;
	/* what limits.size_bytes shall be; nothing in flight lies behind this */
	_Atomic uint64_t wanted_bytes, size_bytes;
	_Atomic bool is_flushing;
	_Atomic int flush_result;  /* of the last one that is over */
	_Atomic bool is_cancelled; /* nothing is given to the back end any more */
	/*
	 * The main thread counts its pauses and resumes; the queue says for which of them nothing
	 * is in flight any more.
	 */
	_Atomic unsigned pause_wanted, paused_for;
	/* while it pauses: when the oldest request that it holds came; 0: none, or no clock */
	_Atomic uint64_t oldest_ns;

	/* Written by the thread, read by the main thread once it has seen the state. */
	struct ub_err err;
	_Atomic int state; /* enum ub_queue_state */

	/* The main thread's. */
	pthread_t thread;
	sem_t go; /* posted when the device is there, or never will be */
	bool has_thread, must_not_go;
	void *stack;
	size_t desc_bytes;
};

/* ---- io.c: what the core does with a request. Queue thread --------------- */

void ub_req_arrived(struct ub_queue *q, struct ub_req *req);
void *ub_req_wants_data(struct ub_queue *q, struct ub_req *req); /* where the driver shall put it */
void ub_req_has_data(struct ub_queue *q, struct ub_req *req);

/* ---- queue.c ------------------------------------------------------------- */

/*
 * Makes a queue, without a part of a back end. Main thread. 0 or -errno with *err; in either case
 * ub_queue_destroy() undoes it.
 */
int ub_queue_create(struct ub_queue **out, struct ub_device *dev, uint16_t qid, struct ub_err *err);
/* Its thread has ended, and its part of a back end is gone. Main thread. NULL: nothing. */
void ub_queue_destroy(struct ub_queue *q);
/* Once the device is open: maps the queue's descriptors. Main thread. 0 or -errno with *err. */
int ub_queue_map(struct ub_queue *q, struct ub_err *err);

/* Puts a FETCH of every tag into the batch. Queue thread. */
void ub_queue_fetch_all(struct ub_queue *q);
/* Goes on with this back end's part, which starts if it has not yet. Queue thread. */
void ub_queue_begin_with(struct ub_queue *q, struct ub_backend_queue *bq);
/*
 * Sends what is in the batch, sleeps until something comes, and does all that came. Queue thread:
 * the one place where it sleeps.
 */
void ub_queue_turn(struct ub_queue *q);
/* Fails all that is in flight, and all that still comes, with -EIO. Queue thread. */
void ub_queue_cancel(struct ub_queue *q);
/*
 * Has it refuse what lies behind this end; size_bytes follows when the last I/O there is done. Main
 * thread.
 */
void ub_queue_set_size(struct ub_queue *q, uint64_t size_bytes);
/*
 * Takes no more requests; ub_queue_is_paused() when it holds none. Main thread, as the next three.
 */
void ub_queue_pause(struct ub_queue *q);
bool ub_queue_is_paused(const struct ub_queue *q);
uint64_t ub_queue_oldest_ns(const struct ub_queue *q);
/* Goes on: with next, if it is not NULL. Only when it is paused where there is a next. */
void ub_queue_resume(struct ub_queue *q, struct ub_backend_queue *next);
/*
 * Has the back end flush what it has answered so far, in an I/O of the queue's own: not while a
 * layer is there, which has these slots. Does nothing while the last one is under way. Main thread.
 */
void ub_queue_flush(struct ub_queue *q);
/*
 * Has a part of a back end that is no longer its own let go of the ring: bq->has_left follows. Any
 * thread.
 */
void ub_queue_leave(struct ub_queue *q, struct ub_backend_queue *bq);

/* ---- queue-thread.c: the main thread's ----------------------------------- */

/* With q->bq set. It makes its ring, and waits. 0 or -errno with *err. */
int ub_queue_start_thread(struct ub_queue *q, struct ub_err *err);
/* Has it fetch, once the queue is mapped; or end, where q->must_not_go says so. */
void ub_queue_go(struct ub_queue *q);
/* Returns when it has ended, and its stack is gone. NULL, or one without a thread: nothing. */
void ub_queue_end_thread(struct ub_queue *q);

#endif
