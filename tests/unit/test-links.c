/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A dead server's connections: what their other ends see of it, and what the ledger says. */
#include "unit.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "keeper/links.h"

#define QUEUES 1
#define SLOTS  4
#define DEAD   4711
#define LIVING 4712

static struct ub_links links;
static struct ub_loop loop;
static struct ub_ledger *page;
static unsigned nr_fds; /* before a test */

static int links_setup(void **state)
{
	struct ub_err err = { 0 };

	(void)state;
	nr_fds = unit_nr_fds();
	links = (struct ub_links)UB_LINKS_NONE;
	ub_loop_init(&loop);
	page = calloc(1, ub_ledger_bytes(QUEUES, SLOTS));
	if (!page || ub_links_open(&links, &loop, &err) != 0)
		return -1;
	ub_ledger_init(page, QUEUES, SLOTS);
	links.ledger = page;
	return 0;
}

static int links_teardown(void **state)
{
	(void)state;
	ub_links_clear(&links);
	assert_null(links.ledger);
	ub_loop_remove(&loop, links.timer_fd);
	close(links.timer_fd);
	free(page);
	assert_int_equal(unit_nr_fds(), nr_fds);
	return 0;
}

/* Both ends of a connection over TCP: ends[0] is ours. */
static void tcp_pair(int ends[2])
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(address);

	assert_int_equal(bind(listener, (struct sockaddr *)&address, len), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &len), 0);
	ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(ends[0], (struct sockaddr *)&address, len), 0);
	ends[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(ends[1] >= 0);
	close(listener);
}

static void unix_pair(int ends[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
}

/* As a server writes it. */
static struct ub_ledger_conn *enter(unsigned side, unsigned i, pid_t pid, uint32_t id,
				    unsigned state)
{
	struct ub_ledger_conn *conn = ub_ledger_conn(page, side, i);

	conn->pid = pid;
	conn->id = id;
	conn->state = state;
	return conn;
}

/* The keeper holds a duplicate; the process has its own, which goes with it. */
static void hold(pid_t pid, uint32_t id, int ours)
{
	ub_links_add(&links, pid, id, fcntl(ours, F_DUPFD_CLOEXEC, 0));
}

static void dies(pid_t pid, int ours)
{
	close(ours);
	ub_links_server_died(&links, pid);
}

static void assert_reset(const struct ub_ledger_conn *conn, bool was_closed)
{
	assert_int_equal(conn->state, UB_CONN_RESET);
	assert_true(conn->reset_ms + 10000 > ub_now_ms() && conn->reset_ms <= ub_now_ms());
	assert_int_equal(!!(conn->flags & UB_CONN_CLOSED), was_closed);
}

/* The loop runs until there is nothing held any more. */
static void await_none(void)
{
	uint64_t deadline = ub_now_ms() + 10000;

	while (links.nr && ub_now_ms() < deadline)
		ub_loop_once(&loop, 1000);
	assert_int_equal(links.nr, 0);
}

/* ---- TCP ----------------------------------------------------------------- */

static void what_is_on_its_way_over_tcp_is_purged(void **state)
{
	struct ub_ledger_conn *conn = enter(0, 0, DEAD, 7, UB_CONN_OPEN);
	static char big[1 << 20];
	char scrap[1 << 16];
	size_t sent = 0, got = 0;
	int ends[2];
	ssize_t n;

	(void)state;
	tcp_pair(ends);
	hold(DEAD, 7, ends[0]);
	while ((n = send(ends[0], big, sizeof(big), MSG_DONTWAIT)) > 0)
		sent += (size_t)n;
	dies(DEAD, ends[0]);
	assert_reset(conn, false);
	assert_int_equal(links.nr, 0);
	while ((n = recv(ends[1], scrap, sizeof(scrap), 0)) > 0)
		got += (size_t)n;
	assert_true(n < 0 && errno == ECONNRESET);
	assert_true(got < sent);
	close(ends[1]);
}

static void a_close_by_the_other_end_is_noted(void **state)
{
	struct ub_ledger_conn *conn = enter(1, 3, DEAD, 1, UB_CONN_OPEN);
	int ends[2];

	(void)state;
	tcp_pair(ends);
	hold(DEAD, 1, ends[0]);
	assert_int_equal(send(ends[1], "not read", 8, 0), 8);
	close(ends[1]);
	dies(DEAD, ends[0]);
	assert_reset(conn, true);
}

static void so_is_a_reset_by_the_other_end(void **state)
{
	static const struct linger reset = { .l_onoff = 1, .l_linger = 0 };
	struct ub_ledger_conn *conn = enter(0, 0, DEAD, 1, UB_CONN_OPEN);
	int ends[2];

	(void)state;
	tcp_pair(ends);
	hold(DEAD, 1, ends[0]);
	setsockopt(ends[1], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(ends[1]);
	dies(DEAD, ends[0]);
	assert_reset(conn, true);
}

/* What its process did to it looks like a close by now: only what it saw before that counts. */
static void of_one_that_was_given_up_nothing_new_is_found(void **state)
{
	struct ub_ledger_conn *tcp = enter(0, 0, DEAD, 1, UB_CONN_LOST),
			      *local = enter(0, 1, DEAD, 2, UB_CONN_LOST);
	int ends[2], pair[2];

	(void)state;
	tcp_pair(ends);
	unix_pair(pair);
	hold(DEAD, 1, ends[0]);
	hold(DEAD, 2, pair[0]);
	close(ends[1]);
	close(pair[1]);
	close(pair[0]);
	dies(DEAD, ends[0]);
	assert_reset(tcp, false);
	assert_reset(local, false);
}

/* ---- unix sockets -------------------------------------------------------- */

static void a_unix_socket_that_was_read_is_over_at_once(void **state)
{
	struct ub_ledger_conn *conn = enter(0, 0, DEAD, 1, UB_CONN_OPEN);
	char scrap[8];
	int ends[2];

	(void)state;
	unix_pair(ends);
	hold(DEAD, 1, ends[0]);
	assert_int_equal(send(ends[0], "write", 5, 0), 5);
	assert_int_equal(recv(ends[1], scrap, sizeof(scrap), 0), 5);
	dies(DEAD, ends[0]);
	assert_reset(conn, false);
	assert_int_equal(links.nr, 0);
	assert_int_equal(recv(ends[1], scrap, sizeof(scrap), 0), 0);
	close(ends[1]);
}

static void a_unix_socket_is_held_until_all_is_read(void **state)
{
	struct ub_ledger_conn *conn = enter(1, 0, DEAD, 1, UB_CONN_OPEN);
	char scrap[8];
	int ends[2];

	(void)state;
	unix_pair(ends);
	hold(DEAD, 1, ends[0]);
	assert_int_equal(send(ends[0], "write", 5, 0), 5);
	dies(DEAD, ends[0]);
	for (unsigned i = 0; i < 4; i++)
		ub_loop_once(&loop, 1000);
	assert_int_equal(conn->state, UB_CONN_LOST);
	assert_true(conn->reset_ms == 0);
	assert_int_equal(links.nr, 1);
	assert_int_equal(recv(ends[1], scrap, sizeof(scrap), 0), 5);
	await_none();
	assert_reset(conn, false);
	close(ends[1]);
	/* And the timer is at rest. */
	assert_int_equal(poll(&(struct pollfd){ .fd = links.timer_fd, .events = POLLIN }, 1, 120),
			 0);
}

static void or_dropped(void **state)
{
	struct ub_ledger_conn *conn = enter(0, 0, DEAD, 1, UB_CONN_OPEN);
	int ends[2];

	(void)state;
	unix_pair(ends);
	hold(DEAD, 1, ends[0]);
	assert_int_equal(send(ends[0], "write", 5, 0), 5);
	dies(DEAD, ends[0]);
	assert_int_equal(conn->state, UB_CONN_LOST);
	close(ends[1]);
	await_none();
	assert_reset(conn, false); /* what it does after us is no word of its own */
}

static void a_unix_socket_that_the_other_end_closed_is_noted(void **state)
{
	struct ub_ledger_conn *conn = enter(0, 0, DEAD, 1, UB_CONN_OPEN);
	int ends[2];

	(void)state;
	unix_pair(ends);
	hold(DEAD, 1, ends[0]);
	assert_int_equal(send(ends[1], "not read", 8, 0), 8);
	close(ends[1]);
	dies(DEAD, ends[0]);
	assert_reset(conn, true);
}

/* ---- who is meant -------------------------------------------------------- */

static void only_the_dead_ones_are_reset_and_on_both_sides(void **state)
{
	struct ub_ledger_conn *a = enter(0, 5, DEAD, 1, UB_CONN_OPEN),
			      *b = enter(1, 5, DEAD, 2, UB_CONN_OPEN);
	struct ub_ledger_conn *other = enter(0, 6, LIVING, 1, UB_CONN_OPEN),
			      *over = enter(0, 7, DEAD, 3, UB_CONN_RESET);
	int one[2], two[2], three[2];

	(void)state;
	unix_pair(one);
	unix_pair(two);
	unix_pair(three);
	hold(DEAD, 1, one[0]);
	hold(DEAD, 2, two[0]);
	hold(LIVING, 1, three[0]);
	close(two[0]);
	dies(DEAD, one[0]);
	assert_reset(a, false);
	assert_reset(b, false);
	assert_int_equal(other->state, UB_CONN_OPEN);
	assert_true(over->reset_ms == 0);
	assert_int_equal(links.nr, 1);
	assert_int_equal(send(three[0], "x", 1, MSG_NOSIGNAL), 1);
	dies(LIVING, three[0]);
	assert_int_equal(other->state, UB_CONN_LOST); /* of which nobody has read the x */
	close(one[1]);
	close(two[1]);
	close(three[1]);
	await_none();
}

/* There were too many, or another keeper had it: its last descriptor went with the process. */
static void one_that_is_not_held_is_over(void **state)
{
	struct ub_ledger_conn *conn = enter(0, 0, DEAD, 9, UB_CONN_OPEN);

	(void)state;
	ub_links_server_died(&links, DEAD);
	assert_reset(conn, false);
}

/* Of a server that has no ledger, or has just given the entry back. */
static void one_without_an_entry_is_reset_too(void **state)
{
	char scrap[8];
	int ends[2];

	(void)state;
	links.ledger = NULL;
	tcp_pair(ends);
	hold(DEAD, 1, ends[0]);
	dies(DEAD, ends[0]);
	assert_int_equal(links.nr, 0);
	assert_int_equal(recv(ends[1], scrap, sizeof(scrap), 0), -1);
	assert_int_equal(errno, ECONNRESET);
	close(ends[1]);
}

static void what_another_keeper_held_is_over(void **state)
{
	struct ub_ledger_conn *lost = enter(0, 0, DEAD, 1, UB_CONN_LOST),
			      *open = enter(1, 1, DEAD, 2, UB_CONN_OPEN);
	struct ub_ledger_conn *mine = enter(0, 2, LIVING, 3, UB_CONN_OPEN),
			      *free_one = enter(1, 2, DEAD, 3, UB_CONN_FREE);

	(void)state;
	lost->flags = UB_CONN_CLOSED;
	ub_links_inherit(&links, LIVING);
	assert_reset(lost, true);
	assert_reset(open, false);
	assert_int_equal(mine->state, UB_CONN_OPEN);
	assert_int_equal(free_one->state, UB_CONN_FREE);
	ub_links_inherit(&links, 0);
	assert_reset(mine, false);
}

static void there_is_an_end_to_how_many_are_held(void **state)
{
	int ends[2];

	(void)state;
	unix_pair(ends);
	for (unsigned i = 0; i < UB_LINKS_MAX; i++)
		links.held[links.nr++] = (struct ub_link){ .pid = LIVING, .id = i, .fd = -1 };
	hold(LIVING, 1000, ends[0]);
	assert_int_equal(links.nr, UB_LINKS_MAX);
	ub_links_drop(&links, LIVING, 1000);
	ub_links_drop(&links, LIVING, 5);
	assert_int_equal(links.nr, UB_LINKS_MAX - 1);
	close(ends[0]);
	close(ends[1]);
}

#define LINKS_TEST(test) cmocka_unit_test_setup_teardown(test, links_setup, links_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LINKS_TEST(what_is_on_its_way_over_tcp_is_purged),
		LINKS_TEST(a_close_by_the_other_end_is_noted),
		LINKS_TEST(so_is_a_reset_by_the_other_end),
		LINKS_TEST(of_one_that_was_given_up_nothing_new_is_found),
		LINKS_TEST(a_unix_socket_that_was_read_is_over_at_once),
		LINKS_TEST(a_unix_socket_is_held_until_all_is_read),
		LINKS_TEST(or_dropped),
		LINKS_TEST(a_unix_socket_that_the_other_end_closed_is_noted),
		LINKS_TEST(only_the_dead_ones_are_reset_and_on_both_sides),
		LINKS_TEST(one_that_is_not_held_is_over),
		LINKS_TEST(one_without_an_entry_is_reset_too),
		LINKS_TEST(what_another_keeper_held_is_over),
		LINKS_TEST(there_is_an_end_to_how_many_are_held),
	};

	return cmocka_run_group_tests_name("links", tests, NULL, NULL);
}
