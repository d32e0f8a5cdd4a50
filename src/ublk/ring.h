/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A queue's ring: SQEs, timers, the mailbox, the clock, and the commits of tags. Private to
 * src/ublk/, where io, queue, queue-thread and device stand on it, in this order.
 * Specification: io_uring_setup(2), and Documentation/block/ublk.rst, "Data plane".
 *
 * The queue's thread, but for what is marked. What is called for each I/O is inline.
 */
#ifndef UB_UBLK_RING_H
#define UB_UBLK_RING_H

#include <errno.h>
#include <string.h>
#include <time.h>

#include "ublk/queue.h"

#define RING_CDEV_INDEX 0 /* /dev/ublkcN in the ring's file table */

/* user_data: a handler's address (its low bits are clear), or a tag with this bit. */
#define RING_DATA_TAG	1
#define RING_DATA_SHIFT 3

/* What cannot be mended ends the server: a lone dead queue would hang its I/O for ever. */
_Noreturn void ub_ring_fatal(struct ub_queue *q, const char *what, int code);

/*
 * The queue's mailbox, before its thread is there. Main thread. 0 or -errno with *err; the queue's
 * wake_fd is the caller's to close.
 */
int ub_ring_open_mailbox(struct ub_queue *q, struct ub_err *err);

/*
 * Makes the ring; the calling thread is the queue's from now on. 0 or -errno with q->err;
 * io_uring_queue_exit() undoes it.
 */
int ub_ring_make(struct ub_queue *q);

/* The mailbox is read from the next turn on. */
void ub_ring_arm_wake(struct ub_queue *q);

/* Puts a COMMIT_AND_FETCH into the batch; res: the full length in bytes or -errno. */
void ub_ring_commit(struct ub_queue *q, struct ub_req *req, int32_t res);

/*
 * Sends what is in the batch, and with it goes the data of READs: then the memory of the buffers in
 * q->used_bufs goes, too.
 */
void ub_ring_drop_used_bufs(struct ub_queue *q);

/* ---- inline: each I/O passes here ---------------------------------------- */

/* The monotonic clock, in nanoseconds. */
static inline uint64_t ub_ring_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

/* Reads the clock for what is given back from now on. */
static inline void ub_ring_look_at_clock(struct ub_queue *q)
{
	if (!q->dev->config.no_clock)
		q->done_ns = ub_ring_now_ns();
}

/* One that is not cleared; never NULL: a full ring is submitted first. */
static inline struct io_uring_sqe *ub_ring_get_sqe(struct ub_queue *q)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

	if (__builtin_expect(!sqe, 0)) {
		int ret = io_uring_submit(&q->ring);

		ub_stat_add(&q->stats->nr_submits, 1);
		sqe = io_uring_get_sqe(&q->ring);
		if (!sqe)
			ub_ring_fatal(q, "cannot submit", ret < 0 ? -ret : EAGAIN);
	}
	return sqe;
}

/* Puts a command for this tag into the batch. op: UBLK_U_IO_*; its completion bears the tag. */
static inline void ub_ring_send_io_cmd(struct ub_queue *q, uint32_t op, struct ub_req *req,
				       int32_t result, void *addr)
{
	struct io_uring_sqe *sqe = ub_ring_get_sqe(q);
	struct ublksrv_io_cmd *cmd;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->fd = RING_CDEV_INDEX;
	sqe->off = op; /* cmd_op is its low word */
	sqe->user_data = (uint64_t)req->tag << RING_DATA_SHIFT | RING_DATA_TAG;
	cmd = (struct ublksrv_io_cmd *)((char *)sqe + 48);
	cmd->q_id = q->qid;
	cmd->tag = req->tag;
	cmd->result = result;
	cmd->addr = (uintptr_t)addr;
}

#endif
