/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How fast a copier goes: over links of a rate and a latency that exist as arithmetic alone. Pieces
 * go over the link one after the other, and all at once over its latency.
 */
#include "unit.h"

#include "backend/mirror/pace.h"

#define MS	   1000000ULL
#define S	   (1000 * MS)
#define MAX_WINDOW 14
#define WHOLE	   (256U << 10)
#define SMALL	   (16U << 10)

struct link {
	struct ub_pace pace;
	uint64_t rate_bytes, latency_ns;
	uint64_t jitter_ns, seed; /* so much more latency at the most */
	uint64_t piece_bytes;
	bool is_busy;

	uint64_t now_ns, free_ns; /* the link is free then */
	uint64_t began_ns[MAX_WINDOW], ends_ns[MAX_WINDOW];
	unsigned nr;		   /* in flight: the first ends first */
	unsigned most;		   /* were at a time */
	uint64_t bytes, waited_ns; /* sent; for the longest, behind others */
};

static void link_make(struct link *l, uint64_t rate_bytes, uint64_t latency_ns)
{
	*l = (struct link){ .rate_bytes = rate_bytes,
			    .latency_ns = latency_ns,
			    .piece_bytes = WHOLE,
			    .now_ns = S,
			    .seed = 88172645463325252ULL };
	ub_pace_init(&l->pace, MAX_WINDOW);
	ub_pace_set_latency(&l->pace, latency_ns);
}

static void link_begin(struct link *l)
{
	uint64_t from = l->free_ns > l->now_ns ? l->free_ns : l->now_ns, ends;
	unsigned at = l->nr;

	assert_true(l->nr < MAX_WINDOW);
	if (from - l->now_ns > l->waited_ns)
		l->waited_ns = from - l->now_ns;
	l->free_ns = from + l->piece_bytes * S / l->rate_bytes;
	ends = l->free_ns + l->latency_ns +
	       (l->jitter_ns ? unit_random(&l->seed) % l->jitter_ns : 0);
	for (; at && l->ends_ns[at - 1] > ends; at--) {
		l->began_ns[at] = l->began_ns[at - 1];
		l->ends_ns[at] = l->ends_ns[at - 1];
	}
	l->began_ns[at] = l->now_ns;
	l->ends_ns[at] = ends;
	l->nr++;
	l->most = l->nr > l->most ? l->nr : l->most;
	ub_pace_begin(&l->pace, l->now_ns, l->is_busy, (uint32_t)l->piece_bytes);
}

static void link_end(struct link *l)
{
	l->now_ns = l->ends_ns[0];
	ub_pace_end(&l->pace, l->began_ns[0], l->now_ns, l->is_busy, true);
	l->bytes += l->piece_bytes;
	l->nr--;
	memmove(l->began_ns, l->began_ns + 1, l->nr * sizeof(l->began_ns[0]));
	memmove(l->ends_ns, l->ends_ns + 1, l->nr * sizeof(l->ends_ns[0]));
}

/* Bytes a second. */
static uint64_t link_run(struct link *l, uint64_t ns)
{
	uint64_t since_ns = l->now_ns, until_ns = since_ns + ns, bytes = l->bytes;

	l->most = 0;
	l->waited_ns = 0;
	while (l->now_ns < until_ns) {
		uint64_t wait_ns;

		if (ub_pace_may_begin(&l->pace, l->now_ns, l->nr, l->is_busy, &wait_ns)) {
			link_begin(l);
		} else if (wait_ns && (!l->nr || l->now_ns + wait_ns < l->ends_ns[0])) {
			l->now_ns += wait_ns;
		} else {
			assert_true(l->nr > 0); /* else nobody would ever go on */
			link_end(l);
		}
	}
	return (l->bytes - bytes) * 1000 / ((l->now_ns - since_ns) / MS + 1);
}

static void link_empty(struct link *l)
{
	while (l->nr)
		link_end(l);
}

static void link_be_busy(struct link *l, bool is_busy)
{
	link_empty(l);
	l->is_busy = is_busy;
	l->piece_bytes = is_busy ? SMALL : WHOLE;
}

static void assert_between(uint64_t value, uint64_t least, uint64_t most)
{
	if (value < least || value > most)
		fail_msg("%llu is not from %llu to %llu", (unsigned long long)value,
			 (unsigned long long)least, (unsigned long long)most);
}

static void alone_a_link_is_full(void **state)
{
	static const uint64_t rates[] = { 1000000, 12000000, 110000000, 3000000000 };
	struct link l;

	(void)state;
	for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		link_make(&l, rates[i], MS / 5);
		link_run(&l, S);
		assert_between(link_run(&l, 10 * S), rates[i] / 100 * 90,
			       rates[i] + rates[i] / 100);
	}
}

static void a_distant_link_is_full_of_as_much_as_there_may_be(void **state)
{
	struct link l;

	(void)state;
	link_make(&l, 1000000000, 100 * MS);
	link_run(&l, 5 * S);
	assert_between(link_run(&l, 5 * S), 30000000, 40000000); /* 14 pieces in 100 ms */
	assert_int_equal(l.most, MAX_WINDOW);
}

static void a_latency_that_varies_is_no_queue(void **state)
{
	struct link l;

	(void)state;
	link_make(&l, 1000000000, 2 * MS);
	l.jitter_ns = 40 * MS;
	link_run(&l, 5 * S);
	assert_between(link_run(&l, 10 * S), 120000000, 200000000); /* 14 pieces in 22 ms: 166 */
	assert_int_equal(l.most, MAX_WINDOW);
}

static void pieces_do_not_wait_long_for_each_other(void **state)
{
	struct link l;

	(void)state;
	link_make(&l, 20000000, MS); /* 13 ms a piece: all of them would be 180 */
	link_run(&l, S);
	link_run(&l, 20 * S);
	assert_between(l.waited_ns, MS, 130 * MS);
	link_make(&l, 1000000000, MS);
	link_run(&l, S);
	link_run(&l, 20 * S);
	assert_between(l.waited_ns, 0, 12 * MS);
}

static void a_link_that_gets_slower_is_noticed(void **state)
{
	struct link l;

	(void)state;
	link_make(&l, 1000000000, MS);
	link_run(&l, 5 * S);
	l.rate_bytes = 20000000;
	link_run(&l, 15 * S);
	link_run(&l, 5 * S);
	assert_between(l.waited_ns, MS, 130 * MS);
	l.rate_bytes = 1000000000;
	link_run(&l, 5 * S);
	assert_between(link_run(&l, 5 * S), 900000000, 1010000000);
}

static void beside_an_application_a_part_of_the_time_is_taken(void **state)
{
	struct link l;
	uint64_t rate;

	(void)state;
	link_make(&l, 100000000, 0);
	link_be_busy(&l, true);
	rate = link_run(&l, 10 * S);
	assert_between(rate, 100000000 / UB_PACE_SHARE * 9 / 10,
		       100000000 / UB_PACE_SHARE * 11 / 10);
	assert_int_equal(l.most, 1);
}

static void a_latency_costs_nobody_anything(void **state)
{
	struct link l;
	uint64_t rate;

	(void)state;
	link_make(&l, 100000000, 40 * MS);
	link_be_busy(&l, true);
	link_run(&l, S);
	rate = link_run(&l, 10 * S);
	assert_between(rate, 5000000, 100000000 / UB_PACE_SHARE); /* 14 small pieces in 40 ms */
	assert_true(l.most > 1 && l.most <= MAX_WINDOW);

	ub_pace_set_latency(&l.pace, 0); /* nobody knows of it: it is taken for work */
	link_run(&l, S);
	link_run(&l, 10 * S);
	assert_int_equal(l.most, 1);
}

/* Its I/O is before each piece, for so long that a share of the whole would be next to nothing. */
static void a_busy_application_does_not_stop_the_copy(void **state)
{
	struct link l;

	(void)state;
	link_make(&l, 100000000, 0);
	link_be_busy(&l, true);
	link_run(&l, S); /* 0.16 ms a piece */
	l.jitter_ns = 40 * MS;
	/* one in 20 ms; it would be one in 80 */
	assert_between(link_run(&l, 4 * S), 650000, 1100000);
}

static void a_stall_puts_off_no_more_than_a_moment(void **state)
{
	struct link l;
	uint64_t wait_ns;

	(void)state;
	link_make(&l, 100000000, 0);
	link_be_busy(&l, true);
	link_run(&l, S);
	link_empty(&l);
	ub_pace_begin(&l.pace, l.now_ns, true, SMALL);
	ub_pace_end(&l.pace, l.now_ns, l.now_ns + 30 * S, true, false);
	l.now_ns += 30 * S;
	assert_true(ub_pace_may_begin(&l.pace, l.now_ns, 0, true, &wait_ns)); /* long enough ago */
	ub_pace_begin(&l.pace, l.now_ns, true, SMALL);
	assert_false(ub_pace_may_begin(&l.pace, l.now_ns, 0, true, &wait_ns));
	assert_between(wait_ns, 1, UB_PACE_MAX_WAIT_NS);
	/* alone, nobody is in the way */
	assert_true(ub_pace_may_begin(&l.pace, l.now_ns, 0, false, &wait_ns));
	l.now_ns += UB_PACE_MAX_WAIT_NS;
	link_run(&l, 5 * S);
	assert_between(link_run(&l, 10 * S), 100000000 / UB_PACE_SHARE * 9 / 10,
		       100000000 / UB_PACE_SHARE * 11 / 10);
}

static void alone_again_it_begins_with_little(void **state)
{
	struct link l;
	uint64_t wait_ns;

	(void)state;
	link_make(&l, 1000000000, MS);
	link_run(&l, S);
	link_be_busy(&l, true);
	link_run(&l, S);
	link_be_busy(&l, false);
	assert_true(ub_pace_may_begin(&l.pace, l.now_ns, UB_PACE_MIN_WINDOW - 1, false, &wait_ns));
	assert_false(ub_pace_may_begin(&l.pace, l.now_ns, UB_PACE_MIN_WINDOW, false, &wait_ns));
	assert_int_equal(wait_ns, 0);
	link_run(&l, S);
	assert_between(link_run(&l, S), 900000000, 1010000000);
}

static void a_rate_is_kept(void **state)
{
	static const uint64_t rates[] = { 1, 100000, 5000000, 77000000 };
	struct link l;

	(void)state;
	for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		for (int is_busy = 0; is_busy < 2; is_busy++) {
			uint64_t now;

			link_make(&l, 1000000000, MS);
			link_be_busy(&l, is_busy);
			ub_pace_set_rate(&l.pace, l.now_ns, rates[i]);
			now = l.now_ns;
			link_run(&l, 60 * S);
			link_empty(&l);
			/* What is in flight is paid for, and one piece is begun on credit. */
			assert_true(l.bytes <= rates[i] * ((l.now_ns - now) / MS + 100) / 1000 +
						       l.piece_bytes * 2);
			if (rates[i] > 1)
				assert_true(l.bytes + l.piece_bytes * 2 >=
					    rates[i] * 59 / 100 * 98);
		}
	}
}

static void a_rate_that_is_lifted_holds_nothing_up(void **state)
{
	struct link l;
	uint64_t wait_ns;

	(void)state;
	link_make(&l, 1000000000, MS);
	ub_pace_set_rate(&l.pace, l.now_ns, 1);
	link_begin(&l);
	link_empty(&l);
	assert_false(ub_pace_may_begin(&l.pace, l.now_ns, 0, false, &wait_ns));
	assert_true(wait_ns > 1000 * S);
	ub_pace_set_rate(&l.pace, l.now_ns, 0);
	assert_true(ub_pace_may_begin(&l.pace, l.now_ns, 0, false, &wait_ns));
	ub_pace_set_rate(&l.pace, l.now_ns, 1000000);
	assert_true(ub_pace_may_begin(&l.pace, l.now_ns, 0, false, &wait_ns));
}

static void what_a_rate_allowed_long_ago_is_gone(void **state)
{
	struct link l;

	(void)state;
	link_make(&l, 1000000000, MS);
	ub_pace_set_rate(&l.pace, l.now_ns, 10000000);
	link_run(&l, 5 * S);
	link_empty(&l);
	l.now_ns += 60 * S;
	assert_between(link_run(&l, S), 9000000, 12000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(alone_a_link_is_full),
		cmocka_unit_test(a_distant_link_is_full_of_as_much_as_there_may_be),
		cmocka_unit_test(a_latency_that_varies_is_no_queue),
		cmocka_unit_test(pieces_do_not_wait_long_for_each_other),
		cmocka_unit_test(a_link_that_gets_slower_is_noticed),
		cmocka_unit_test(beside_an_application_a_part_of_the_time_is_taken),
		cmocka_unit_test(a_latency_costs_nobody_anything),
		cmocka_unit_test(a_busy_application_does_not_stop_the_copy),
		cmocka_unit_test(a_stall_puts_off_no_more_than_a_moment),
		cmocka_unit_test(alone_again_it_begins_with_little),
		cmocka_unit_test(a_rate_is_kept),
		cmocka_unit_test(a_rate_that_is_lifted_holds_nothing_up),
		cmocka_unit_test(what_a_rate_allowed_long_ago_is_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
