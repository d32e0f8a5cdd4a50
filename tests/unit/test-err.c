/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors with context, and the steps that tests make fail. */
#include "unit.h"

#include <errno.h>

#include "base/err.h"
#include "base/step.h"

static void set_keeps_code_and_text(void **state)
{
	struct ub_err err = { 0 };

	(void)state;
	assert_int_equal(ub_err_set(&err, EINVAL, "%s of %d", "size", 7), -EINVAL);
	assert_int_equal(err.code, EINVAL);
	assert_string_equal(err.text, "size of 7");
}

static void set_replaces_what_was_there(void **state)
{
	struct ub_err err = { 0 };

	(void)state;
	ub_err_set(&err, EINVAL, "a long first message");
	ub_err_set(&err, EIO, "short");
	assert_int_equal(err.code, EIO);
	assert_string_equal(err.text, "short");
}

static void errno_says_why(void **state)
{
	struct ub_err err = { 0 };
	char want[128];

	(void)state;
	assert_int_equal(ub_err_errno(&err, ENOENT, "cannot open %s", "/x"), -ENOENT);
	snprintf(want, sizeof(want), "cannot open /x: %s", strerror(ENOENT));
	assert_string_equal(err.text, want);
	assert_int_equal(err.code, ENOENT);
}

static void wrap_puts_context_before(void **state)
{
	struct ub_err err = { 0 };

	(void)state;
	ub_err_set(&err, ENOSPC, "no room");
	assert_int_equal(ub_err_wrap(&err, "device %u", 3U), -ENOSPC);
	assert_int_equal(ub_err_wrap(&err, "attach"), -ENOSPC);
	assert_string_equal(err.text, "attach: device 3: no room");
	assert_int_equal(err.code, ENOSPC);
}

static void wrapping_nothing_is_an_io_error(void **state)
{
	struct ub_err err = { 0 };

	(void)state;
	assert_int_equal(ub_err_wrap(&err, "context"), -EIO);
	assert_int_equal(err.code, EIO);
}

static void long_messages_are_cut_and_terminated(void **state)
{
	struct {
		struct ub_err err;
		char guard[16];
	} s;
	char longer[2 * sizeof(s.err.text)];

	(void)state;
	memset(&s, 'G', sizeof(s));
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	ub_err_set(&s.err, EIO, "%s", longer);
	assert_int_equal(strlen(s.err.text), sizeof(s.err.text) - 1);
	ub_err_errno(&s.err, EIO, "%s", longer);
	assert_int_equal(strlen(s.err.text), sizeof(s.err.text) - 1);
	ub_err_wrap(&s.err, "%s", longer);
	assert_int_equal(strlen(s.err.text), sizeof(s.err.text) - 1);
	/* A context that fits is kept, and the inner text is what is cut. */
	ub_err_set(&s.err, EIO, "%s", longer);
	ub_err_wrap(&s.err, "outer");
	assert_memory_equal(s.err.text, "outer: xxx", 10);
	assert_int_equal(strlen(s.err.text), sizeof(s.err.text) - 1);
	for (size_t i = 0; i < sizeof(s.guard); i++)
		assert_int_equal(s.guard[i], 'G');
}

static void negative_code(void *arg)
{
	ub_err_set(arg, -EIO, "the wrong sign");
}

static void no_code(void *arg)
{
	ub_err_errno(arg, 0, "no errno");
}

static void a_wrong_sign_trips_an_assertion(void **state)
{
	struct ub_err err = { 0 };

	(void)state;
	assert_true(unit_aborts(negative_code, &err));
	assert_true(unit_aborts(no_code, &err));
}

/* ---- steps
 * ---------------------------------------------------------------------------------------- */

static char steps_seen[64];

static int fail_second(const char *name)
{
	snprintf(steps_seen + strlen(steps_seen), sizeof(steps_seen) - strlen(steps_seen), "%s ",
		 name);
	return strcmp(name, "second") == 0 ? ENOMEM : 0;
}

static void steps_go_on_without_a_hook(void **state)
{
	struct ub_err err = { 0 };

	(void)state;
	assert_null(ub_step_hook);
	assert_int_equal(ub_step("any", &err), 0);
	assert_int_equal(err.code, 0);
}

static void a_hook_fails_the_step_it_names(void **state)
{
	struct ub_err err = { 0 };

	(void)state;
	ub_step_hook = fail_second;
	assert_int_equal(ub_step("first", &err), 0);
	assert_int_equal(err.code, 0);
	assert_int_equal(ub_step("second", &err), -ENOMEM);
	ub_step_hook = NULL;
	assert_int_equal(err.code, ENOMEM);
	unit_assert_says(err.text, "second (injected)");
	assert_string_equal(steps_seen, "first second ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set_keeps_code_and_text),
		cmocka_unit_test(set_replaces_what_was_there),
		cmocka_unit_test(errno_says_why),
		cmocka_unit_test(wrap_puts_context_before),
		cmocka_unit_test(wrapping_nothing_is_an_io_error),
		cmocka_unit_test(long_messages_are_cut_and_terminated),
		cmocka_unit_test(a_wrong_sign_trips_an_assertion),
		cmocka_unit_test(steps_go_on_without_a_hook),
		cmocka_unit_test(a_hook_fails_the_step_it_names),
	};

	return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
