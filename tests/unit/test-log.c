/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Logging: levels, the sink, whole lines, and never blocking when nobody reads. */
#include "unit.h"

#include <errno.h>
#include <sys/stat.h>

#include "base/journal.h"
#include "base/log.h"

static struct {
	unsigned nr;
	enum ub_log_level level;
	char line[UB_LOG_LINE_BYTES];
	bool refuse;
} sunk;

static bool sink(enum ub_log_level level, const char *line)
{
	sunk.nr++;
	sunk.level = level;
	snprintf(sunk.line, sizeof(sunk.line), "%s", line);
	return !sunk.refuse;
}

static int sink_setup(void **state)
{
	(void)state;
	memset(&sunk, 0, sizeof(sunk));
	ub_log_to_sink(sink);
	ub_log_set_level(UB_LOG_DEBUG);
	return 0;
}

static int sink_teardown(void **state)
{
	(void)state;
	ub_log_to_sink(NULL);
	ub_log_set_level(UB_LOG_NOTICE);
	return 0;
}

/* ---- stderr as a pipe
 * -------------------------------------------------------------------------------- */

struct captured {
	int pipe_fd, saved_fd;
	size_t used;
	char text[1 << 18]; /* more than a pipe holds */
};

static void capture_begin(struct captured *c)
{
	int fds[2];

	memset(c, 0, sizeof(*c));
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	c->pipe_fd = fds[0];
	c->saved_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	assert_int_equal(dup2(fds[1], STDERR_FILENO), STDERR_FILENO);
	close(fds[1]);
}

/* Reads until nobody writes any more: stderr is the old one again. */
static void capture_end(struct captured *c)
{
	ssize_t n;

	dup2(c->saved_fd, STDERR_FILENO);
	close(c->saved_fd);
	while ((n = read(c->pipe_fd, c->text + c->used, sizeof(c->text) - 1 - c->used)) > 0)
		c->used += (size_t)n;
	c->text[c->used] = '\0';
	close(c->pipe_fd);
}

/* ---- levels and the sink
 * ------------------------------------------------------------------------------ */

static void notices_are_kept_and_debug_is_not_by_default(void **state)
{
	(void)state;
	assert_int_equal(ub_log_get_level(), UB_LOG_NOTICE);
	ub_log_to_sink(sink);
	ub_log(UB_LOG_DEBUG, "a detail");
	assert_int_equal(sunk.nr, 0);
	ub_log(UB_LOG_NOTICE, "news");
	assert_int_equal(sunk.nr, 1);
	ub_log_to_sink(NULL);
}

static void a_level_cuts_what_is_above_it(void **state)
{
	(void)state;
	for (unsigned level = UB_LOG_ERROR; level <= UB_LOG_DEBUG; level++) {
		ub_log_set_level(level);
		sunk.nr = 0;
		for (unsigned line = UB_LOG_ERROR; line <= UB_LOG_DEBUG; line++)
			ub_log(line, "x");
		assert_int_equal(sunk.nr, level + 1);
	}
}

static void the_sink_gets_level_and_text(void **state)
{
	(void)state;
	ub_log(UB_LOG_WARNING, "queue %u: %s", 3U, "slow");
	assert_int_equal(sunk.nr, 1);
	assert_int_equal(sunk.level, UB_LOG_WARNING);
	assert_string_equal(sunk.line, "queue 3: slow");
}

static void long_lines_are_cut(void **state)
{
	char longer[2 * UB_LOG_LINE_BYTES];

	(void)state;
	memset(longer, 'y', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	ub_log(UB_LOG_ERROR, "%s", longer);
	assert_int_equal(strlen(sunk.line), UB_LOG_LINE_BYTES - 1);
}

/* ---- without a thread
 * ------------------------------------------------------------------------------- */

static void without_a_thread_lines_go_out_at_once(void **state)
{
	static struct captured c;

	(void)state;
	capture_begin(&c);
	ub_log(UB_LOG_NOTICE, "one %d", 1);
	ub_log(UB_LOG_DEBUG, "hidden");
	ub_log(UB_LOG_ERROR, "two");
	ub_log_flush(); /* nothing to wait for, and no hang */
	capture_end(&c);
	assert_string_equal(c.text, "ublk-bridge: one 1\nublk-bridge: two\n");
}

/* ---- with one: from here on, because it cannot be ended
 * ---------------------------------------------- */

static void the_thread_writes_lines_in_order(void **state)
{
	static struct captured c;
	char want[4096] = "";

	(void)state;
	assert_int_equal(ub_log_start_thread(), 0);
	capture_begin(&c);
	for (unsigned i = 0; i < 100; i++) {
		ub_log(UB_LOG_NOTICE, "line %u", i);
		snprintf(want + strlen(want), sizeof(want) - strlen(want), "ublk-bridge: line %u\n",
			 i);
	}
	ub_log_flush();
	capture_end(&c);
	assert_string_equal(c.text, want);
}

/* Makes stderr such that the next write blocks until somebody reads. */
static void fill_pipe(void)
{
	int flags = fcntl(STDERR_FILENO, F_GETFL);
	char blank[4096];

	memset(blank, '\n', sizeof(blank));
	fcntl(STDERR_FILENO, F_SETFL, flags | O_NONBLOCK);
	while (write(STDERR_FILENO, blank, sizeof(blank)) > 0)
		;
	while (write(STDERR_FILENO, blank, 1) > 0)
		;
	fcntl(STDERR_FILENO, F_SETFL, flags);
}

/* Counts the whole lines that there are so far. */
static void count_lines(const char *text, unsigned *nr_written, unsigned *nr_dropped)
{
	const char *end;

	*nr_written = *nr_dropped = 0;
	for (; (end = strchr(text, '\n')); text = end + 1) {
		unsigned n;

		if (sscanf(text, "ublk-bridge: line %u", &n) == 1)
			++*nr_written;
		else if (sscanf(text, "ublk-bridge: %u log lines were dropped", &n) == 1)
			*nr_dropped += n;
	}
}

static void a_stuck_reader_drops_lines_and_blocks_nobody(void **state)
{
	enum { NR_LINES = 1000 };
	static struct captured c;
	unsigned nr_written, nr_dropped;

	(void)state;
	alarm(60); /* a blocking ub_log() ends here, and so do lines that nobody accounts for */
	capture_begin(&c);
	fill_pipe();
	for (unsigned i = 0; i < NR_LINES; i++)
		ub_log(UB_LOG_NOTICE, "line %u", i);
	/* Somebody reads again: what was kept comes out, with a word on what was not. */
	do {
		ssize_t n = read(c.pipe_fd, c.text + c.used, sizeof(c.text) - 1 - c.used);

		if (n <= 0)
			break;
		c.used += (size_t)n;
		count_lines(c.text, &nr_written, &nr_dropped);
	} while (nr_written + nr_dropped < NR_LINES);
	ub_log_flush();
	capture_end(&c);
	alarm(0);
	count_lines(c.text, &nr_written, &nr_dropped);
	assert_in_range(nr_written, 128, 129); /* the buffer, and the one that was being written */
	assert_int_equal(nr_written + nr_dropped, NR_LINES);
}

static void lines_that_a_sink_refused_are_counted(void **state)
{
	static struct captured c;

	(void)state;
	ub_log_to_sink(sink);
	sunk.refuse = true;
	for (unsigned i = 0; i < 3; i++)
		ub_log(UB_LOG_ERROR, "lost");
	ub_log_to_sink(NULL);
	capture_begin(&c);
	ub_log(UB_LOG_NOTICE, "next");
	ub_log_flush();
	capture_end(&c);
	assert_string_equal(c.text, "ublk-bridge: 3 log lines were dropped\nublk-bridge: next\n");
}

#define SINK_TEST(f) cmocka_unit_test_setup_teardown(f, sink_setup, sink_teardown)

/* ---- whose line it is, and how many -------------------------------------- */

/* In a child: the device stays set. */
static void log_of_a_device(void)
{
	ub_log(UB_LOG_WARNING, "too early");
	ub_log_set_device("/dev/ublkb1", "one");
	ub_log(UB_LOG_WARNING, "nbd://host: offline");
	ub_log(UB_LOG_WARNING, "/dev/ublkb1: served");
	ub_log(UB_LOG_WARNING, "STOP of /dev/ublkb1");
	ub_log(UB_LOG_WARNING, "like /dev/ublkb12 it is");
	ub_log(UB_LOG_WARNING, "neither /dev/ublkb12 nor /dev/ublkb1");
}

static void lines_that_do_not_name_their_device_begin_with_it(void **state)
{
	static struct captured c;
	int status;
	pid_t pid;

	(void)state;
	capture_begin(&c);
	pid = fork();
	if (pid == 0) {
		log_of_a_device();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	capture_end(&c);
	assert_string_equal(c.text, "ublk-bridge: too early\n"
				    "ublk-bridge: /dev/ublkb1: nbd://host: offline\n"
				    "ublk-bridge: /dev/ublkb1: served\n"
				    "ublk-bridge: STOP of /dev/ublkb1\n"
				    "ublk-bridge: /dev/ublkb1: like /dev/ublkb12 it is\n"
				    "ublk-bridge: neither /dev/ublkb12 nor /dev/ublkb1\n");
}

static void too_many_lines_are_dropped_and_counted(void **state)
{
	struct ub_log_limit limit = { 0 };
	unsigned dropped;
	bool is_first;

	(void)state;
	for (unsigned i = 0; i < UB_LOG_LIMIT_LINES; i++) {
		assert_true(ub_log_limit_pass(&limit, 1000 + i, &dropped, &is_first));
		assert_int_equal(dropped, 0);
		assert_false(is_first);
	}
	for (unsigned i = 0; i < 7; i++) {
		assert_false(
			ub_log_limit_pass(&limit, 1000 + UB_LOG_LIMIT_MS - 1, &dropped, &is_first));
		assert_int_equal(dropped, 0);
		assert_true(is_first == (i == 0));
	}
	assert_true(ub_log_limit_pass(&limit, 1000 + UB_LOG_LIMIT_MS, &dropped, &is_first));
	assert_int_equal(dropped, 7);
	assert_false(is_first);
	assert_true(ub_log_limit_pass(&limit, 1000 + UB_LOG_LIMIT_MS, &dropped, &is_first));
	assert_int_equal(dropped, 0);
}

static void levels_have_names(void **state)
{
	enum ub_log_level level = UB_LOG_ERROR;

	(void)state;
	for (unsigned i = UB_LOG_ERROR; i <= UB_LOG_DEBUG; i++) {
		assert_int_equal(ub_log_level_parse(ub_log_level_name(i), &level), 0);
		assert_int_equal(level, i);
	}
	assert_int_equal(ub_log_level_parse("err", &level), -EINVAL);
	assert_int_equal(ub_log_level_parse("", &level), -EINVAL);
}

static void stderr_is_the_journals_only_if_it_is_the_one_named(void **state)
{
	char text[64];
	struct stat st;

	(void)state;
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(text, sizeof(text), "%llu:%llu", (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino);
	unsetenv("JOURNAL_STREAM");
	assert_false(ub_journal_is_stderr());
	setenv("JOURNAL_STREAM", text, 1);
	assert_true(ub_journal_is_stderr());
	snprintf(text, sizeof(text), "%llu:%llu", (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino + 1);
	setenv("JOURNAL_STREAM", text, 1);
	assert_false(ub_journal_is_stderr()); /* inherited, and redirected since */
	setenv("JOURNAL_STREAM", "nonsense", 1);
	assert_false(ub_journal_is_stderr());
	unsetenv("JOURNAL_STREAM");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(notices_are_kept_and_debug_is_not_by_default),
		SINK_TEST(a_level_cuts_what_is_above_it),
		SINK_TEST(the_sink_gets_level_and_text),
		SINK_TEST(long_lines_are_cut),
		cmocka_unit_test(without_a_thread_lines_go_out_at_once),
		/* a child, so without a thread, too */
		cmocka_unit_test(lines_that_do_not_name_their_device_begin_with_it),
		cmocka_unit_test(the_thread_writes_lines_in_order),
		cmocka_unit_test(a_stuck_reader_drops_lines_and_blocks_nobody),
		cmocka_unit_test(lines_that_a_sink_refused_are_counted),
		cmocka_unit_test(too_many_lines_are_dropped_and_counted),
		cmocka_unit_test(levels_have_names),
		cmocka_unit_test(stderr_is_the_journals_only_if_it_is_the_one_named),
	};

	return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
