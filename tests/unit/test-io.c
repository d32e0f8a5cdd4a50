/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the core makes of the kernel's requests, without a kernel: which I/Os the back end gets, in
 * what order, and what goes back.
 */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>

#include "ublk/queue.h"
#include "ublk/ring.h"

#define DEPTH  4
#define MAX_IO 8192U

/* The kernel's side: what was given back. */
static struct {
	uint16_t tag;
	int32_t res;
	unsigned nr;
} committed;

/* The back end's side: what it was given. */
static struct {
	struct ub_io *ios[16];
	struct ub_io seen[16];
	unsigned nr;
} given;

static struct ub_device dev;
static struct ub_backend backend;
static struct ub_backend_queue bq;
static struct ub_queue_stats stats;
static struct ublksrv_io_desc descs[DEPTH];
static struct ub_req reqs[DEPTH];
static struct ub_queue q;
static char bufs[DEPTH][MAX_IO], zeroes[MAX_IO];

void ub_ring_commit(struct ub_queue *queue, struct ub_req *req, int32_t res)
{
	assert_ptr_equal(queue, &q);
	req->state = UB_REQ_KERNEL;
	committed.tag = req->tag;
	committed.res = res;
	committed.nr++;
}

static void given_submit(struct ub_backend_queue *its, struct ub_io *io)
{
	assert_ptr_equal(its, &bq);
	given.seen[given.nr] = *io;
	given.ios[given.nr++] = io;
}

static const struct ub_backend_ops ops = { .name = "given", .submit = given_submit };

static int io_setup(void **state)
{
	(void)state;
	memset(&committed, 0, sizeof(committed));
	memset(&given, 0, sizeof(given));
	memset(reqs, 0, sizeof(reqs));
	memset(descs, 0, sizeof(descs));
	memset(&q, 0, sizeof(q));
	dev.config = (struct ub_device_config){ .max_io_bytes = MAX_IO, .no_clock = true };
	backend = (struct ub_backend){ .ops = &ops };
	bq = (struct ub_backend_queue){ .backend = &backend, .queue = &q };
	q.dev = &dev;
	q.bq = &bq;
	q.descs = descs;
	q.reqs = reqs;
	q.stats = &stats;
	q.depth = DEPTH;
	q.zeroes = zeroes;
	q.zeroes_bytes = MAX_IO;
	q.path = UB_DATA_PATH_COPY;
	q.limits = (struct ub_limits){ .size_bytes = 1 << 20,
				       .logical_block_bytes = 512,
				       .max_io_bytes = MAX_IO,
				       .can_flush = 1 };
	for (unsigned tag = 0; tag < DEPTH; tag++) {
		reqs[tag].tag = (uint16_t)tag;
		reqs[tag].io.slot = (uint16_t)tag;
		reqs[tag].io.home = &q;
		reqs[tag].tag_buf = bufs[tag];
	}
	return 0;
}

static void arrives(unsigned tag, uint32_t op_flags, uint64_t offset_bytes, uint32_t len_bytes)
{
	descs[tag] = (struct ublksrv_io_desc){ .op_flags = op_flags,
					       .nr_sectors = len_bytes >> 9,
					       .start_sector = offset_bytes >> 9 };
	ub_req_arrived(&q, &reqs[tag]);
}

/* The newest I/O that the back end has been given. */
static void completes(int32_t res)
{
	struct ub_io *io = given.ios[given.nr - 1];

	io->done(io, res);
}

static void a_read_goes_through_as_it_is(void **state)
{
	(void)state;
	arrives(2, UBLK_IO_OP_READ, 4096, 8192);
	assert_int_equal(given.nr, 1);
	assert_int_equal(given.seen[0].op, UB_OP_READ);
	assert_true(given.seen[0].offset_bytes == 4096);
	assert_int_equal(given.seen[0].len_bytes, 8192);
	assert_ptr_equal(given.seen[0].buf, bufs[2]);
	assert_int_equal(committed.nr, 0);
	completes(8192);
	assert_int_equal(committed.nr, 1);
	assert_int_equal(committed.tag, 2);
	assert_int_equal(committed.res, 8192);
}

static void a_short_answer_is_an_error(void **state)
{
	(void)state;
	arrives(0, UBLK_IO_OP_WRITE, 0, 8192);
	completes(4096);
	assert_int_equal(committed.res, -EIO);
}

static void what_lies_behind_the_end_is_refused(void **state)
{
	(void)state;
	arrives(0, UBLK_IO_OP_READ, (1 << 20) - 4096, 8192);
	assert_int_equal(given.nr, 0);
	assert_int_equal(committed.res, -EINVAL);
}

static void fua_becomes_a_write_and_a_flush(void **state)
{
	(void)state;
	arrives(1, UBLK_IO_OP_WRITE | UBLK_IO_F_FUA, 0, 4096);
	assert_int_equal(given.nr, 1);
	assert_int_equal(given.seen[0].op, UB_OP_WRITE);
	assert_int_equal(given.seen[0].flags, UB_PART);
	completes(4096);
	assert_int_equal(given.nr, 2);
	assert_int_equal(given.seen[1].op, UB_OP_FLUSH);
	assert_int_equal(committed.nr, 0);
	completes(0);
	assert_int_equal(committed.res, 4096);
}

static void zeroes_are_written_in_parts_where_there_are_none(void **state)
{
	(void)state;
	arrives(0, UBLK_IO_OP_WRITE_ZEROES, 0, 3 * MAX_IO);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(given.nr, i + 1);
		assert_int_equal(given.seen[i].op, UB_OP_WRITE);
		assert_true(given.seen[i].offset_bytes == (uint64_t)i * MAX_IO);
		assert_int_equal(given.seen[i].rest_bytes, (2 - i) * MAX_IO);
		assert_ptr_equal(given.seen[i].buf, zeroes);
		completes(MAX_IO);
	}
	assert_int_equal(committed.res, 3 * MAX_IO);
}

/* Whatever it is, parts and what is done again included: in the order in which it is submitted. */
static void each_io_has_the_next_number(void **state)
{
	(void)state;
	arrives(0, UBLK_IO_OP_READ, 0, 4096);
	arrives(1, UBLK_IO_OP_WRITE | UBLK_IO_F_FUA, 0, 4096);
	completes(4096); /* and the flush comes */
	arrives(2, UBLK_IO_OP_FLUSH, 0, 0);
	arrives(3, UBLK_IO_OP_WRITE_ZEROES, 0, 2 * MAX_IO);
	given.ios[given.nr - 1]->losses = 1;
	completes(MAX_IO);
	given.ios[given.nr - 1]->losses = 2; /* the first part may be lost: all of it again */
	completes(MAX_IO);
	assert_int_equal(given.nr, 7);
	for (unsigned i = 0; i < given.nr; i++)
		assert_true(given.seen[i].seq == i + 1);
	assert_true(given.seen[6].offset_bytes == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_read_goes_through_as_it_is, io_setup),
		cmocka_unit_test_setup(a_short_answer_is_an_error, io_setup),
		cmocka_unit_test_setup(what_lies_behind_the_end_is_refused, io_setup),
		cmocka_unit_test_setup(fua_becomes_a_write_and_a_flush, io_setup),
		cmocka_unit_test_setup(zeroes_are_written_in_parts_where_there_are_none, io_setup),
		cmocka_unit_test_setup(each_io_has_the_next_number, io_setup),
	};

	return cmocka_run_group_tests_name("io", tests, NULL, NULL);
}
