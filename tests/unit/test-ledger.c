/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ledger's geometry, also a hostile one's; and each rule of the fence by itself.
 * test-fence-model has them all at once.
 */
#include "unit.h"

#include <errno.h>

#include "base/fence.h"
#include "base/loop.h"
#include "ublk-bridge/io.h"

#define KIB   1024ULL
#define BLOCK 4096ULL
#define T     30000ULL /* the time-out, in ms */

enum { NR_QUEUES = 2, NR_SLOTS = 4, NR_RANGES = 8, NR_CONNS = 6 };

/* ---- geometry ------------------------------------------------------------ */

static struct ub_ledger *page_make(unsigned nr_queues, unsigned nr_slots, size_t *len_bytes)
{
	struct ub_ledger *page;

	*len_bytes = ub_ledger_bytes(nr_queues, nr_slots);
	page = calloc(1, *len_bytes);
	assert_non_null(page);
	ub_ledger_init(page, nr_queues, nr_slots);
	return page;
}

static void a_new_ledger_is_one_that_we_can_use(void **state)
{
	static const unsigned sizes[][2] = { { 1, 1 }, { 4, 130 }, { 16, 4098 }, { 4096, 8192 } };

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		unsigned nr_queues = sizes[i][0], nr_slots = sizes[i][1];
		size_t len = ub_ledger_bytes(nr_queues, nr_slots);
		struct ub_ledger page = { 0 };

		ub_ledger_init(&page, nr_queues, nr_slots);
		assert_int_equal(len % UB_LEDGER_HEAD_BYTES, 0);
		assert_int_equal(ub_ledger_check(&page, len, nr_queues, nr_slots), 0);
		assert_int_equal(ub_ledger_check(&page, len + 1, nr_queues, nr_slots), 0);
		assert_int_equal(ub_ledger_check(&page, len - 1, nr_queues, nr_slots), -EPROTO);
	}
}

static void a_device_that_cannot_be_has_no_ledger(void **state)
{
	(void)state;
	assert_int_equal(ub_ledger_bytes(0, 8), 0);
	assert_int_equal(ub_ledger_bytes(8, 0), 0);
	assert_int_equal(ub_ledger_bytes(4097, 8), 0);
	assert_int_equal(ub_ledger_bytes(8, 8193), 0);
	assert_int_equal(ub_ledger_bytes(UINT32_MAX, UINT32_MAX), 0);
}

static void records_lie_one_behind_the_other(void **state)
{
	size_t len;
	struct ub_ledger *page = page_make(3, 5, &len);
	char *last = (char *)(ub_ledger_sent(page, 1, 2, 4) + 1);

	(void)state;
	assert_ptr_equal(ub_ledger_side(page, 0), (char *)page + UB_LEDGER_HEAD_BYTES);
	assert_ptr_equal(ub_ledger_conn(page, 0, 0),
			 (char *)ub_ledger_side(page, 0) + UB_LEDGER_HEAD_BYTES);
	assert_ptr_equal(ub_ledger_range(page, 0, 0), ub_ledger_conn(page, 0, page->nr_conns));
	assert_ptr_equal(ub_ledger_sent(page, 0, 0, 0), ub_ledger_range(page, 0, page->nr_ranges));
	assert_ptr_equal(ub_ledger_sent(page, 0, 1, 0), ub_ledger_sent(page, 0, 0, 5));
	assert_true((char *)(ub_ledger_sent(page, 0, 2, 4) + 1) <= (char *)ub_ledger_side(page, 1));
	assert_true(last <= (char *)page + len);
	assert_true(last + UB_LEDGER_HEAD_BYTES > (char *)page + len);
	free(page);
}

static void records_of_a_later_program_are_larger(void **state)
{
	struct ub_ledger page = { 0 };
	size_t len;

	(void)state;
	ub_ledger_init(&page, 2, 10);
	page.version++;
	page.head_bytes += 64;
	page.conn_bytes += 8;
	page.range_bytes += 24;
	page.sent_bytes += 32;
	page.nr_conns *= 2;
	page.nr_ranges *= 2;
	page.side_bytes = page.head_bytes + (uint64_t)page.nr_conns * page.conn_bytes +
			  (uint64_t)page.nr_ranges * page.range_bytes + 20ULL * page.sent_bytes;
	page.side_bytes = (page.side_bytes + UB_LEDGER_HEAD_BYTES - 1) / UB_LEDGER_HEAD_BYTES *
			  UB_LEDGER_HEAD_BYTES;
	len = page.head_bytes + UB_LEDGER_SIDES * page.side_bytes;
	assert_int_equal(ub_ledger_check(&page, len, 2, 10), 0);
	assert_int_equal(ub_ledger_check(&page, len - 1, 2, 10), -EPROTO);
	page.side_bytes += UB_LEDGER_HEAD_BYTES; /* and there is something behind them */
	len = page.head_bytes + UB_LEDGER_SIDES * page.side_bytes;
	assert_int_equal(ub_ledger_check(&page, len, 2, 10), 0);
}

/* One member at a time has a value that nobody of good will would write. */
static void a_hostile_head_is_refused(void **state)
{
	static const struct {
		size_t offset;
		uint32_t value;
	} cases[] = {
#define BAD(member, value) { offsetof(struct ub_ledger, member), (value) }
		BAD(magic, 0),
		BAD(magic, 0x6467726c),
		BAD(version, 0),
		BAD(nr_queues, 0),
		BAD(nr_queues, 3),
		BAD(nr_queues, UINT32_MAX),
		BAD(nr_slots, 0),
		BAD(nr_slots, 11),
		BAD(nr_slots, UINT32_MAX),
		BAD(nr_ranges, 0),
		BAD(nr_ranges, 1),
		BAD(nr_ranges, 100000),
		BAD(nr_ranges, (1U << 20) + 1),
		BAD(nr_ranges, UINT32_MAX),
		BAD(nr_conns, 0),
		BAD(nr_conns, 10000),
		BAD(nr_conns, UB_LEDGER_NO_CONN),
		BAD(nr_conns, UINT32_MAX),
		BAD(head_bytes, 0),
		BAD(head_bytes, 64),
		BAD(head_bytes, 4095),
		BAD(head_bytes, 4097),
		BAD(head_bytes, 1U << 16),
		BAD(head_bytes, UINT32_MAX - 63),
		BAD(conn_bytes, 0),
		BAD(conn_bytes, 63),
		BAD(conn_bytes, 65),
		BAD(conn_bytes, 1U << 16),
		BAD(conn_bytes, UINT32_MAX - 7),
		BAD(range_bytes, 0),
		BAD(range_bytes, 56),
		BAD(range_bytes, 65),
		BAD(range_bytes, UINT32_MAX - 7),
		BAD(sent_bytes, 0),
		BAD(sent_bytes, 24),
		BAD(sent_bytes, 33),
		BAD(sent_bytes, UINT32_MAX - 7),
#undef BAD
	};
	struct ub_ledger good = { 0 };
	size_t len = ub_ledger_bytes(2, 10);

	(void)state;
	ub_ledger_init(&good, 2, 10);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ub_ledger page = good;

		memcpy((char *)&page + cases[i].offset, &cases[i].value, sizeof(cases[i].value));
		if (ub_ledger_check(&page, len, 2, 10) != -EPROTO)
			fail_msg("case %zu is accepted", i);
	}
	for (size_t short_len = 0; short_len < len; short_len += 4096)
		assert_int_equal(ub_ledger_check(&good, short_len, 2, 10), -EPROTO);
}

static void sides_that_overflow_are_refused(void **state)
{
	static const uint64_t sizes[] = { 0,
					  4096,
					  UINT64_MAX,
					  UINT64_MAX - 4095,
					  UINT64_MAX / 2 + 1,
					  UINT64_MAX / 2 - 2047,
					  1ULL << 63,
					  (1ULL << 63) - 2048,
					  1ULL << 62 };
	struct ub_ledger page = { 0 };
	size_t len = ub_ledger_bytes(2, 10);

	(void)state;
	ub_ledger_init(&page, 2, 10);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		page.side_bytes = sizes[i];
		if (ub_ledger_check(&page, len, 2, 10) != -EPROTO)
			fail_msg("a side of %llu bytes", (unsigned long long)sizes[i]);
	}
	ub_ledger_init(&page, 2, 10);
	page.side_bytes += 4; /* its counters would lie anywhere */
	assert_int_equal(ub_ledger_check(&page, len + 8, 2, 10), -EPROTO);
}

/* Whatever the head says: what is accepted lies within the page. */
static void what_is_accepted_lies_within_the_page(void **state)
{
	uint64_t seed = 4711;
	size_t len = ub_ledger_bytes(2, 10);
	unsigned nr_good = 0;

	(void)state;
	for (unsigned i = 0; i < 300000; i++) {
		struct ub_ledger page = { 0 };
		uint32_t *members[] = { &page.nr_ranges,  &page.nr_conns,    &page.head_bytes,
					&page.conn_bytes, &page.range_bytes, &page.sent_bytes };

		ub_ledger_init(&page, 2, 10);
		for (unsigned k = unit_random(&seed) % 3; k < 3; k++) {
			uint32_t *member = members[unit_random(&seed) % 6];

			*member += (uint32_t)(unit_random(&seed) % 65) * 8 - 256;
			if (unit_random(&seed) % 64 == 0)
				*member = (uint32_t)unit_random(&seed);
		}
		if (unit_random(&seed) % 8 == 0)
			page.side_bytes = unit_random(&seed) % 4 ? page.side_bytes - 4096 :
								   unit_random(&seed);
		if (ub_ledger_check(&page, len, 2, 10) < 0)
			continue;
		nr_good++;
		assert_true((uintptr_t)(ub_ledger_sent(&page, 1, 1, 9) + 1) <=
			    (uintptr_t)&page + len);
		assert_true((uintptr_t)(ub_ledger_sent(&page, 0, 1, 9) + 1) <=
			    (uintptr_t)ub_ledger_side(&page, 1));
	}
	assert_true(nr_good > 1000);
}

/* ---- a fence over a small ledger ----------------------------------------- */

struct small {
	struct ub_ledger *page;
	struct ub_fence f;
	uint64_t now_ms;
	int32_t pid;
};

static void small_start(struct small *s, bool comes_again)
{
	ub_fence_init(&s->f, s->page, 0, 0, ++s->pid);
	ub_fence_set_timeout(&s->f, T);
	ub_fence_inherit(&s->f, comes_again, s->now_ms);
}

static int setup(void **state)
{
	struct small *s = calloc(1, sizeof(*s));
	size_t len;

	assert_non_null(s);
	s->page = page_make(NR_QUEUES, NR_SLOTS, &len);
	s->page->nr_ranges = NR_RANGES;
	s->page->nr_conns = NR_CONNS;
	assert_int_equal(ub_ledger_check(s->page, len, NR_QUEUES, NR_SLOTS), 0);
	s->now_ms = 1000;
	s->pid = 100;
	small_start(s, true);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct small *s = *state;

	free(s->page);
	free(s);
	return 0;
}

/* The owner of slot i is i + 1. */
static struct ub_ledger_sent *small_rec(const struct small *s, unsigned i)
{
	return ub_ledger_sent(s->page, 0, i / NR_SLOTS, i % NR_SLOTS);
}

static int small_open(struct small *s)
{
	int conn = ub_fence_open(&s->f, UB_CONN_TCP, 7);

	assert_true(conn >= 0);
	return conn;
}

static void small_send(struct small *s, unsigned i, int conn, uint64_t start, uint64_t len_bytes)
{
	ub_fence_send(small_rec(s, i), conn, UB_OP_WRITE, start, len_bytes);
}

/* A change of slot i that was never answered. The connection's index. */
static int small_range(struct small *s, unsigned i, uint64_t start, uint64_t len_bytes)
{
	int conn = small_open(s);

	small_send(s, i, conn, start, len_bytes);
	ub_fence_lose(&s->f, conn, false);
	ub_fence_give_up(&s->f, small_rec(s, i), i + 1);
	return conn;
}

static void small_prove(struct small *s)
{
	ub_fence_prove(&s->f, atomic_load(&s->f.seq), s->now_ms);
}

static unsigned small_look(struct small *s)
{
	struct ub_fence_late late;

	return ub_fence_look(&s->f, s->now_ms, &late);
}

static bool is_newer_let_pass(struct small *s, uint64_t start, uint64_t len_bytes)
{
	return ub_fence_may_pass(&s->f, 99, false, start, len_bytes);
}

static unsigned nr_conns_in_use(const struct small *s)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < NR_CONNS; i++)
		nr += atomic_load(&ub_ledger_conn(s->page, 0, i)->state) != UB_CONN_FREE;
	return nr;
}

static const struct ub_ledger_range *the_range(const struct small *s)
{
	unsigned nr = 0, the = 0;

	for (unsigned i = 0; i < NR_RANGES; i++) {
		if (atomic_load(&ub_ledger_range(s->page, 0, i)->state) == UB_RANGE_FREE)
			continue;
		the = i;
		nr++;
	}
	assert_int_equal(nr, 1);
	return ub_ledger_range(s->page, 0, the);
}

/* ---- who waits ----------------------------------------------------------- */

static void without_a_range_nobody_waits(void **state)
{
	struct small *s = *state;
	int conn = small_open(s);

	small_send(s, 0, conn, 0, BLOCK);
	assert_int_equal(s->f.nr_live, 0);
	assert_true(is_newer_let_pass(s, 0, BLOCK)); /* beside it, in flight */
	ub_fence_answer(small_rec(s, 0));
	ub_fence_close(&s->f, conn);
	assert_int_equal(nr_conns_in_use(s), 0);
	assert_int_equal(ub_fence_next_ms(&s->f, s->now_ms), UINT64_MAX);
}

static void a_newer_change_that_overlaps_waits(void **state)
{
	struct small *s = *state;

	small_range(s, 0, 4 * BLOCK, 2 * BLOCK);
	assert_int_equal(s->f.nr_live, 1);
	assert_int_equal(ub_ledger_side(s->page, 0)->nr_live, 1);
	assert_false(is_newer_let_pass(s, 4 * BLOCK, BLOCK));
	assert_false(is_newer_let_pass(s, 0, 100 * BLOCK));
	assert_false(is_newer_let_pass(s, 5 * BLOCK, 100 * BLOCK));
	assert_true(is_newer_let_pass(s, 0, 4 * BLOCK));
	assert_true(is_newer_let_pass(s, 6 * BLOCK, BLOCK));
}

static void a_range_counts_from_block_to_block(void **state)
{
	struct small *s = *state;

	small_range(s, 0, 2 * BLOCK + 512, 512);
	assert_false(is_newer_let_pass(s, 2 * BLOCK, 512));
	assert_false(is_newer_let_pass(s, 3 * BLOCK - 512, 512));
	assert_true(is_newer_let_pass(s, 2 * BLOCK - 512, 512));
	assert_true(is_newer_let_pass(s, 3 * BLOCK, 512));
}

static void a_server_s_block_may_be_larger(void **state)
{
	struct small *s = *state;

	small_range(s, 0, 70 * KIB, 512);
	s->f.block_bytes = 64 * KIB;
	assert_false(is_newer_let_pass(s, 64 * KIB, 512));
	assert_false(is_newer_let_pass(s, 128 * KIB - 512, 512));
	assert_true(is_newer_let_pass(s, 64 * KIB - 512, 512));
	assert_true(is_newer_let_pass(s, 128 * KIB, 512));
}

static void a_change_passes_its_own_range(void **state)
{
	struct small *s = *state;

	small_range(s, 0, 512, 512);
	assert_true(ub_fence_may_pass(&s->f, 1, true, 512, 512));
	assert_true(ub_fence_may_pass(&s->f, 1, false, 512, 512));
	assert_false(ub_fence_may_pass(&s->f, 2, false, 512, 512));
	assert_false(ub_fence_may_pass(&s->f, 0, false, 512, 512)); /* of nobody */
}

static void changes_that_are_sent_again_pass_each_other(void **state)
{
	struct small *s = *state;

	small_range(s, 0, 0, 4 * BLOCK);
	small_range(s, 1, 2 * BLOCK, 4 * BLOCK);
	assert_true(ub_fence_may_pass(&s->f, 1, true, 0, 4 * BLOCK));
	assert_true(ub_fence_may_pass(&s->f, 2, true, 2 * BLOCK, 4 * BLOCK));
	ub_fence_done(&s->f, 1);
	assert_true(ub_fence_may_pass(&s->f, 2, true, 2 * BLOCK, 4 * BLOCK));
	assert_false(is_newer_let_pass(s, 0, BLOCK));
}

static void what_is_sent_again_waits_for_what_it_meets_by_rounding(void **state)
{
	struct small *s = *state;

	small_range(s, 0, 0, 512);
	assert_false(ub_fence_may_pass(&s->f, 2, true, 512, 512));
}

/* The old copy would write back what it has read of the rest of the block. */
static void what_is_sent_again_waits_for_what_shares_a_part_of_a_block(void **state)
{
	struct small *s = *state;

	small_range(s, 0, BLOCK + 512, 2 * BLOCK);
	assert_true(ub_fence_may_pass(&s->f, 2, true, BLOCK + 512, 512));
	assert_true(ub_fence_may_pass(&s->f, 2, true, 2 * BLOCK, BLOCK));
	assert_false(ub_fence_may_pass(&s->f, 2, true, BLOCK, 1024));
	assert_false(ub_fence_may_pass(&s->f, 2, true, 0, 2 * BLOCK));
	assert_false(ub_fence_may_pass(&s->f, 2, true, 3 * BLOCK, 1024));
	ub_fence_done(&s->f, 1);
}

static void after_it_is_done_nobody_of_its_own_passes(void **state)
{
	struct small *s = *state;

	small_range(s, 0, 0, BLOCK);
	ub_fence_done(&s->f, 1);
	assert_int_equal(the_range(s)->state, UB_RANGE_DONE);
	assert_false(ub_fence_may_pass(&s->f, 1, false, 0, BLOCK)); /* the slot's next request */
	assert_int_equal(s->f.nr_live, 1);
}

/* ---- the clock ----------------------------------------------------------- */

static void time_counts_from_the_sign_of_life_after_the_reset(void **state)
{
	struct small *s = *state;
	int conn = small_range(s, 0, 0, BLOCK);
	uint32_t before = atomic_load(&s->f.seq);

	small_prove(s); /* it is not reset */
	s->now_ms += 10 * T;
	assert_int_equal(small_look(s), 0);
	ub_fence_reset(&s->f, conn, s->now_ms);
	assert_int_equal(s->f.nr_unproven, 1);
	s->now_ms += 10 * T;
	ub_fence_prove(&s->f, before, s->now_ms); /* of something that was sent before the reset */
	assert_int_equal(s->f.nr_unproven, 1);
	s->now_ms += 10 * T;
	assert_int_equal(small_look(s), 0);
	small_prove(s);
	assert_int_equal(s->f.nr_unproven, 0);
	assert_int_equal(ub_fence_next_ms(&s->f, s->now_ms), T);
	s->now_ms += T - 1;
	assert_int_equal(small_look(s), 0);
	assert_false(is_newer_let_pass(s, 0, BLOCK));
	s->now_ms++;
	assert_int_equal(ub_fence_next_ms(&s->f, s->now_ms), 0);
	assert_int_equal(small_look(s), 1);
	assert_true(is_newer_let_pass(s, 0, BLOCK));
	assert_int_equal(s->f.nr_live, 0);
}

static void a_later_sign_of_life_does_not_start_it_again(void **state)
{
	struct small *s = *state;

	ub_fence_reset(&s->f, small_range(s, 0, 0, BLOCK), s->now_ms);
	small_prove(s);
	s->now_ms += T / 2;
	small_prove(s);
	assert_int_equal(ub_fence_next_ms(&s->f, s->now_ms), T / 2);
}

static void a_connection_s_entry_is_free_once_its_ranges_have_their_clock(void **state)
{
	struct small *s = *state;
	int conn = small_range(s, 0, 0, BLOCK);

	assert_true(ub_fence_is_lost(&s->f, conn));
	assert_int_equal(ub_fence_next_ms(&s->f, s->now_ms), UB_FENCE_POLL_MS);
	ub_fence_reset(&s->f, conn, s->now_ms);
	assert_false(ub_fence_is_lost(&s->f, conn));
	assert_int_equal(nr_conns_in_use(s), 1);
	assert_int_equal(ub_fence_next_ms(&s->f, s->now_ms), UINT64_MAX);
	small_prove(s);
	assert_int_equal(nr_conns_in_use(s), 0);
}

static void a_lost_connection_without_ranges_is_free_when_it_is_reset(void **state)
{
	struct small *s = *state;
	int conn = small_open(s);

	ub_fence_lose(&s->f, conn, false);
	assert_int_equal(nr_conns_in_use(s), 1);
	ub_fence_reset(&s->f, conn, s->now_ms);
	assert_int_equal(nr_conns_in_use(s), 0);
	assert_int_equal(s->f.nr_unproven, 0);
}

static void without_room_there_is_no_connection(void **state)
{
	struct small *s = *state;

	for (unsigned i = 0; i < NR_CONNS; i++)
		small_open(s);
	assert_int_equal(ub_fence_open(&s->f, UB_CONN_TCP, 8), -1);
	ub_fence_close(&s->f, -1);
	assert_false(ub_fence_is_lost(&s->f, -1));
	ub_fence_close(&s->f, 3);
	assert_int_equal(ub_fence_open(&s->f, UB_CONN_TCP, 9), 3);
}

static void another_time_out_counts_for_what_there_is(void **state)
{
	struct small *s = *state;

	ub_fence_reset(&s->f, small_range(s, 0, 0, BLOCK), s->now_ms);
	small_prove(s);
	s->now_ms += T;
	ub_fence_set_timeout(&s->f, 2 * T);
	assert_int_equal(ub_ledger_side(s->page, 0)->timeout_ms, 2 * T);
	assert_int_equal(small_look(s), 0);
	assert_int_equal(ub_fence_next_ms(&s->f, s->now_ms), T);
	ub_fence_set_timeout(&s->f, T);
	assert_int_equal(small_look(s), 1);
}

static void a_time_out_without_end_has_no_next_look(void **state)
{
	struct small *s = *state;

	ub_fence_reset(&s->f, small_range(s, 0, 0, BLOCK), s->now_ms);
	small_prove(s);
	ub_fence_set_timeout(&s->f, UINT64_MAX);
	assert_int_equal(ub_fence_next_ms(&s->f, s->now_ms), UINT64_MAX);
	assert_int_equal(small_look(s), 0);
}

static void with_a_time_out_of_0_there_are_no_ranges(void **state)
{
	struct small *s = *state;

	small_range(s, 0, 0, BLOCK);
	ub_fence_set_timeout(&s->f, 0);
	assert_int_equal(small_look(s), 1);
	small_range(s, 1, 0, BLOCK);
	assert_int_equal(s->f.nr_live, 0);
	assert_int_equal(small_rec(s, 1)->state, UB_SENT_FREE);
}

static void who_waited_until_time_was_over_is_told(void **state)
{
	struct small *s = *state;
	struct ub_fence_late late;

	ub_fence_reset(&s->f, small_range(s, 0, 0, BLOCK), s->now_ms);
	ub_fence_reset(&s->f, small_range(s, 1, 8 * BLOCK, BLOCK), s->now_ms);
	small_prove(s);
	assert_false(is_newer_let_pass(s, 8 * BLOCK, BLOCK));
	s->now_ms += T;
	assert_int_equal(ub_fence_look(&s->f, s->now_ms, &late), 2);
	assert_int_equal(late.nr, 1);
	assert_int_equal(late.start, 8 * BLOCK);
	assert_int_equal(late.end, 9 * BLOCK);
}

/* ---- a close, and the word ----------------------------------------------- */

static void a_close_that_is_trusted_leaves_no_range(void **state)
{
	struct small *s = *state;
	int conn;

	s->f.trusts_close = true;
	conn = small_open(s);
	small_send(s, 0, conn, 0, BLOCK);
	ub_fence_lose(&s->f, conn, true);
	ub_fence_give_up(&s->f, small_rec(s, 0), 1);
	assert_int_equal(s->f.nr_live, 0);
	ub_fence_reset(&s->f, conn, s->now_ms);
	assert_int_equal(nr_conns_in_use(s), 0);
	small_range(s, 0, 0, BLOCK); /* one that was not closed does */
	assert_int_equal(s->f.nr_live, 1);
}

static void a_close_that_is_not_trusted_leaves_one(void **state)
{
	struct small *s = *state;
	int conn = small_open(s);

	small_send(s, 0, conn, 0, BLOCK);
	ub_fence_lose(&s->f, conn, true);
	ub_fence_give_up(&s->f, small_rec(s, 0), 1);
	assert_int_equal(s->f.nr_live, 1);
}

static void the_word_ends_what_was_given_up_until_then(void **state)
{
	struct small *s = *state;
	uint64_t event;

	small_range(s, 0, 0, BLOCK);
	event = ub_ledger_side(s->page, 0)->events;
	assert_int_equal(event, 1);
	small_range(s, 1, 8 * BLOCK, BLOCK);
	assert_int_equal(ub_fence_word(&s->f, event), 1);
	assert_true(is_newer_let_pass(s, 0, BLOCK));
	assert_false(is_newer_let_pass(s, 8 * BLOCK, BLOCK));
	assert_int_equal(ub_fence_word(&s->f, event + 1), 1);
	assert_int_equal(s->f.nr_live, 0);
}

static void a_death_is_an_event_of_its_own(void **state)
{
	struct small *s = *state;
	uint64_t event;

	small_range(s, 0, 0, BLOCK);
	small_send(s, 1, small_open(s), 8 * BLOCK, BLOCK);
	event = ub_ledger_side(s->page, 0)->events;
	small_start(s, true);
	assert_int_equal(ub_fence_word(&s->f, event), 1);
	assert_false(is_newer_let_pass(s, 8 * BLOCK, BLOCK));
}

/* ---- a full table -------------------------------------------------------- */

static void fill_table(struct small *s, int conn)
{
	small_send(s, 0, conn, 0, BLOCK);
	ub_fence_lose(&s->f, conn, false);
	ub_fence_give_up(&s->f, small_rec(s, 0), 1);
	for (unsigned i = 1; i < NR_RANGES; i++) {
		small_send(s, i % 8, conn, (100 * i + i) * BLOCK, BLOCK);
		ub_fence_give_up(&s->f, small_rec(s, i % 8), 1);
	}
	assert_int_equal(s->f.nr_live, NR_RANGES);
}

static void a_full_table_makes_one_of_the_two_nearest(void **state)
{
	struct small *s = *state;

	fill_table(s, small_open(s));
	/* Of those that were there before it came the two nearest are 0 and 101. */
	small_range(s, 2, 103 * BLOCK, BLOCK);
	assert_int_equal(s->f.nr_live, NR_RANGES);
	assert_false(is_newer_let_pass(s, 50 * BLOCK, BLOCK));
	assert_false(is_newer_let_pass(s, 0, BLOCK));
	assert_false(is_newer_let_pass(s, 103 * BLOCK, BLOCK));
	assert_true(is_newer_let_pass(s, 150 * BLOCK, BLOCK));
	assert_false(is_newer_let_pass(s, 707 * BLOCK, BLOCK));
}

/*
 * The deepest queue, full, lost again and again with other changes: under a lock that all queues
 * take.
 */
static void losses_of_many_changes_do_not_take_long(void **state)
{
	enum { DEPTH = 8192, LOSSES = 4 };
	uint64_t seed = 7, began = ub_now_ms();
	size_t len_bytes;
	struct ub_ledger *page = page_make(1, DEPTH, &len_bytes);
	static struct ub_fence f;

	(void)state;
	ub_fence_init(&f, page, 0, BLOCK, 1);
	ub_fence_set_timeout(&f, T);
	ub_fence_inherit(&f, false, 1);
	for (unsigned loss = 0; loss < LOSSES; loss++) {
		int conn = ub_fence_open(&f, UB_CONN_TCP, loss + 1);

		for (unsigned i = 0; i < DEPTH; i++)
			ub_fence_send(ub_ledger_sent(page, 0, 0, i), conn, UB_OP_WRITE,
				      unit_random(&seed) % (1U << 28) * BLOCK, BLOCK);
		ub_fence_lose(&f, conn, false);
		for (unsigned i = 0; i < DEPTH; i++)
			ub_fence_give_up(&f, ub_ledger_sent(page, 0, 0, i), i + 1);
		ub_fence_reset(&f, conn, 1 + loss);
	}
	assert_int_equal(f.nr_live, UB_LEDGER_MAX_RANGES); /* it was full */
	/* a second, on a machine that has nothing else to do */
	assert_true(ub_now_ms() - began < 20000);
	free(page);
}

static void what_is_merged_lets_nobody_pass(void **state)
{
	struct small *s = *state;

	fill_table(s, small_open(s));
	small_range(s, 2, 900 * BLOCK, BLOCK);
	assert_false(ub_fence_may_pass(&s->f, 1, true, 0, BLOCK));
	assert_true(ub_fence_may_pass(&s->f, 1, true, 202 * BLOCK, BLOCK));
	small_start(s, true);
	assert_false(ub_fence_claim(&s->f, 5, UB_OP_WRITE, 0, 102 * BLOCK));
}

/* Two ranges of two connections, as one. */
static const struct ub_ledger_range *merge_two(struct small *s, int *first, int *second)
{
	unsigned the = 0;

	s->page->nr_ranges = 2;
	*first = small_range(s, 0, 0, BLOCK);
	*second = small_range(s, 1, 2 * BLOCK, BLOCK);
	small_range(s, 2, 100 * BLOCK, BLOCK);
	for (unsigned i = 0; i < 2; i++) {
		if (ub_ledger_range(s->page, 0, i)->end == 3 * BLOCK)
			the = i;
	}
	assert_int_equal(ub_ledger_range(s->page, 0, the)->start, 0);
	assert_int_equal(ub_ledger_range(s->page, 0, the)->end, 3 * BLOCK);
	return ub_ledger_range(s->page, 0, the);
}

static void what_is_merged_waits_for_every_clock(void **state)
{
	struct small *s = *state;
	int first, second;
	const struct ub_ledger_range *r = merge_two(s, &first, &second);

	assert_int_equal(r->event, 2);
	ub_fence_reset(&s->f, second, s->now_ms);
	small_prove(s);
	assert_int_equal(r->clock_ms, 0);
	ub_fence_reset(&s->f, first, s->now_ms);
	assert_int_equal(r->clock_ms, 0);
	small_prove(s);
	assert_int_equal(r->clock_ms, 0); /* the third is lost, and not reset */
	ub_fence_reset(&s->f, 2, s->now_ms);
	s->now_ms++;
	small_prove(s);
	assert_int_equal(r->clock_ms, s->now_ms);
	assert_int_equal(nr_conns_in_use(s), 0);
	s->now_ms += T;
	assert_int_equal(small_look(s), 2);
}

static void of_two_clocks_that_run_the_later_counts(void **state)
{
	struct small *s = *state;

	s->page->nr_ranges = 2;
	ub_fence_reset(&s->f, small_range(s, 0, 0, BLOCK), s->now_ms);
	small_prove(s);
	s->now_ms += 100;
	ub_fence_reset(&s->f, small_range(s, 1, 2 * BLOCK, BLOCK), s->now_ms);
	small_prove(s);
	small_range(s, 2, 100 * BLOCK, BLOCK);
	s->now_ms += T - 1;
	assert_int_equal(small_look(s), 0);
	s->now_ms++;
	assert_int_equal(small_look(s), 1);
}

static void the_word_before_one_of_them_does_not_end_what_is_merged(void **state)
{
	struct small *s = *state;
	int first, second;

	merge_two(s, &first, &second);
	assert_int_equal(ub_fence_word(&s->f, 1), 0);
	assert_int_equal(ub_fence_word(&s->f, 2), 1);
}

/* ---- deaths of ours ------------------------------------------------------ */

static void what_a_dead_process_had_in_flight_becomes_ranges(void **state)
{
	struct small *s = *state;

	small_send(s, 0, small_open(s), 0, BLOCK);
	small_start(s, true);
	assert_int_equal(s->f.nr_live, 1);
	assert_int_equal(s->f.nr_claimable, 1);
	assert_int_equal(small_rec(s, 0)->state, UB_SENT_FREE);
	assert_false(is_newer_let_pass(s, 0, BLOCK));
	assert_int_equal(s->f.nr_unproven, 1);
	s->now_ms += 10 * T;
	assert_int_equal(small_look(s), 0);
	small_prove(s); /* the last close of its connection was a reset */
	s->now_ms += T;
	assert_int_equal(small_look(s), 1);
	assert_int_equal(nr_conns_in_use(s), 0);
}

static void a_request_that_covers_an_inherited_range_passes_it_once(void **state)
{
	struct small *s = *state;

	small_send(s, 0, small_open(s), BLOCK, BLOCK);
	small_start(s, true);
	assert_false(ub_fence_claim(&s->f, 3, UB_OP_WRITE, BLOCK, 512));
	assert_false(ub_fence_claim(&s->f, 3, UB_OP_WRITE, 2 * BLOCK, BLOCK));
	assert_true(ub_fence_claim(&s->f, 4, UB_OP_WRITE, 0, 3 * BLOCK)); /* merged */
	assert_true(ub_fence_may_pass(&s->f, 4, false, 0, 3 * BLOCK));
	assert_false(ub_fence_claim(&s->f, 5, UB_OP_WRITE, BLOCK, BLOCK));
	assert_false(ub_fence_may_pass(&s->f, 5, false, BLOCK, BLOCK));
	ub_fence_done(&s->f, 4);
	assert_int_equal(the_range(s)->state, UB_RANGE_DONE);
	assert_int_equal(s->f.nr_live, 1);
	small_start(s, true);
	assert_int_equal(s->f.nr_claimable, 0);
	assert_false(ub_fence_claim(&s->f, 6, UB_OP_WRITE, 0, 3 * BLOCK));
}

static void another_operation_is_not_the_same_change(void **state)
{
	struct small *s = *state;

	small_send(s, 0, small_open(s), 0, BLOCK);
	small_start(s, true);
	assert_false(ub_fence_claim(&s->f, 4, UB_OP_DISCARD, 0, BLOCK));
	assert_false(ub_fence_may_pass(&s->f, 4, false, 0, BLOCK));
}

/* The old copy would write back what it has read of the rest of the block. */
static void who_covers_a_part_of_a_block_waits_though_it_claims(void **state)
{
	struct small *s = *state;

	small_send(s, 0, small_open(s), 512, 512);
	small_start(s, true);
	assert_true(ub_fence_claim(&s->f, 4, UB_OP_WRITE, 0, 1024));
	assert_false(ub_fence_may_pass(&s->f, 4, false, 0, 1024));
	ub_fence_done(&s->f, 4);
	assert_int_equal(the_range(s)->state, UB_RANGE_DONE);
}

static void what_was_claimed_can_be_claimed_after_the_next_death(void **state)
{
	struct small *s = *state;

	small_send(s, 0, small_open(s), 0, BLOCK);
	small_start(s, true);
	assert_true(ub_fence_claim(&s->f, 4, UB_OP_WRITE, 0, BLOCK));
	small_start(s, true);
	assert_false(ub_fence_may_pass(&s->f, 4, false, 0, BLOCK)); /* a slot is no request */
	assert_true(ub_fence_claim(&s->f, 1, UB_OP_WRITE, 0, BLOCK));
	assert_true(ub_fence_may_pass(&s->f, 1, false, 0, BLOCK));
}

/*
 * A newer request claims what is another one's. That one comes, waits, and is given back with an
 * error; the process dies. Who comes then is newer than the old copy.
 */
static void what_two_have_come_for_nobody_claims_after_the_next_death(void **state)
{
	struct small *s = *state;

	small_send(s, 0, small_open(s), 0, BLOCK);
	small_start(s, true);
	assert_true(ub_fence_claim(&s->f, 4, UB_OP_WRITE, 0, 2 * BLOCK));
	assert_int_equal(s->f.nr_claimable, 1);
	assert_false(ub_fence_claim(&s->f, 5, UB_OP_WRITE, 0, BLOCK));
	assert_true(ub_fence_may_pass(&s->f, 4, false, 0, 2 * BLOCK));
	assert_false(ub_fence_may_pass(&s->f, 5, false, 0, BLOCK));
	ub_fence_done(&s->f, 5);
	small_start(s, true);
	assert_int_equal(s->f.nr_claimable, 0);
	assert_false(ub_fence_claim(&s->f, 6, UB_OP_WRITE, 0, BLOCK));
	assert_false(ub_fence_may_pass(&s->f, 6, false, 0, BLOCK));
}

static void where_nothing_comes_again_nobody_claims(void **state)
{
	struct small *s = *state;

	small_range(s, 0, 0, BLOCK);
	small_send(s, 1, small_open(s), 8 * BLOCK, BLOCK);
	s->pid--; /* the next back end of the same process */
	small_start(s, false);
	assert_int_equal(s->f.nr_claimable, 0);
	assert_int_equal(s->f.nr_live, 2);
	small_start(s, true); /* of that one it does not come either */
	assert_int_equal(s->f.nr_claimable, 0);
	assert_false(ub_fence_claim(&s->f, 4, UB_OP_WRITE, 0, 16 * BLOCK));
	small_prove(s);
	s->now_ms += T;
	assert_int_equal(small_look(s), 2);
	assert_int_equal(nr_conns_in_use(s), 0);
}

static void what_the_dead_process_gave_up_goes_on(void **state)
{
	struct small *s = *state;

	ub_fence_reset(&s->f, small_range(s, 0, 0, BLOCK), s->now_ms);
	small_prove(s);
	s->now_ms += T / 2;
	small_start(s, true);
	assert_int_equal(ub_fence_next_ms(&s->f, s->now_ms), T / 2);
	assert_int_equal(s->f.nr_claimable, 1);
	assert_true(ub_fence_claim(&s->f, 1, UB_OP_WRITE, 0, BLOCK));
	s->now_ms += T / 2;
	small_start(s, true); /* over while nobody was there */
	assert_int_equal(s->f.nr_live, 0);
}

static void what_the_keeper_has_not_reset_has_no_clock(void **state)
{
	struct small *s = *state;
	struct ub_ledger_conn *c;
	int conn = small_open(s);
	uint32_t before;

	small_send(s, 0, conn, 0, BLOCK);
	c = ub_ledger_conn(s->page, 0, (unsigned)conn);
	atomic_store(&c->state, UB_CONN_LOST); /* a socket of AF_UNIX, and its queue is full */
	small_start(s, true);
	small_prove(s);
	assert_int_equal(ub_fence_next_ms(&s->f, s->now_ms), UB_FENCE_POLL_MS);
	s->now_ms += 10 * T;
	assert_int_equal(small_look(s), 0);
	before = atomic_load(&s->f.seq);
	atomic_store(&c->state, UB_CONN_RESET);
	ub_fence_prove(&s->f, before, s->now_ms); /* not seen yet */
	assert_int_equal(small_look(s), 0);
	assert_int_equal(s->f.nr_unproven, 1);
	ub_fence_prove(&s->f, before, s->now_ms); /* sent before that was seen */
	assert_int_equal(s->f.nr_unproven, 1);
	small_prove(s);
	s->now_ms += T;
	assert_int_equal(small_look(s), 1);
	assert_int_equal(nr_conns_in_use(s), 0);
}

static void a_close_that_the_keeper_has_seen_is_trusted_too(void **state)
{
	struct small *s = *state;
	struct ub_ledger_conn *c;
	int conn = small_open(s);

	small_send(s, 0, conn, 0, BLOCK);
	small_send(s, 1, small_open(s), 8 * BLOCK, BLOCK);
	c = ub_ledger_conn(s->page, 0, (unsigned)conn);
	atomic_fetch_or(&c->flags, UB_CONN_CLOSED);
	atomic_store(&c->state, UB_CONN_RESET);
	ub_fence_init(&s->f, s->page, 0, 0, ++s->pid);
	ub_fence_set_timeout(&s->f, T);
	s->f.trusts_close = true;
	ub_fence_inherit(&s->f, true, s->now_ms);
	assert_int_equal(the_range(s)->start, 8 * BLOCK);
	assert_int_equal(nr_conns_in_use(s), 1);
}

static void where_nobody_knows_the_whole_device_waits(void **state)
{
	struct small *s = *state;
	struct ub_fence other;

	s->page->is_blind = 1;
	small_start(s, true);
	assert_int_equal(s->page->is_blind, 0);
	assert_int_equal(s->f.nr_claimable, 0);
	assert_false(is_newer_let_pass(s, 0, 512));
	assert_false(is_newer_let_pass(s, 1ULL << 62, BLOCK));
	assert_false(ub_fence_claim(&s->f, 1, UB_OP_WRITE, 0, UINT64_MAX));
	ub_fence_init(&other, s->page, 1, 0, s->pid); /* and on the other side */
	ub_fence_set_timeout(&other, T);
	ub_fence_inherit(&other, false, s->now_ms);
	assert_int_equal(other.nr_live, 1);
	assert_false(ub_fence_may_pass(&other, 1, false, 1ULL << 40, BLOCK));
	s->now_ms += 10 * T;
	assert_int_equal(small_look(s), 0);
	small_prove(s);
	ub_fence_prove(&other, other.seq, s->now_ms);
	s->now_ms += T;
	assert_int_equal(small_look(s), 1);
	assert_int_equal(ub_fence_look(&other, s->now_ms, NULL), 1);
	assert_int_equal(nr_conns_in_use(s), 0);
}

/* A later program knew more connections than this one: what they left ends all the same. */
static void a_range_of_a_connection_that_we_do_not_know_ends(void **state)
{
	struct small *s = *state;
	struct ub_ledger_range *r;

	ub_fence_reset(&s->f, small_range(s, 0, 0, BLOCK), s->now_ms);
	for (unsigned i = 0; i < NR_RANGES; i++) {
		r = ub_ledger_range(s->page, 0, i);
		if (r->state == UB_RANGE)
			r->conn = 300;
	}
	small_send(s, 1, 400, 8 * BLOCK, BLOCK);
	small_start(s, true);
	assert_int_equal(s->f.nr_live, 2);
	assert_int_equal(s->f.nr_unproven, 3);
	small_prove(s);
	s->now_ms += T;
	assert_int_equal(small_look(s), 2);
	assert_int_equal(nr_conns_in_use(s), 0);
}

/* ---- what may not be ----------------------------------------------------- */

static void lose_twice(void *arg)
{
	struct small *s = arg;

	ub_fence_lose(&s->f, small_range(s, 0, 0, BLOCK), false);
}

static void give_up_after_reset(void *arg)
{
	struct small *s = arg;
	int conn = small_open(s);

	small_send(s, 0, conn, 0, BLOCK);
	ub_fence_lose(&s->f, conn, false);
	ub_fence_reset(&s->f, conn, s->now_ms);
	ub_fence_give_up(&s->f, small_rec(s, 0), 1);
}

static void give_up_what_was_sent_nowhere(void *arg)
{
	struct small *s = arg;

	small_send(s, 0, -1, 0, BLOCK);
	ub_fence_give_up(&s->f, small_rec(s, 0), 1);
}

static void give_up_for_nobody(void *arg)
{
	struct small *s = arg;
	int conn = small_open(s);

	small_send(s, 0, conn, 0, BLOCK);
	ub_fence_lose(&s->f, conn, false);
	ub_fence_give_up(&s->f, small_rec(s, 0), 0);
}

static void orders_that_may_not_be_trip_an_assertion(void **state)
{
	assert_true(unit_aborts(lose_twice, *state));
	assert_true(unit_aborts(give_up_after_reset, *state));
	assert_true(unit_aborts(give_up_what_was_sent_nowhere, *state));
	assert_true(unit_aborts(give_up_for_nobody, *state));
}

#define fence_test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_ledger_is_one_that_we_can_use),
		cmocka_unit_test(a_device_that_cannot_be_has_no_ledger),
		cmocka_unit_test(records_lie_one_behind_the_other),
		cmocka_unit_test(records_of_a_later_program_are_larger),
		cmocka_unit_test(a_hostile_head_is_refused),
		cmocka_unit_test(sides_that_overflow_are_refused),
		cmocka_unit_test(what_is_accepted_lies_within_the_page),
		fence_test(without_a_range_nobody_waits),
		fence_test(a_newer_change_that_overlaps_waits),
		fence_test(a_range_counts_from_block_to_block),
		fence_test(a_server_s_block_may_be_larger),
		fence_test(a_change_passes_its_own_range),
		fence_test(changes_that_are_sent_again_pass_each_other),
		fence_test(what_is_sent_again_waits_for_what_it_meets_by_rounding),
		fence_test(what_is_sent_again_waits_for_what_shares_a_part_of_a_block),
		fence_test(after_it_is_done_nobody_of_its_own_passes),
		fence_test(time_counts_from_the_sign_of_life_after_the_reset),
		fence_test(a_later_sign_of_life_does_not_start_it_again),
		fence_test(a_connection_s_entry_is_free_once_its_ranges_have_their_clock),
		fence_test(a_lost_connection_without_ranges_is_free_when_it_is_reset),
		fence_test(without_room_there_is_no_connection),
		fence_test(another_time_out_counts_for_what_there_is),
		fence_test(a_time_out_without_end_has_no_next_look),
		fence_test(with_a_time_out_of_0_there_are_no_ranges),
		fence_test(who_waited_until_time_was_over_is_told),
		fence_test(a_close_that_is_trusted_leaves_no_range),
		fence_test(a_close_that_is_not_trusted_leaves_one),
		fence_test(the_word_ends_what_was_given_up_until_then),
		fence_test(a_death_is_an_event_of_its_own),
		fence_test(a_full_table_makes_one_of_the_two_nearest),
		cmocka_unit_test(losses_of_many_changes_do_not_take_long),
		fence_test(what_is_merged_lets_nobody_pass),
		fence_test(what_is_merged_waits_for_every_clock),
		fence_test(of_two_clocks_that_run_the_later_counts),
		fence_test(the_word_before_one_of_them_does_not_end_what_is_merged),
		fence_test(what_a_dead_process_had_in_flight_becomes_ranges),
		fence_test(a_request_that_covers_an_inherited_range_passes_it_once),
		fence_test(another_operation_is_not_the_same_change),
		fence_test(who_covers_a_part_of_a_block_waits_though_it_claims),
		fence_test(what_was_claimed_can_be_claimed_after_the_next_death),
		fence_test(what_two_have_come_for_nobody_claims_after_the_next_death),
		fence_test(where_nothing_comes_again_nobody_claims),
		fence_test(what_the_dead_process_gave_up_goes_on),
		fence_test(what_the_keeper_has_not_reset_has_no_clock),
		fence_test(a_close_that_the_keeper_has_seen_is_trusted_too),
		fence_test(where_nobody_knows_the_whole_device_waits),
		fence_test(a_range_of_a_connection_that_we_do_not_know_ends),
		fence_test(orders_that_may_not_be_trip_an_assertion),
	};

	return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
