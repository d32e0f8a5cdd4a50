/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control plane's poll loop: who is called, when, and what callbacks may do to it. */
#include "unit.h"

#include <fcntl.h>

#include "base/loop.h"

struct watched {
	struct ub_loop *loop;
	int fds[2]; /* a pipe: fds[0] is in the loop */
	unsigned nr_calls;
	struct watched *victim; /* taken out by this one's callback */
	int add_fd;		/* put in by this one's callback, if not -1 */
	struct watched *add;
};

static void watched_ready(void *arg)
{
	struct watched *w = arg;

	w->nr_calls++;
	if (w->victim)
		ub_loop_remove(w->loop, w->victim->fds[0]);
	if (w->add_fd >= 0) {
		ub_loop_add(w->loop, w->add_fd, watched_ready, w->add);
		w->add_fd = -1;
	}
}

static void watched_init(struct watched *w, struct ub_loop *loop)
{
	*w = (struct watched){ .loop = loop, .add_fd = -1 };
	assert_int_equal(pipe2(w->fds, O_CLOEXEC | O_NONBLOCK), 0);
}

static void watched_destroy(struct watched *w)
{
	close(w->fds[0]);
	if (w->fds[1] >= 0)
		close(w->fds[1]);
}

static void watched_poke(struct watched *w)
{
	assert_int_equal(write(w->fds[1], "x", 1), 1);
}

static void only_readable_descriptors_are_called(void **state)
{
	struct watched a, b;
	struct ub_loop loop;

	(void)state;
	ub_loop_init(&loop);
	watched_init(&a, &loop);
	watched_init(&b, &loop);
	ub_loop_add(&loop, a.fds[0], watched_ready, &a);
	ub_loop_add(&loop, b.fds[0], watched_ready, &b);
	watched_poke(&b);
	ub_loop_once(&loop, 1000);
	assert_int_equal(a.nr_calls, 0);
	assert_int_equal(b.nr_calls, 1);
	ub_loop_once(&loop, 1000); /* level-triggered: what is not read comes again */
	assert_int_equal(b.nr_calls, 2);
	watched_poke(&a);
	ub_loop_once(&loop, 1000);
	assert_int_equal(a.nr_calls, 1);
	assert_int_equal(b.nr_calls, 3);
	watched_destroy(&a);
	watched_destroy(&b);
}

static void a_hang_up_is_called(void **state)
{
	struct watched a;
	struct ub_loop loop;

	(void)state;
	ub_loop_init(&loop);
	watched_init(&a, &loop);
	ub_loop_add(&loop, a.fds[0], watched_ready, &a);
	close(a.fds[1]);
	a.fds[1] = -1;
	ub_loop_once(&loop, 1000);
	assert_int_equal(a.nr_calls, 1);
	watched_destroy(&a);
}

static void waiting_ends_after_the_time_limit(void **state)
{
	uint64_t began = ub_now_ms(), took;
	struct watched a;
	struct ub_loop loop;

	(void)state;
	ub_loop_init(&loop);
	watched_init(&a, &loop);
	ub_loop_add(&loop, a.fds[0], watched_ready, &a);
	ub_loop_once(&loop, 30);
	took = ub_now_ms() - began;
	assert_int_equal(a.nr_calls, 0);
	assert_in_range(took, 29, 20000);
	watched_destroy(&a);
}

static void a_removed_descriptor_is_not_called(void **state)
{
	struct watched a;
	struct ub_loop loop;

	(void)state;
	ub_loop_init(&loop);
	watched_init(&a, &loop);
	watched_poke(&a);
	ub_loop_add(&loop, a.fds[0], watched_ready, &a);
	ub_loop_remove(&loop, a.fds[0]);
	ub_loop_once(&loop, 0);
	assert_int_equal(a.nr_calls, 0);
	watched_destroy(&a);
}

static void removing_a_stranger_changes_nothing(void **state)
{
	struct watched a;
	struct ub_loop loop;

	(void)state;
	ub_loop_init(&loop);
	watched_init(&a, &loop);
	ub_loop_add(&loop, a.fds[0], watched_ready, &a);
	ub_loop_remove(&loop, a.fds[1]);
	ub_loop_remove(&loop, -1);
	watched_poke(&a);
	ub_loop_once(&loop, 1000);
	assert_int_equal(a.nr_calls, 1);
	watched_destroy(&a);
}

static void a_callback_takes_a_later_one_out(void **state)
{
	struct watched a, b;
	struct ub_loop loop;

	(void)state;
	ub_loop_init(&loop);
	watched_init(&a, &loop);
	watched_init(&b, &loop);
	a.victim = &b;
	ub_loop_add(&loop, a.fds[0], watched_ready, &a);
	ub_loop_add(&loop, b.fds[0], watched_ready, &b);
	watched_poke(&a);
	watched_poke(&b);
	ub_loop_once(&loop, 1000);
	assert_int_equal(a.nr_calls, 1);
	assert_int_equal(b.nr_calls, 0);
	watched_destroy(&a);
	watched_destroy(&b);
}

/* The newcomer gets the place of the one that was taken out, and must not inherit its event. */
static void a_newcomer_waits_for_its_own_event(void **state)
{
	struct watched a, b, c;
	struct ub_loop loop;

	(void)state;
	ub_loop_init(&loop);
	watched_init(&a, &loop);
	watched_init(&b, &loop);
	watched_init(&c, &loop);
	a.victim = &b;
	a.add_fd = c.fds[0];
	a.add = &c;
	ub_loop_add(&loop, a.fds[0], watched_ready, &a);
	ub_loop_add(&loop, b.fds[0], watched_ready, &b);
	watched_poke(&a);
	watched_poke(&b);
	ub_loop_once(&loop, 1000);
	assert_int_equal(b.nr_calls, 0);
	assert_int_equal(c.nr_calls, 0);
	watched_poke(&c);
	ub_loop_once(&loop, 1000);
	assert_int_equal(c.nr_calls, 1);
	watched_destroy(&a);
	watched_destroy(&b);
	watched_destroy(&c);
}

static void never_ready(void *arg)
{
	(void)arg;
}

static void overfill(void *arg)
{
	ub_loop_add(arg, UB_LOOP_MAX + 100, never_ready, NULL);
}

static void a_full_loop_trips_an_assertion(void **state)
{
	struct ub_loop loop;

	(void)state;
	ub_loop_init(&loop);
	for (int i = 0; i < UB_LOOP_MAX; i++)
		ub_loop_add(&loop, 100 + i, never_ready, NULL);
	assert_true(unit_aborts(overfill, &loop));
	ub_loop_remove(&loop, 103);
	overfill(&loop); /* a place that became free is used again */
}

static void the_clock_goes_on(void **state)
{
	uint64_t before = ub_now_ms();

	(void)state;
	usleep(5000);
	assert_in_range(ub_now_ms(), before + 4, before + 60000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_readable_descriptors_are_called),
		cmocka_unit_test(a_hang_up_is_called),
		cmocka_unit_test(waiting_ends_after_the_time_limit),
		cmocka_unit_test(a_removed_descriptor_is_not_called),
		cmocka_unit_test(removing_a_stranger_changes_nothing),
		cmocka_unit_test(a_callback_takes_a_later_one_out),
		cmocka_unit_test(a_newcomer_waits_for_its_own_event),
		cmocka_unit_test(a_full_loop_trips_an_assertion),
		cmocka_unit_test(the_clock_goes_on),
	};

	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
