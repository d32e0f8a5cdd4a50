/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A mailbox: who has to wake its reader, in what order it is read, and that nothing is lost. */
#include "unit.h"

#include <pthread.h>

#include "base/lifo.h"

#define NR_THREADS 4
#define NR_ITEMS   20000

struct item {
	struct item *next;
	unsigned writer, number;
};

UB_LIFO(item_lifo, struct item);

static struct item *_Atomic list;
static struct item items[NR_THREADS][NR_ITEMS];
static _Atomic unsigned nr_wakes;

static void an_empty_one_has_nothing(void **state)
{
	(void)state;
	assert_null(item_lifo_take(&list));
}

static void it_is_read_in_the_order_in_which_it_was_written(void **state)
{
	struct item three[3] = { { .number = 0 }, { .number = 1 }, { .number = 2 } };
	unsigned nr = 0;

	(void)state;
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(item_lifo_push(&list, &three[i]), i == 0);
	for (struct item *item = item_lifo_take(&list); item; item = item->next)
		assert_int_equal(item->number, nr++);
	assert_int_equal(nr, 3);
	assert_null(item_lifo_take(&list));
	assert_true(item_lifo_push(&list, &three[0]));
	assert_ptr_equal(item_lifo_take(&list), &three[0]);
}

static void *writer(void *arg)
{
	struct item *mine = arg;

	for (unsigned i = 0; i < NR_ITEMS; i++) {
		mine[i].number = i;
		if (item_lifo_push(&list, &mine[i]))
			atomic_fetch_add(&nr_wakes, 1);
	}
	return NULL;
}

/* Each writer's items come in their order, and each list that was taken had woken the reader. */
static void nothing_is_lost_between_threads(void **state)
{
	unsigned next[NR_THREADS] = { 0 }, nr = 0, nr_taken = 0;
	pthread_t threads[NR_THREADS];

	(void)state;
	for (unsigned t = 0; t < NR_THREADS; t++) {
		for (unsigned i = 0; i < NR_ITEMS; i++)
			items[t][i].writer = t;
		assert_int_equal(pthread_create(&threads[t], NULL, writer, items[t]), 0);
	}
	while (nr < NR_THREADS * NR_ITEMS) {
		struct item *item = item_lifo_take(&list);

		nr_taken += item != NULL;
		for (; item; item = item->next, nr++)
			assert_int_equal(item->number, next[item->writer]++);
	}
	for (unsigned t = 0; t < NR_THREADS; t++)
		pthread_join(threads[t], NULL);
	assert_null(item_lifo_take(&list));
	assert_int_equal(nr_taken, atomic_load(&nr_wakes));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_one_has_nothing),
		cmocka_unit_test(it_is_read_in_the_order_in_which_it_was_written),
		cmocka_unit_test(nothing_is_lost_between_threads),
	};

	return cmocka_run_group_tests_name("lifo", tests, NULL, NULL);
}
