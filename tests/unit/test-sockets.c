/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The connections that a keeper is told of: each as it comes, all of them when it comes later. */
#include "unit.h"

#include <stdatomic.h>

#include <ublk-bridge/backend.h>

#include "server/sockets.h"

/* A keeper: what it knows. */
static struct keeper {
	unsigned nr_made, nr_closed, nr_of_destination;
	uint32_t last_id;
	int last_fd;
} keeper;

static struct ub_sockets sockets;
static struct ub_backend source, destination = { .is_destination = true };

static void tell(void *arg, uint32_t id, int fd, bool is_destination)
{
	struct keeper *k = arg;

	k->nr_made += fd >= 0;
	k->nr_closed += fd < 0;
	k->nr_of_destination += is_destination;
	k->last_id = id;
	k->last_fd = fd;
}

static int sockets_setup(void **state)
{
	(void)state;
	memset(&keeper, 0, sizeof(keeper));
	memset(&sockets, 0, sizeof(sockets));
	ub_sockets_init(&sockets);
	return 0;
}

static void a_keeper_hears_of_each_as_it_comes_and_goes(void **state)
{
	uint32_t first, second;

	(void)state;
	ub_sockets_set_listener(&sockets, tell, &keeper);
	assert_true(ub_sockets_have_listener(&sockets));
	first = ub_sockets_hold(&sockets, &source, 5);
	assert_int_equal(keeper.last_id, first);
	assert_int_equal(keeper.last_fd, 5);
	second = ub_sockets_hold(&sockets, &destination, 6);
	assert_true(first && second && first != second);
	assert_int_equal(keeper.nr_of_destination, 1);
	ub_sockets_drop(&sockets, first);
	ub_sockets_drop(&sockets, first); /* gone already */
	ub_sockets_drop(&sockets, 0);	  /* none */
	assert_int_equal(keeper.nr_closed, 1);
	assert_int_equal(keeper.last_id, first);
	assert_int_equal(ub_sockets_count(&sockets), 1);
}

static void one_that_comes_later_hears_of_all_that_there_are(void **state)
{
	uint32_t first = ub_sockets_hold(&sockets, &source, 5);

	(void)state;
	ub_sockets_hold(&sockets, &source, 6);
	ub_sockets_drop(&sockets, first);
	assert_false(ub_sockets_have_listener(&sockets));
	ub_sockets_set_listener(&sockets, tell, &keeper);
	assert_int_equal(keeper.nr_made, 1);
	assert_int_equal(keeper.last_fd, 6);
	ub_sockets_set_listener(&sockets, NULL, NULL);
	ub_sockets_hold(&sockets, &source, 7);
	assert_int_equal(keeper.nr_made, 1);
	assert_int_equal(ub_sockets_count(&sockets), 2);
}

static void what_a_back_end_leaves_is_dropped(void **state)
{
	(void)state;
	ub_sockets_set_listener(&sockets, tell, &keeper);
	ub_sockets_hold(&sockets, &source, 5);
	ub_sockets_hold(&sockets, &destination, 6);
	ub_sockets_hold(&sockets, &source, 7);
	ub_sockets_forget(&sockets, &source);
	assert_int_equal(keeper.nr_closed, 2);
	assert_int_equal(ub_sockets_count(&sockets), 1);
}

static void those_that_have_no_room_are_not_held(void **state)
{
	(void)state;
	for (unsigned i = 0; i < UB_SOCKETS_MAX; i++)
		assert_true(ub_sockets_hold(&sockets, &source, (int)i));
	assert_int_equal(ub_sockets_hold(&sockets, &source, 1000), 0);
	assert_int_equal(ub_sockets_count(&sockets), UB_SOCKETS_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_keeper_hears_of_each_as_it_comes_and_goes, sockets_setup),
		cmocka_unit_test_setup(one_that_comes_later_hears_of_all_that_there_are,
				       sockets_setup),
		cmocka_unit_test_setup(what_a_back_end_leaves_is_dropped, sockets_setup),
		cmocka_unit_test_setup(those_that_have_no_room_are_not_held, sockets_setup),
	};

	return cmocka_run_group_tests_name("sockets", tests, NULL, NULL);
}
