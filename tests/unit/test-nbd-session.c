/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a server says of its export: the limits that are made of it, and when it is another one. */
#include "unit.h"

#include <errno.h>

#include "backend/limits.h"
#include "backend/nbd/session.h"
#include "base/log.h"

static unsigned nr_warnings;
static char warning[UB_LOG_LINE_BYTES];

static bool sink(enum ub_log_level level, const char *line)
{
	nr_warnings += level == UB_LOG_WARNING;
	snprintf(warning, sizeof(warning), "%s", line);
	return true;
}

static struct nbd_export an_export(void)
{
	return (struct nbd_export){
		.size_bytes = 1 << 30,
		.min_block_bytes = 1,
		.max_payload_bytes = 32 << 20,
		.can_flush = true,
		.can_fua = true,
		.can_trim = true,
		.can_zero = true,
		.multi_conn = true,
	};
}

/* Limits that the core accepts, too. */
static struct ub_limits limits_of(const struct nbd_export *e, uint32_t block)
{
	struct ub_limits l;
	struct ub_err err = { 0 };

	if (nbd_export_limits(e, block, &l, &err) != 0 || ub_limits_check(&l, &err) != 0)
		fail_msg("%s", err.text);
	return l;
}

static void assert_no_limits(const struct nbd_export *e, uint32_t block, int code, const char *says)
{
	struct ub_limits l;
	struct ub_err err = { 0 };

	assert_int_equal(nbd_export_limits(e, block, &l, &err), -code);
	unit_assert_says(err.text, says);
}

static void a_plain_export_has_plain_limits(void **state)
{
	struct nbd_export e = an_export();
	struct ub_limits l = limits_of(&e, 0);

	(void)state;
	assert_int_equal(l.size_bytes, 1 << 30);
	assert_int_equal(l.logical_block_bytes, 512);
	assert_int_equal(l.physical_block_bytes, 4096);
	assert_int_equal(l.optimal_io_bytes, 0);
	assert_int_equal(l.max_io_bytes, 32 << 20);
	assert_true(l.can_flush && l.can_fua && l.can_trim && l.can_zero && l.multi_conn);
	assert_false(l.read_only || l.rotational);
	assert_int_equal(l.max_discard_bytes, 1 << 30);
	assert_int_equal(l.max_zeroes_bytes, 1 << 30);
	assert_int_equal(nr_warnings, 0);
}

static void blocks_come_from_the_server_and_the_user(void **state)
{
	struct nbd_export e = an_export();
	struct ub_limits l;

	(void)state;
	e.min_block_bytes = 4096;
	e.preferred_block_bytes = 65536;
	l = limits_of(&e, 0);
	assert_int_equal(l.logical_block_bytes, 4096);
	assert_int_equal(l.physical_block_bytes, 4096);
	assert_int_equal(l.optimal_io_bytes, 65536);
	assert_no_limits(&e, 512, EINVAL, "--block-size 512 is finer");
	e.min_block_bytes = 512;
	e.preferred_block_bytes = 512;
	assert_int_equal(limits_of(&e, 0).physical_block_bytes, 512);
	assert_int_equal(limits_of(&e, 4096).logical_block_bytes, 4096);
	assert_int_equal(limits_of(&e, 4096).physical_block_bytes, 4096);
	e.preferred_block_bytes = 3000; /* no power of two: nothing is preferred */
	assert_int_equal(limits_of(&e, 0).physical_block_bytes, 4096);
	assert_int_equal(limits_of(&e, 0).optimal_io_bytes, 0);
	e.min_block_bytes = 8192;
	assert_no_limits(&e, 0, ENOTSUP, "minimum block is 8192");
	e.min_block_bytes = 1000;
	assert_no_limits(&e, 0, EPROTO, "not a power of two");
}

static void sizes_are_whole_blocks(void **state)
{
	struct nbd_export e = an_export();

	(void)state;
	e.size_bytes = 1000;
	assert_int_equal(limits_of(&e, 0).size_bytes, 512);
	assert_int_equal(nr_warnings, 1);
	unit_assert_says(warning, "last 488 bytes");
	e.size_bytes = 511;
	assert_no_limits(&e, 0, EINVAL, "not one block");
	e.size_bytes = 0;
	assert_no_limits(&e, 0, EINVAL, "not one block");
	e.size_bytes = INT64_MAX;
	assert_true(limits_of(&e, 0).size_bytes == INT64_MAX / 512 * 512);
}

static void the_largest_io_is_the_servers(void **state)
{
	struct nbd_export e = an_export();

	(void)state;
	e.max_payload_bytes = 65536 + 513;
	assert_int_equal(limits_of(&e, 0).max_io_bytes, 65536);
	e.max_payload_bytes = 512; /* the engine splits */
	assert_int_equal(limits_of(&e, 0).max_io_bytes, 4096);
}

static void abilities_are_the_servers(void **state)
{
	struct nbd_export e = an_export();
	struct ub_limits l;

	(void)state;
	e.can_flush = e.can_fua = e.can_trim = e.can_zero = e.multi_conn = false;
	e.rotational = true;
	l = limits_of(&e, 0);
	assert_false(l.can_flush || l.can_fua || l.can_trim || l.can_zero || l.multi_conn);
	assert_true(l.rotational);
	assert_int_equal(l.max_discard_bytes, 0);
	assert_int_equal(l.max_zeroes_bytes, 0);
	assert_int_equal(nr_warnings, 1);
	unit_assert_says(warning, "no flush");
	e = an_export();
	e.read_only = true;
	l = limits_of(&e, 0);
	assert_true(l.read_only);
	assert_false(l.can_trim || l.can_zero);
}

/* ---- another export ------------------------------------------------------ */

static struct nbd_export first, now;
static unsigned nr_connections;

static int compare_setup(void **state)
{
	(void)state;
	nr_warnings = 0;
	ub_log_to_sink(sink);
	nr_connections = 2;
	first = an_export();
	first.has_tls = true;
	snprintf(first.name, sizeof(first.name), "a");
	snprintf(first.description, sizeof(first.description), "d");
	now = first;
	return 0;
}

static void assert_same(void)
{
	struct ub_limits l = limits_of(&first, 0);
	struct ub_err err = { 0 };

	if (nbd_export_compare(&first, &now, &l, nr_connections, &err) != 0)
		fail_msg("%s", err.text);
	now = first;
}

static void assert_differs(const char *says)
{
	struct ub_limits l = limits_of(&first, 0);
	struct ub_err err = { 0 };

	assert_int_equal(nbd_export_compare(&first, &now, &l, nr_connections, &err), -ESTALE);
	unit_assert_says(err.text, "another export answers: ");
	unit_assert_says(err.text, says);
	now = first;
}

static void each_difference_is_named(void **state)
{
	(void)state;
	now.size_bytes = (1 << 30) - 512;
	assert_differs("it has 1023.9 MiB (1073741312 bytes) and the device 1 GiB");
	now.min_block_bytes = 1024;
	assert_differs("minimum block is 1024 bytes and the device's 512");
	now.read_only = true;
	assert_differs("read only");
	now.can_flush = false;
	assert_differs("no flush");
	now.can_fua = false;
	assert_differs("no FUA");
	now.can_trim = false;
	assert_differs("no trim");
	now.can_zero = false;
	assert_differs("no write-zeroes");
	now.multi_conn = false;
	assert_differs("several connections");
	now.has_tls = false;
	assert_differs("no TLS");
	snprintf(now.name, sizeof(now.name), "b");
	assert_differs("its name is 'b' and was 'a'");
	snprintf(now.description, sizeof(now.description), "e");
	assert_differs("its description is 'e' and was 'd'");
}

static void a_read_only_device_misses_nothing_that_writes(void **state)
{
	struct ub_limits l = limits_of(&first, 0);
	struct ub_err err = { 0 };

	(void)state;
	l.read_only = true;
	now.read_only = true;
	now.can_trim = now.can_zero = false;
	assert_int_equal(nbd_export_compare(&first, &now, &l, nr_connections, &err), 0);
	now = first;
}

static void all_differences_are_named_and_fit(void **state)
{
	(void)state;
	now = (struct nbd_export){ .min_block_bytes = 65536, .read_only = true };
	memset(now.name, 'n', sizeof(now.name) - 1);
	memset(now.description, 'd', sizeof(now.description) - 1);
	assert_differs("; it is read only; it has no flush; it has no FUA; it has no trim");
}

static void what_is_no_difference_is_none(void **state)
{
	(void)state;
	assert_same();
	now.size_bytes = 2ULL << 30; /* it has grown */
	assert_same();
	now.max_payload_bytes = 4096;
	assert_same();
	now.preferred_block_bytes = 65536;
	assert_same();
	now.has_structured_replies = !now.has_structured_replies;
	assert_same();
	now.rotational = true;
	assert_same();
	now.name[0] = now.description[0] = '\0'; /* it does not say */
	assert_same();
	nr_connections = 1;
	now.multi_conn = false;
	assert_same();
	/* What the device never had. */
	first.can_trim = first.can_flush = first.has_tls = false;
	now = first;
	now.can_trim = now.can_flush = now.has_tls = true;
	assert_same();
	first.read_only = true;
	now = first;
	now.can_zero = false; /* a read-only device has none */
	assert_same();
	now.read_only = false;
	assert_same();
	/* A tail beyond the device's last block is not missed. */
	first = an_export();
	first.size_bytes = 1000;
	now = first;
	now.size_bytes = 512;
	assert_same();
}

/* What libnbd 1.14 to 1.22 says, behind the name of the call. */
static void reasons_are_told_once_with_the_remedy(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
		{ "connect: localhost:10810: could not connect to remote host: Connection refused",
		  "Connection refused: no server listens on localhost port 10810" },
		{ "connect: ::1:10810: could not connect to remote host: Connection refused",
		  "Connection refused: no server listens on ::1 port 10810" },
		{ "connect: 10.0.0.1:10809: could not connect to remote host: No route to host",
		  "10.0.0.1:10809: No route to host" },
		{ "connect: Connection refused",
		  "Connection refused: no server listens on that socket" },
		{ "connect: No such file or directory",
		  "No such file or directory: there is no such socket" },
		{ "connect: Permission denied", "Permission denied" },
		{ "getaddrinfo: hostname \"nosuch.invalid\" port \"10809\": Name or service not "
		  "known",
		  "the name 'nosuch.invalid' cannot be resolved: Name or service not known" },
		{ "handshake: server has no export named 'da'ta': No such file or directory",
		  "the server has no export named 'da'ta': 'nbdinfo --list' shows those that it "
		  "has" },
		{ "handshake: server has no export named '': No such file or directory",
		  "no export is named, and the server has no default one: 'nbdinfo --list' shows "
		  "those that it has" },
		{ "handshake: server refused TLS, but handle TLS setting is 'require' (2): "
		  "Operation not supported",
		  "the server does not offer TLS, and the connection requires it (nbds:, --tls): "
		  "without TLS it is nbd:, or --tls=off" },
		{ "recv: Connection reset by peer", "recv: Connection reset by peer" },
		{ "getaddrinfo: hostname \"cut", "getaddrinfo: hostname \"cut" },
		{ "connect: : could not connect to remote host",
		  ": could not connect to remote host" },
		{ "", "" },
	};
	char buf[400];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_string_equal(nbd_reason_in_words(cases[i].text, buf, sizeof(buf)),
				    cases[i].want);
	/* a buffer of any size */
	for (size_t len = 1; len < 60; len++)
		assert_true(strlen(nbd_reason_in_words(cases[0].text, buf, len)) < len);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define SESSION_TEST(fn) cmocka_unit_test_setup(fn, compare_setup)
		SESSION_TEST(a_plain_export_has_plain_limits),
		SESSION_TEST(blocks_come_from_the_server_and_the_user),
		SESSION_TEST(sizes_are_whole_blocks),
		SESSION_TEST(the_largest_io_is_the_servers),
		SESSION_TEST(abilities_are_the_servers),
		SESSION_TEST(each_difference_is_named),
		SESSION_TEST(a_read_only_device_misses_nothing_that_writes),
		SESSION_TEST(all_differences_are_named_and_fit),
		SESSION_TEST(what_is_no_difference_is_none),
		SESSION_TEST(reasons_are_told_once_with_the_remedy),
	};

	return cmocka_run_group_tests_name("nbd-session", tests, NULL, NULL);
}
