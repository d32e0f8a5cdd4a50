/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a descriptor to the back end and back: checks what the kernel asks, and makes up for what
 * the back end lacks (FUA, write zeroes, discard, large requests).
 *
 * Queue thread; never blocks, never allocates. Knows no back end but by the contract.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/histogram.h"
#include "ublk/params.h"
#include "ublk/queue.h"
#include "ublk/ring.h"

#define SECTOR_SHIFT 9

static struct ub_req *req_of(struct ub_io *io)
{
	return ub_container_of(io, struct ub_req, io);
}

/* ---- the end of a request ------------------------------------------------ */

static off_t req_user_copy_offset(const struct ub_queue *q, const struct ub_req *req)
{
	return (off_t)(UBLKSRV_IO_BUF_OFFSET + ((uint64_t)q->qid << UBLK_QID_OFF) +
		       ((uint64_t)req->tag << UBLK_TAG_OFF));
}

/* USER_COPY: moves the request's data between the kernel and req->data. 0 or -errno. */
static int req_user_copy(struct ub_queue *q, struct ub_req *req)
{
	off_t at = req_user_copy_offset(q, req);
	ssize_t n;

	do {
		ub_stat_add(&q->stats->nr_copies, 1);
		n = req->op == UB_OP_WRITE ? pread(q->dev->cdev_fd, req->data, req->len_bytes, at) :
					     pwrite(q->dev->cdev_fd, req->data, req->len_bytes, at);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return n == (ssize_t)req->len_bytes ? 0 : -EIO;
}

static void req_count(struct ub_queue *q, const struct ub_req *req, int32_t res)
{
	if (__builtin_expect(req->op >= UB_NR_OPS, 0))
		return;
	ub_stat_add(&q->stats->ios[req->op], 1);
	if (res >= 0)
		ub_stat_add(&q->stats->bytes[req->op], req->len_bytes);
	else
		ub_stat_add(&q->stats->errors[req->op], 1);
	if (q->done_ns)
		ub_histogram_record(&q->stats->latency[req->op], q->done_ns - req->arrived_ns);
}

/* Gives the request back to the driver: res is its full length or a negative errno. */
static void req_finish(struct ub_queue *q, struct ub_req *req, int32_t res)
{
	if (q->path == UB_DATA_PATH_USER_COPY && req->op == UB_OP_READ && res >= 0) {
		int ret = req_user_copy(q, req);

		if (ret)
			res = ret;
		/* the copy is a system call: it took time, and the clock hardly any more */
		ub_ring_look_at_clock(q);
	}
	req_count(q, req, res);
	ub_ring_commit(q, req, res);
}

/* The op that the back end sees. */
static uint8_t req_backend_op(const struct ub_queue *q, const struct ub_req *req)
{
	return req->op == UB_OP_WRITE_ZEROES && !q->limits.can_zero ? UB_OP_WRITE : req->op;
}

/*
 * Ends a request of which the back end has not seen the whole in one submit(). After a death of
 * ours a request may be one that another process had sent: the back end has to know when the kernel
 * gets it back, however it ends.
 */
static void req_give_back(struct ub_queue *q, struct ub_req *req, uint64_t len_bytes, int32_t res)
{
	struct ub_io io = { .op = req_backend_op(q, req),
			    .slot = req->io.slot,
			    .offset_bytes = req->offset_bytes,
			    .len_bytes = (uint32_t)len_bytes };
	bool is_change =
		req->op == UB_OP_WRITE || req->op == UB_OP_WRITE_ZEROES || req->op == UB_OP_DISCARD;

	if (is_change && len_bytes && len_bytes <= UINT32_MAX)
		ub_backend_give_back(q->bq, &io);
	req_finish(q, req, res);
}

static inline void req_to_backend(struct ub_queue *q, struct ub_io *io)
{
	io->is_completed = false;
	io->seq = ++q->last_seq;
	ub_backend_submit(q->bq, io);
}

/* ---- parts: a request that one submit() cannot carry out ----------------- */

static void req_part_done(struct ub_io *io, int32_t res);

static bool req_is_emulated_zero(const struct ub_queue *q, const struct ub_req *req)
{
	return req_backend_op(q, req) != req->op;
}

static uint8_t req_io_flags(const struct ub_queue *q, const struct ub_req *req)
{
	return q->limits.can_fua ? req->flags : req->flags & (uint8_t)~UB_FUA;
}

static void req_end_parts(struct ub_queue *q, struct ub_req *req, int32_t res)
{
	req_give_back(q, req, req->len_bytes, res);
}

static bool req_wants_flush(const struct ub_queue *q, const struct ub_req *req)
{
	return (req->flags & UB_FUA) && !q->limits.can_fua && q->limits.can_flush;
}

/* The most that the back end takes of this request's kind at once; 0: any length. */
static uint32_t req_part_limit(const struct ub_queue *q, const struct ub_req *req)
{
	switch (req->op) {
	case UB_OP_DISCARD:
		return q->limits.max_discard_bytes;
	case UB_OP_WRITE_ZEROES:
		if (q->limits.can_zero)
			return q->limits.max_zeroes_bytes;
		return q->limits.max_io_bytes < q->zeroes_bytes ? q->limits.max_io_bytes :
								  (uint32_t)q->zeroes_bytes;
	default:
		return q->limits.max_io_bytes;
	}
}

static void req_next_part(struct ub_queue *q, struct ub_req *req)
{
	struct ub_io *io = &req->io;
	uint32_t limit = req_part_limit(q, req), rest = req->len_bytes - req->done_bytes;

	io->op = req_backend_op(q, req);
	io->flags = req_io_flags(q, req) | UB_PART;
	io->offset_bytes = req->offset_bytes + req->done_bytes;
	io->len_bytes = rest < limit ? rest : limit;
	io->buf = NULL;
	if (io->op == UB_OP_WRITE && req->op == UB_OP_WRITE_ZEROES)
		io->buf = (void *)(uintptr_t)q->zeroes;
	else if (req->data)
		io->buf = (char *)req->data + req->done_bytes;
	io->losses = 0;
	io->rest_bytes = rest - io->len_bytes;
	io->done = req_part_done;
	req_to_backend(q, io);
}

/*
 * Whether what was answered before this part may have been lost meanwhile. The kernel was not told
 * that anything of the request is done: then all of it is done again.
 */
static bool req_has_lost_parts(const struct ub_req *req)
{
	return req->done_bytes && req->io.losses != req->losses;
}

static void req_flush_done(struct ub_io *io, int32_t res)
{
	struct ub_req *req = req_of(io);
	struct ub_queue *q = io->home;

	if (res >= 0 && req_has_lost_parts(req) && !q->cancel_error) {
		req->done_bytes = 0;
		req_next_part(q, req);
		return;
	}
	req_end_parts(q, req, res < 0 ? res : (int32_t)req->len_bytes);
}

static void req_part_done(struct ub_io *io, int32_t res)
{
	struct ub_req *req = req_of(io);
	struct ub_queue *q = io->home;

	if (res >= 0 && res != (int32_t)io->len_bytes)
		res = -EIO; /* a short count is no success, whatever the back end meant */
	if (res < 0) {
		req_end_parts(q, req, res);
		return;
	}
	if (req->op != UB_OP_READ && req_has_lost_parts(req))
		req->done_bytes = 0; /* this part is among those that are done again */
	else
		req->done_bytes += io->len_bytes;
	req->losses = io->losses;
	if (q->cancel_error) {
		req_end_parts(q, req, q->cancel_error);
	} else if (req->done_bytes < req->len_bytes) {
		req_next_part(q, req);
	} else if (req_wants_flush(q, req)) {
		io->op = UB_OP_FLUSH;
		io->flags = UB_PART;
		io->offset_bytes = 0;
		io->len_bytes = 0;
		io->buf = NULL;
		io->losses = 0;
		io->done = req_flush_done;
		req_to_backend(q, io);
	} else {
		req_end_parts(q, req, (int32_t)req->len_bytes);
	}
}

/* ---- the straight way ---------------------------------------------------- */

static void req_done(struct ub_io *io, int32_t res)
{
	struct ub_req *req = req_of(io);

	if (res >= 0 && res != (int32_t)req->len_bytes)
		res = -EIO;
	req_finish(io->home, req, res);
}

static bool req_fits(const struct ub_queue *q, const struct ub_req *req)
{
	if (req->len_bytes > req_part_limit(q, req))
		return false;
	return !(req->flags & UB_FUA) || q->limits.can_fua || !q->limits.can_flush;
}

/* True when the core answered it by itself. */
static bool req_answer(struct ub_queue *q, struct ub_req *req)
{
	ub_ring_look_at_clock(q); /* no batch is given back here */
	if (q->cancel_error)
		req_give_back(q, req, req->len_bytes, q->cancel_error);
	else if (req->op == UB_OP_FLUSH && !q->limits.can_flush)
		req_finish(q, req, 0);
	else if (req->op == UB_OP_DISCARD && !q->limits.can_trim)
		req_finish(q, req, (int32_t)req->len_bytes);
	else
		return false;
	return true;
}

static void req_submit(struct ub_queue *q, struct ub_req *req)
{
	struct ub_io *io = &req->io;

	if (__builtin_expect(req->op >= UB_OP_FLUSH || q->cancel_error, 0) && req_answer(q, req))
		return;
	req->done_bytes = 0;
	if (__builtin_expect(!req_fits(q, req) || req_is_emulated_zero(q, req), 0)) {
		req_next_part(q, req);
		return;
	}
	io->op = req->op;
	io->flags = req_io_flags(q, req);
	io->offset_bytes = req->offset_bytes;
	io->len_bytes = req->len_bytes;
	io->rest_bytes = 0;
	io->buf = req->data;
	io->done = req_done;
	req_to_backend(q, io);
}

/* ---- arrival ------------------------------------------------------------- */

static const uint8_t req_ops[] = {
	[UBLK_IO_OP_READ] = UB_OP_READ,
	[UBLK_IO_OP_WRITE] = UB_OP_WRITE,
	[UBLK_IO_OP_FLUSH] = UB_OP_FLUSH,
	[UBLK_IO_OP_DISCARD] = UB_OP_DISCARD,
	[4] = UB_NR_OPS,
	[UBLK_IO_OP_WRITE_ZEROES] = UB_OP_WRITE_ZEROES,
};

/* Checks the range against the device: the kernel's word is input like any other. */
static int req_check(const struct ub_queue *q, const struct ub_req *req, uint64_t sectors)
{
	uint64_t size = q->limits.size_bytes, len = sectors << SECTOR_SHIFT;
	uint64_t most = UB_MAX_RANGE_BYTES;

	if (req->op == UB_OP_READ || req->op == UB_OP_WRITE)
		most = q->dev->config.max_io_bytes;
	if (len == 0 || len > most || req->offset_bytes > size || len > size - req->offset_bytes)
		return -EINVAL;
	if (req->op != UB_OP_READ && q->limits.read_only)
		return -EROFS;
	return 0;
}

/* Reads the descriptor. 0, or the errno that the request ends with. */
static int req_decode(struct ub_queue *q, struct ub_req *req)
{
	const struct ublksrv_io_desc *desc = &q->descs[req->tag];
	unsigned op = desc->op_flags & 0xff;
	int ret;

	req->op = op < UB_ARRAY_SIZE(req_ops) ? req_ops[op] : UB_NR_OPS;
	req->flags = 0;
	req->len_bytes = 0;
	req->data = NULL;
	if (req->op == UB_NR_OPS)
		return -EOPNOTSUPP;
	if (desc->op_flags & UBLK_IO_F_FUA)
		req->flags |= UB_FUA;
	if (desc->op_flags & UBLK_IO_F_NOUNMAP)
		req->flags |= UB_NOUNMAP;
	req->offset_bytes = 0;
	if (req->op == UB_OP_FLUSH)
		return 0; /* its descriptor says sector -1 */
	req->offset_bytes = desc->start_sector << SECTOR_SHIFT;
	ret = req_check(q, req, desc->nr_sectors);
	if (ret)
		return ret;
	req->len_bytes = desc->nr_sectors << SECTOR_SHIFT;
	return 0;
}

/* Ends a request that does not get as far as submit(). */
static void req_refuse(struct ub_queue *q, struct ub_req *req, int error)
{
	req_give_back(q, req, (uint64_t)q->descs[req->tag].nr_sectors << SECTOR_SHIFT, error);
}

static int req_place(struct ub_queue *q, struct ub_req *req)
{
	const struct ub_backend_ops *ops = q->bq->backend->ops;
	int ret;

	req->data = req->tag_buf;
	if (!(ops->caps & UB_CAP_PLACE) || q->cancel_error)
		return 0;
	req->io.op = req->op;
	req->io.flags = req->flags;
	req->io.offset_bytes = req->offset_bytes;
	req->io.len_bytes = req->len_bytes;
	ret = ops->place(q->bq, &req->io);
	if (ret == 1)
		req->data = req->io.buf;
	return ret < 0 ? ret : 0;
}

/*
 * A new request in KERNEL state: its descriptor is valid, and so is its data where there is a copy.
 */
void ub_req_arrived(struct ub_queue *q, struct ub_req *req)
{
	int ret;

	ret = req_decode(q, req);
	req->arrived_ns = q->turn_ns;
	q->nr_owned++;
	req->state = UB_REQ_BACKEND;
	if (ret == 0 && req->op <= UB_OP_WRITE) {
		/* In COPY mode the kernel has used, or will use, the tag's buffer. */
		req->data = req->tag_buf;
		if (q->path != UB_DATA_PATH_COPY)
			ret = req_place(q, req);
		if (ret == 0 && q->path == UB_DATA_PATH_USER_COPY && req->op == UB_OP_WRITE)
			ret = req_user_copy(q, req);
	}
	if (ret)
		req_refuse(q, req, ret);
	else
		req_submit(q, req);
}

/* GET_DATA, first half: the driver asks where a WRITE's data shall go. */
void *ub_req_wants_data(struct ub_queue *q, struct ub_req *req)
{
	req->error = req_decode(q, req);
	req->arrived_ns = q->turn_ns;
	if (req->error == 0)
		req->error = q->cancel_error ? q->cancel_error : req_place(q, req);
	if (req->error)
		req->data = q->sink;
	q->nr_owned++;
	req->state = UB_REQ_GET_DATA;
	return req->data;
}

/* GET_DATA, second half: the data is there. A request that is to fail had to get this far too. */
void ub_req_has_data(struct ub_queue *q, struct ub_req *req)
{
	req->state = UB_REQ_BACKEND;
	if (req->error)
		req_refuse(q, req, req->error);
	else
		req_submit(q, req);
}
