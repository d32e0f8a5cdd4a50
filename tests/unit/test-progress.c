/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A migration in words. */
#include "unit.h"

#include <jansson.h>

#include "cli/progress.h"

#define MIB (1ULL << 20)

static json_t *migration(const char *phase, uint64_t total, uint64_t dirty, uint64_t copied,
			 uint64_t zeroed)
{
	return json_pack("{s:s, s:s, s:n, s:I, s:I, s:I, s:I, s:I}", "phase", phase, "destination",
			 "nbd://host/x", "why", "total_bytes", (json_int_t)total, "dirty_bytes",
			 (json_int_t)dirty, "copied_bytes", (json_int_t)copied, "zeroed_bytes",
			 (json_int_t)zeroed, "mirrored_bytes", (json_int_t)(3 * MIB));
}

/* A look at it, after so long. */
static void look(struct ub_progress *p, uint64_t ms, uint64_t copied, uint64_t zeroed)
{
	json_t *m = migration("copying", 100 * MIB, 50 * MIB, copied, zeroed);

	ub_progress_take(p, m, ms);
	json_decref(m);
}

static unsigned percent(uint64_t total, uint64_t dirty)
{
	json_t *m = migration("copying", total, dirty, 0, 0);
	unsigned value = ub_progress_percent(m);

	json_decref(m);
	return value;
}

static void percents_are_of_the_device(void **state)
{
	(void)state;
	assert_int_equal(percent(0, 0), 0);
	assert_int_equal(percent(100, 100), 0);
	assert_int_equal(percent(100, 50), 50);
	assert_int_equal(percent(1000000, 1), 99);
	assert_int_equal(percent(100, 0), 100);
	assert_int_equal(percent(100, 200), 0);
	assert_int_equal(percent(INT64_MAX, INT64_MAX / 4), 75);
}

static void the_rate_is_of_what_was_done_lately(void **state)
{
	struct ub_progress p = { 0 };

	(void)state;
	assert_int_equal(ub_progress_rate(&p), 0);
	look(&p, 1000, 10 * MIB, 0);
	assert_int_equal(ub_progress_rate(&p), 0);
	look(&p, 1500, 12 * MIB, 3 * MIB);
	assert_int_equal(ub_progress_rate(&p), 10 * MIB);
	/* what was earlier than the last 32 looks does not count */
	for (unsigned i = 1; i <= UB_PROGRESS_SAMPLES; i++)
		look(&p, 1500 + 1000 * i, (12 + i) * MIB, 3 * MIB);
	assert_int_equal(ub_progress_rate(&p), MIB);
}

static void a_migration_that_began_anew_has_no_rate(void **state)
{
	struct ub_progress p = { 0 };
	json_t *m;

	(void)state;
	look(&p, 1000, 10 * MIB, 0);
	look(&p, 2000, 20 * MIB, 0);
	look(&p, 3000, MIB, 0);
	assert_int_equal(ub_progress_rate(&p), 0);
	look(&p, 4000, 3 * MIB, 0);
	assert_int_equal(ub_progress_rate(&p), 2 * MIB);
	/* nor has one that pauses */
	m = migration("paused", 100 * MIB, 50 * MIB, 9 * MIB, 0);
	ub_progress_take(&p, m, 5000);
	assert_int_equal(ub_progress_rate(&p), 0);
	json_decref(m);
	/* two looks at the same time */
	p.nr = 0;
	look(&p, 4000, 3 * MIB, 0);
	look(&p, 4000, 4 * MIB, 0);
	assert_int_equal(ub_progress_rate(&p), 0);
}

static void phases_are_told(void **state)
{
	struct ub_progress p = { 0 };
	json_t *m;
	char text[256];

	(void)state;
	look(&p, 1000, 0, 0);
	look(&p, 2000, MIB, 0);
	m = migration("copying", 100 * MIB, 65 * MIB, MIB, 0);
	assert_string_equal(ub_progress_text(&p, m, text, sizeof(text)),
			    "copying: 35 %, 1 MiB/s, 1:05 left, 65 MiB dirty, 3 MiB mirrored");
	assert_string_equal(ub_progress_text(NULL, m, text, sizeof(text)),
			    "copying: 35 %, 65 MiB dirty, 3 MiB mirrored");
	json_object_set_new(m, "dirty_bytes", json_integer(7384 * (json_int_t)MIB));
	json_object_set_new(m, "total_bytes", json_integer(7384 * (json_int_t)MIB));
	unit_assert_says(ub_progress_text(&p, m, text, sizeof(text)), "2:03:04 left");
	json_decref(m);

	p.nr = 0;
	m = migration("paused", 100 * MIB, 65 * MIB, MIB, 0);
	json_object_set_new(m, "why", json_string("the server closed the connection"));
	assert_string_equal(ub_progress_text(&p, m, text, sizeof(text)),
			    "paused: 35 %, 65 MiB dirty, 3 MiB mirrored: the server closed the "
			    "connection");
	json_object_set_new(m, "phase", json_string("connecting"));
	assert_string_equal(ub_progress_text(&p, m, text, sizeof(text)),
			    "connecting: the server closed the connection");
	json_decref(m);

	m = json_object();
	ub_progress_text(&p, m, text, sizeof(text)); /* what is not there is nothing */
	json_decref(m);
}

/* Whatever the width: nothing is wider, and what is cut is cut between characters. */
static void a_bar_fits_its_terminal(void **state)
{
	json_t *m = migration("copying", 100 * MIB, 50 * MIB, MIB, 0);
	char bar[512];

	(void)state;
	assert_string_equal(ub_progress_bar(NULL, m, 200, bar, sizeof(bar)),
			    "[====================....................] 50 %, 50 MiB dirty, 3 MiB "
			    "mirrored");
	assert_string_equal(ub_progress_bar(NULL, m, 79, bar, sizeof(bar)),
			    "[======.......] 50 %, 50 MiB dirty, 3 MiB mirrored");
	/* what has no room is left out, and not cut; what is nothing is not told */
	assert_string_equal(ub_progress_bar(NULL, m, 30, bar, sizeof(bar)), "50 %, 50 MiB dirty");
	assert_string_equal(ub_progress_bar(NULL, m, 17, bar, sizeof(bar)), "50 %");
	json_object_set_new(m, "mirrored_bytes", json_integer(0));
	assert_string_equal(ub_progress_bar(NULL, m, 79, bar, sizeof(bar)),
			    "[===============................] 50 %, 50 MiB dirty");
	json_object_set_new(m, "why", json_string("\xe2\x80\xa6\xe2\x80\xa6\xe2\x80\xa6"));
	for (unsigned columns = 0; columns < 200; columns++) {
		unsigned width = 0;
		size_t len;

		ub_progress_bar(NULL, m, columns, bar, sizeof(bar));
		len = strlen(bar);
		for (size_t i = 0; i < len; i++)
			width += ((unsigned char)bar[i] & 0xc0) != 0x80;
		assert_in_range(width, 0, columns);
		assert_true(len == 0 || (unsigned char)bar[len - 1] < 0x80 ||
			    strcmp(bar + len - 3, "\xe2\x80\xa6") == 0);
	}
	json_decref(m);
}

static void ends_are_told(void **state)
{
	json_t *last = json_pack("{s:s, s:s, s:n, s:f, s:f, s:I, s:I, s:I}", "result", "moved",
				 "destination", "mem", "why", "seconds", 3.44, "pause_ms", 5.06,
				 "copied_bytes", (json_int_t)(32 * MIB), "zeroed_bytes",
				 (json_int_t)(480 * MIB), "mirrored_bytes", (json_int_t)0);
	char text[256];

	(void)state;
	assert_string_equal(ub_progress_result(last, text, sizeof(text)),
			    "migrated to mem in 3.4 s, pause 5.1 ms, 32 MiB copied, 480 MiB "
			    "zeroed, 0 "
			    "B mirrored");
	json_object_set_new(last, "pause_ms", json_integer(5)); /* a whole number is one, too */
	unit_assert_says(ub_progress_result(last, text, sizeof(text)), "pause 5.0 ms");
	json_object_set_new(last, "pause_ms", json_null());
	unit_assert_says(ub_progress_result(last, text, sizeof(text)),
			 "in 3.4 s, pause not known, 32 MiB copied");
	json_object_set_new(last, "result", json_string("failed"));
	json_object_set_new(last, "why", json_string("No space left on device"));
	assert_string_equal(ub_progress_result(last, text, sizeof(text)),
			    "failed after 3.4 s: No space left on device");
	json_object_set_new(last, "result", json_string("cancelled"));
	json_object_set_new(last, "why", json_null());
	assert_string_equal(ub_progress_result(last, text, sizeof(text)),
			    "was cancelled after 3.4 s");
	json_decref(last);
}

/* The line that a terminal has wrapped since, because it was made narrower, has several rows. */
static void a_bar_is_taken_away_whole(void **state)
{
	char text[40];

	(void)state;
	assert_string_equal(ub_progress_erase(0, 80, text, sizeof(text)), "\r\033[K");
	assert_string_equal(ub_progress_erase(79, 80, text, sizeof(text)), "\r\033[K");
	assert_string_equal(ub_progress_erase(80, 80, text, sizeof(text)), "\r\033[K");
	assert_string_equal(ub_progress_erase(79, 60, text, sizeof(text)), "\r\033[K\033[A\033[K");
	assert_string_equal(ub_progress_erase(79, 30, text, sizeof(text)),
			    "\r\033[K\033[A\033[K\033[A\033[K");
	/* one that cuts has one row; and what has no room is left out */
	assert_string_equal(ub_progress_erase(79, 0, text, sizeof(text)), "\r\033[K");
	assert_true(strlen(ub_progress_erase(79, 1, text, sizeof(text))) < sizeof(text));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(percents_are_of_the_device),
		cmocka_unit_test(the_rate_is_of_what_was_done_lately),
		cmocka_unit_test(a_migration_that_began_anew_has_no_rate),
		cmocka_unit_test(phases_are_told),
		cmocka_unit_test(a_bar_fits_its_terminal),
		cmocka_unit_test(a_bar_is_taken_away_whole),
		cmocka_unit_test(ends_are_told),
	};

	return cmocka_run_group_tests_name("progress", tests, NULL, NULL);
}
