/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The shared sparse bitmap: runs, sparseness, and several threads at once. */
#include "unit.h"

#include <errno.h>
#include <pthread.h>

#include "base/bitmap.h"

static uint64_t run_of(const struct ub_bitmap *map, uint64_t first, uint64_t count, bool want)
{
	bool value = !want;
	uint64_t run = ub_bitmap_run(map, first, count, &value);

	assert_int_equal(value, want);
	return run;
}

static void a_new_map_is_clear(void **state)
{
	struct ub_bitmap map;

	(void)state;
	assert_int_equal(ub_bitmap_init(&map, 1000, -1, 0), 0);
	assert_int_equal(run_of(&map, 0, 1000, false), 1000);
	ub_bitmap_destroy(&map);
}

static void a_run_ends_where_the_value_changes(void **state)
{
	struct ub_bitmap map;

	(void)state;
	assert_int_equal(ub_bitmap_init(&map, 256, -1, 0), 0);
	ub_bitmap_set(&map, 10, 5);
	assert_int_equal(run_of(&map, 0, 256, false), 10);
	assert_int_equal(run_of(&map, 10, 246, true), 5);
	assert_int_equal(run_of(&map, 12, 244, true), 3);
	assert_int_equal(run_of(&map, 15, 241, false), 241);
	ub_bitmap_destroy(&map);
}

static void a_run_crosses_words(void **state)
{
	struct ub_bitmap map;

	(void)state;
	assert_int_equal(ub_bitmap_init(&map, 512, -1, 0), 0);
	ub_bitmap_set(&map, 60, 200);
	assert_int_equal(run_of(&map, 0, 512, false), 60);
	assert_int_equal(run_of(&map, 60, 452, true), 200);
	assert_int_equal(run_of(&map, 64, 448, true), 196);
	assert_int_equal(run_of(&map, 255, 257, true), 5);
	ub_bitmap_clear(&map, 64, 64);
	assert_int_equal(run_of(&map, 60, 452, true), 4);
	assert_int_equal(run_of(&map, 64, 448, false), 64);
	assert_int_equal(run_of(&map, 128, 384, true), 132);
	ub_bitmap_destroy(&map);
}

static void a_run_is_cut_at_count(void **state)
{
	struct ub_bitmap map;

	(void)state;
	assert_int_equal(ub_bitmap_init(&map, 256, -1, 0), 0);
	ub_bitmap_set(&map, 0, 256);
	assert_int_equal(run_of(&map, 0, 1, true), 1);
	assert_int_equal(run_of(&map, 63, 2, true), 2);
	assert_int_equal(run_of(&map, 5, 59, true), 59);
	assert_int_equal(run_of(&map, 0, 256, true), 256);
	assert_int_equal(run_of(&map, 255, 1, true), 1);
	ub_bitmap_destroy(&map);
}

static void a_word_and_its_neighbours_stay_apart(void **state)
{
	struct ub_bitmap map;

	(void)state;
	assert_int_equal(ub_bitmap_init(&map, 192, -1, 0), 0);
	ub_bitmap_set(&map, 64, 64);
	assert_int_equal(run_of(&map, 0, 192, false), 64);
	assert_int_equal(run_of(&map, 64, 128, true), 64);
	assert_int_equal(run_of(&map, 128, 64, false), 64);
	ub_bitmap_set(&map, 0, 192);
	ub_bitmap_clear(&map, 63, 66);
	assert_int_equal(run_of(&map, 0, 192, true), 63);
	assert_int_equal(run_of(&map, 63, 129, false), 66);
	assert_int_equal(run_of(&map, 129, 63, true), 63);
	ub_bitmap_destroy(&map);
}

static void random_ranges_match_a_plain_array(void **state)
{
	enum { NR = 1000 };
	static bool model[NR];
	uint64_t seed = 42;
	struct ub_bitmap map;

	(void)state;
	assert_int_equal(ub_bitmap_init(&map, NR, -1, 0), 0);
	for (unsigned round = 0; round < 5000; round++) {
		uint64_t first = unit_random(&seed) % NR;
		uint64_t count = 1 + unit_random(&seed) % (NR - first);
		bool set = unit_random(&seed) & 1;
		uint64_t run, want = 1;

		if (round % 3)
			count = 1 + count % 70 % (NR - first);
		if (set)
			ub_bitmap_set(&map, first, count);
		else
			ub_bitmap_clear(&map, first, count);
		for (uint64_t i = first; i < first + count; i++)
			model[i] = set;
		first = unit_random(&seed) % NR;
		while (first + want < NR && model[first + want] == model[first])
			want++;
		run = run_of(&map, first, NR - first, model[first]);
		assert_int_equal(run, want);
	}
	ub_bitmap_destroy(&map);
}

static void reading_and_clearing_commit_no_memory(void **state)
{
	const uint64_t nr_bits = 1ULL << 31; /* 256 MiB of words */
	struct ub_bitmap map;
	uint64_t before;

	(void)state;
	unit_need_zero_page();
	assert_int_equal(ub_bitmap_init(&map, nr_bits, -1, 0), 0);
	before = unit_resident_bytes();
	assert_int_equal(run_of(&map, 0, nr_bits, false), nr_bits);
	ub_bitmap_clear(&map, 0, nr_bits);
	assert_in_range(unit_resident_bytes(), 0, before + (16 << 20));
	/* That this can be seen at all: setting one bit a page of it takes memory. */
	for (uint64_t bit = 0; bit < nr_bits / 8; bit += 4096ULL * 8)
		ub_bitmap_set(&map, bit, 1);
	assert_true(unit_resident_bytes() > before + (24 << 20));
	ub_bitmap_destroy(&map);
}

static void a_map_larger_than_memory_is_made(void **state)
{
	const uint64_t nr_bits = 1ULL << 42; /* 16 PiB of pages: 512 GiB of words */
	struct ub_bitmap map;

	(void)state;
	if (ub_bitmap_init(&map, nr_bits, -1, 0) < 0)
		skip(); /* a limit on the address space, as in some containers */
	ub_bitmap_set(&map, nr_bits - 3, 3);
	assert_int_equal(run_of(&map, nr_bits - 10, 10, false), 7);
	assert_int_equal(run_of(&map, nr_bits - 3, 3, true), 3);
	ub_bitmap_destroy(&map);
}

static void a_map_beyond_the_address_space_is_refused(void **state)
{
	struct ub_bitmap map;

	(void)state;
	assert_int_equal(ub_bitmap_init(&map, 1ULL << 60, -1, 0), -ENOMEM);
}

static void destroying_a_zeroed_map_is_fine(void **state)
{
	struct ub_bitmap map = { 0 };

	(void)state;
	ub_bitmap_destroy(&map);
	ub_bitmap_destroy(&map);
}

static void set_beyond_the_end(void *arg)
{
	ub_bitmap_set(arg, 90, 11);
}

static void run_of_nothing(void *arg)
{
	bool value;

	ub_bitmap_run(arg, 0, 0, &value);
}

static void bad_ranges_trip_an_assertion(void **state)
{
	struct ub_bitmap map;

	(void)state;
	assert_int_equal(ub_bitmap_init(&map, 100, -1, 0), 0);
	assert_true(unit_aborts(set_beyond_the_end, &map));
	assert_true(unit_aborts(run_of_nothing, &map));
	ub_bitmap_destroy(&map);
}

/* ---- threads
 * ------------------------------------------------------------------------------------- */

enum { NR_THREADS = 4, NR_SHARED_BITS = 64 * 64, NR_ROUNDS = 200 };

struct setter {
	struct ub_bitmap *map;
	unsigned index;
	unsigned nr_lost;
};

/* Every fourth bit is this thread's: all four share every word. */
static void *setter_main(void *arg)
{
	struct setter *s = arg;
	bool value;

	for (unsigned round = 0; round < NR_ROUNDS; round++) {
		for (unsigned bit = s->index; bit < NR_SHARED_BITS; bit += NR_THREADS)
			ub_bitmap_set(s->map, bit, 1);
		for (unsigned bit = s->index; bit < NR_SHARED_BITS; bit += NR_THREADS) {
			ub_bitmap_run(s->map, bit, 1, &value);
			s->nr_lost += !value;
			if (round + 1 < NR_ROUNDS)
				ub_bitmap_clear(s->map, bit, 1);
		}
	}
	return NULL;
}

static void parallel_setters_lose_no_bit(void **state)
{
	struct setter setters[NR_THREADS];
	pthread_t threads[NR_THREADS];
	struct ub_bitmap map;

	(void)state;
	assert_int_equal(ub_bitmap_init(&map, NR_SHARED_BITS, -1, 0), 0);
	for (unsigned i = 0; i < NR_THREADS; i++) {
		setters[i] = (struct setter){ .map = &map, .index = i };
		assert_int_equal(pthread_create(&threads[i], NULL, setter_main, &setters[i]), 0);
	}
	for (unsigned i = 0; i < NR_THREADS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(setters[i].nr_lost, 0);
	}
	assert_int_equal(run_of(&map, 0, NR_SHARED_BITS, true), NR_SHARED_BITS);
	ub_bitmap_destroy(&map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_map_is_clear),
		cmocka_unit_test(a_run_ends_where_the_value_changes),
		cmocka_unit_test(a_run_crosses_words),
		cmocka_unit_test(a_run_is_cut_at_count),
		cmocka_unit_test(a_word_and_its_neighbours_stay_apart),
		cmocka_unit_test(random_ranges_match_a_plain_array),
		cmocka_unit_test(reading_and_clearing_commit_no_memory),
		cmocka_unit_test(a_map_larger_than_memory_is_made),
		cmocka_unit_test(a_map_beyond_the_address_space_is_refused),
		cmocka_unit_test(destroying_a_zeroed_map_is_fine),
		cmocka_unit_test(bad_ranges_trip_an_assertion),
		cmocka_unit_test(parallel_setters_lose_no_bit),
	};

	return cmocka_run_group_tests_name("bitmap", tests, NULL, NULL);
}
