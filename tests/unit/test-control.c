/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control.sock: requests as they should be and as they should not, many clients, late answers; and
 * the client's end.
 */
#include "unit.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/log.h"
#include "keeper/keeper.h"
#include "keeper/note.h"
#include "keeper/tables.h"
#include "keeper/job/set.h"
#include "keeper/job/verbs.h"

#define NR_CLIENTS  20
#define FUZZ_ROUNDS 6000
#define REPLY_BYTES 65536

static struct nbd_options nbd;
static struct ub_attach_options opts;
static struct ub_keeper keeper;
static int server_fd; /* the other end of the keeper's */
static struct sockaddr_un address;

static bool swallow(enum ub_log_level level, const char *line)
{
	(void)level;
	(void)line;
	return true;
}

/* A keeper with a live NBD device, as far as its control socket sees one. */
static int keeper_setup(void **state)
{
	const char *tmp = getenv("TMPDIR");
	int listen_fd, pair[2];

	(void)state;
	ub_log_to_sink(swallow);
	ub_log_set_level(UB_LOG_NOTICE);
	nbd_options_init(&nbd);
	opts = (struct ub_attach_options){ .side = { .kind = "nbd", .nbd = &nbd, .fd = -1 } };
	ub_keeper_init(&keeper, &opts, ub_keeper_jobs, ub_keeper_verbs);
	ub_life_enter(&keeper, UB_LIVE);
	keeper.device.info.dev_id = 7;
	keeper.side->limits.size_bytes = 1 << 20;
	keeper.device.data_path = UB_DATA_PATH_COPY;
	strcpy(keeper.rundir.name, "seven");
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	keeper.server->fd = pair[0];
	keeper.server->version = UB_MESSAGE_VERSION;
	server_fd = pair[1];
	address.sun_family = AF_UNIX;
	snprintf(address.sun_path, sizeof(address.sun_path), "%.70s/ub-control-%d.sock",
		 tmp && *tmp ? tmp : "/tmp", getpid());
	unlink(address.sun_path);
	listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listen_fd, 64), 0);
	ub_control_open(&keeper.control, &keeper, ub_keeper_verbs, &keeper.loop, listen_fd);
	return 0;
}

static int keeper_teardown(void **state)
{
	(void)state;
	ub_control_close(&keeper.control);
	close(keeper.server->fd);
	close(server_fd);
	unlink(address.sun_path);
	for (unsigned i = 0; i < UB_LOOP_MAX; i++)
		assert_int_equal(keeper.loop.sources[i].fd, -1);
	return 0;
}

/* The keeper does what there is to do. */
static void pump(void)
{
	for (unsigned i = 0; i < 8; i++)
		ub_loop_once(&keeper.loop, 0);
}

static int client_new(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	pump();
	return fd;
}

static void client_send(int fd, const char *text, size_t len)
{
	assert_int_equal(send(fd, text, len, MSG_NOSIGNAL), len);
	pump();
}

static void client_say(int fd, const char *text)
{
	client_send(fd, text, strlen(text));
}

/* What has come, at most a line; NULL: nothing, or the end. The caller's to json_decref(). */
static json_t *client_hear(int fd)
{
	static char line[REPLY_BYTES];
	size_t len = 0;
	json_t *reply;

	while (len < sizeof(line) && recv(fd, line + len, 1, MSG_DONTWAIT) == 1) {
		if (line[len++] == '\n')
			break;
	}
	if (!len)
		return NULL;
	assert_int_equal(line[len - 1], '\n');
	reply = json_loadb(line, len, 0, NULL);
	assert_true(json_is_object(reply));
	assert_int_equal(json_integer_value(json_object_get(reply, "version")), UB_CONTROL_VERSION);
	assert_true(json_is_boolean(json_object_get(reply, "ok")));
	return reply;
}

static bool client_has_nothing(int fd)
{
	return poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 0) == 0;
}

static bool client_was_let_go(int fd)
{
	char byte;
	ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);

	return n == 0 || (n < 0 && errno == ECONNRESET);
}

static void assert_ok(int fd)
{
	json_t *reply = client_hear(fd);

	assert_non_null(reply);
	if (!json_is_true(json_object_get(reply, "ok")))
		fail_msg("refused: %s", json_string_value(json_object_get(reply, "error")));
	json_decref(reply);
}

static void assert_refused(int fd, const char *name, const char *part)
{
	json_t *reply = client_hear(fd);

	assert_non_null(reply);
	assert_true(json_is_false(json_object_get(reply, "ok")));
	assert_string_equal(json_string_value(json_object_get(reply, "errno")), name);
	assert_non_null(json_string_value(json_object_get(reply, "error")));
	unit_assert_says(json_string_value(json_object_get(reply, "error")), part);
	json_decref(reply);
}

#define INFO	     "{\"version\":1,\"verb\":\"info\"}\n"
#define SET(members) "{\"version\":1,\"verb\":\"set\"," members "}\n"
#define DETACH	     "{\"version\":1,\"verb\":\"detach\"}\n"

/* ---- one request --------------------------------------------------------- */

static void a_request_is_answered(void **state)
{
	int fd = client_new();
	json_t *reply;

	(void)state;
	client_say(fd, INFO);
	reply = client_hear(fd);
	assert_non_null(reply);
	assert_string_equal(json_string_value(json_object_get(reply, "name")), "seven");
	assert_string_equal(json_string_value(json_object_get(reply, "device")), "/dev/ublkb7");
	assert_string_equal(json_string_value(json_object_get(reply, "state")), "live");
	assert_true(json_is_null(json_object_get(reply, "outage_limit_ms")));
	assert_int_equal(json_integer_value(json_object_get(reply, "stall_timeout_ms")),
			 NBD_DEFAULT_STALL_MS);
	assert_string_equal(json_string_value(json_object_get(reply, "log_level")), "notice");
	json_decref(reply);
	/* Members that this version does not know are those of a newer client. */
	client_say(fd, "{\"version\":1,\"verb\":\"info\",\"colour\":[1,{\"a\":null}]}\n");
	assert_ok(fd);
	opts.side.nbd = NULL;
	client_say(fd, INFO);
	reply = client_hear(fd);
	assert_null(json_object_get(reply, "outage_limit_ms"));
	assert_null(json_object_get(reply, "stall_timeout_ms"));
	json_decref(reply);
	close(fd);
	pump();
}

/* What the ledger has of the present side. */
static void info_tells_what_is_waited_for(void **state)
{
	struct ub_ledger *ledger = calloc(1, ub_ledger_bytes(1, 8));
	struct ub_ledger_range *range;
	int fd = client_new();
	json_t *reply, *fence;

	(void)state;
	ub_ledger_init(ledger, 1, 8);
	range = ub_ledger_range(ledger, 0, 3);
	range->end = 1ULL << 40;
	range->state = UB_RANGE;
	ub_ledger_side(ledger, 0)->nr_losses = 2;
	ub_ledger_side(ledger, 0)->lost_bytes = 4096;
	keeper.shared.ledger = ledger;
	client_say(fd, INFO);
	reply = client_hear(fd);
	fence = json_object_get(reply, "fence");
	assert_string_equal(json_string_value(json_object_get(fence, "policy")), "time");
	assert_int_equal(json_integer_value(json_object_get(fence, "ranges")), 1);
	assert_int_equal(json_integer_value(json_object_get(fence, "bytes")), 1 << 20);
	assert_true(json_is_null(json_object_get(fence, "deadline_ms")));
	fence = json_object_get(reply, "losses");
	assert_int_equal(json_integer_value(json_object_get(fence, "bytes")), 4096);
	assert_int_equal(json_integer_value(json_object_get(reply, "unflushed_bytes")), 0);
	json_decref(reply);
	opts.side.nbd = NULL;
	client_say(fd, INFO);
	reply = client_hear(fd);
	assert_true(json_is_null(json_object_get(reply, "fence")));
	assert_true(json_is_null(json_object_get(reply, "losses")));
	json_decref(reply);
	close(fd);
	pump();
	free(ledger);
}

static void what_is_no_request_is_refused_and_the_next_is_taken(void **state)
{
	static const struct {
		const char *line, *name, *says;
	} cases[] = {
		{ "{\"version\":2,\"verb\":\"info\"}\n", "EPROTONOSUPPORT",
		  "version 1 of the protocol, not 2" },
		{ "{\"version\":\"1\",\"verb\":\"info\"}\n", "EPROTONOSUPPORT", "version 1" },
		{ "{\"version\":1.0,\"verb\":\"info\"}\n", "EPROTONOSUPPORT", "version 1" },
		{ "{\"verb\":\"info\"}\n", "EPROTONOSUPPORT", "version 1" },
		{ "{\"version\":99999999999999999999,\"verb\":\"info\"}\n", "EBADMSG",
		  "one JSON object" },
		{ "{\"version\":1}\n", "EBADMSG", "names no verb" },
		{ "{\"version\":1,\"verb\":7}\n", "EBADMSG", "names no verb" },
		{ "{\"version\":1,\"verb\":\"frobnicate\"}\n", "EOPNOTSUPP",
		  "no verb 'frobnicate'" },
		{ "{\"version\":1,\"verb\":\"\"}\n", "EOPNOTSUPP", "no verb ''" },
		/* Cut in the middle of a letter of two bytes. */
		{ "{\"version\":1,\"verb\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\xc3\xa9\"}\n",
		  "EOPNOTSUPP", "no verb" },
		{ "{\"version\":1,\"verb\":\"a\\u000ab\\u001b[2J\"}\n", "EOPNOTSUPP", "no verb" },
		{ "{\"version\":1,\"verb\":\"info\",\"verb\":\"set\"}\n", "EBADMSG",
		  "one JSON object" },
		{ "{\"version\":1,\"verb\":\"info\"} {}\n", "EBADMSG", "one JSON object" },
		{ "{\"version\":1,\"verb\":\"info\"\n", "EBADMSG", "one JSON object" },
		{ "{\"version\":1,\"verb\":\"i\\u0000\"}\n", "EBADMSG", "one JSON object" },
		{ "{\"version\":1,\"verb\":\"\xff\xfe\"}\n", "EBADMSG", "one JSON object" },
		{ "{\"version\":1,\"verb\":\"\xc0\xaf\"}\n", "EBADMSG", "one JSON object" },
		{ "{\"version\":1,\"verb\":\"\xed\xa0\x80\"}\n", "EBADMSG", "one JSON object" },
		{ "[]\n", "EBADMSG", "one JSON object" },
		{ "1\n", "EBADMSG", "one JSON object" },
		{ "null\n", "EBADMSG", "one JSON object" },
		{ "\n", "EBADMSG", "one JSON object" },
		{ "\r\n", "EBADMSG", "one JSON object" },
		{ "GET / HTTP/1.1\n", "EBADMSG", "one JSON object" },
		{ "\x16\x03\x01\n", "EBADMSG", "one JSON object" },
	};
	int fd = client_new();

	(void)state;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		client_say(fd, cases[i].line);
		assert_refused(fd, cases[i].name, cases[i].says);
		client_say(fd, INFO);
		assert_ok(fd);
	}
	/* A 0 in the line, which text functions would take for its end. */
	client_send(fd, "{\"version\":1,\"verb\":\"info\"}\0\n", strlen(INFO) + 1);
	assert_refused(fd, "EBADMSG", "one JSON object");
	client_send(fd, "{\"version\":1,\"ve\0rb\":\"info\"}\n", strlen(INFO) + 1);
	assert_refused(fd, "EBADMSG", "one JSON object");
	client_say(fd, INFO);
	assert_ok(fd);
	close(fd);
	pump();
}

static void what_is_deep_is_refused(void **state)
{
	static char line[UB_CONTROL_REQUEST_BYTES];
	static const char *const openings[] = { "[", "{\"a\":" };
	int fd = client_new();

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		size_t each = strlen(openings[i]), len = 0;

		while (len + each < sizeof(line) - 1) {
			memcpy(line + len, openings[i], each);
			len += each;
		}
		line[len++] = '\n';
		client_send(fd, line, len);
		assert_refused(fd, "EBADMSG", "one JSON object");
	}
	close(fd);
	pump();
}

/* A request of len bytes with its newline. */
static void make_request(char *line, size_t len)
{
	int n = snprintf(line, len, "{\"version\":1,\"verb\":\"info\",\"x\":\"");

	memset(line + n, 'x', len - (size_t)n);
	/* NOLINTNEXTLINE(bugprone-not-null-terminated-result): a line ends with its newline */
	memcpy(line + len - 3, "\"}\n", 3);
}

static void a_line_has_a_longest_length(void **state)
{
	static char line[2 * UB_CONTROL_REQUEST_BYTES];
	int fd = client_new();

	(void)state;
	make_request(line, UB_CONTROL_REQUEST_BYTES);
	client_send(fd, line, UB_CONTROL_REQUEST_BYTES);
	assert_ok(fd);
	make_request(line, UB_CONTROL_REQUEST_BYTES + 1);
	client_send(fd, line, UB_CONTROL_REQUEST_BYTES + 1);
	assert_refused(fd, "EMSGSIZE", "at most 16383 bytes");
	assert_true(client_was_let_go(fd)); /* where the next line begins nobody knows */
	close(fd);
	fd = client_new();
	memset(line, 'a', sizeof(line));
	client_send(fd, line, sizeof(line));
	assert_refused(fd, "EMSGSIZE", "at most 16383 bytes");
	assert_true(client_was_let_go(fd));
	close(fd);
	pump();
}

static void a_request_without_its_end_is_none(void **state)
{
	int fd = client_new();

	(void)state;
	client_send(fd, INFO, strlen(INFO) - 1);
	assert_true(client_has_nothing(fd));
	client_say(fd, "\n");
	assert_ok(fd);
	client_send(fd, INFO, strlen(INFO) - 1);
	shutdown(fd, SHUT_WR);
	pump();
	assert_true(client_was_let_go(fd));
	close(fd);
}

/* ---- how it comes -------------------------------------------------------- */

static void many_requests_in_a_packet_are_answered_in_their_order(void **state)
{
	char lines[UB_CONTROL_REQUEST_BYTES] = "";
	int fd = client_new();
	unsigned nr = 0;

	(void)state;
	while (strlen(lines) + 2 * strlen(INFO) < sizeof(lines)) {
		strcat(lines, nr++ % 2 ? "{\"version\":3}\n" : INFO);
	}
	client_say(fd, lines);
	for (unsigned i = 0; i < nr; i++) {
		if (i % 2)
			assert_refused(fd, "EPROTONOSUPPORT", "not 3");
		else
			assert_ok(fd);
	}
	assert_true(client_has_nothing(fd));
	close(fd);
	pump();
}

static void a_request_may_come_byte_by_byte(void **state)
{
	int fd = client_new();

	(void)state;
	for (const char *at = INFO; *at; at++) {
		assert_true(client_has_nothing(fd));
		client_send(fd, at, 1);
	}
	assert_ok(fd);
	close(fd);
	pump();
}

static void silent_clients_make_room(void **state)
{
	int fds[NR_CLIENTS], busy = client_new();

	(void)state;
	for (unsigned i = 0; i < NR_CLIENTS; i++) {
		/* One that speaks stays, however many come. */
		usleep(2000);
		client_say(busy, INFO);
		assert_ok(busy);
		usleep(2000);
		fds[i] = client_new();
	}
	client_say(busy, INFO);
	assert_ok(busy);
	for (unsigned i = 0; i < NR_CLIENTS; i++) {
		if (i < NR_CLIENTS - (UB_CONTROL_MAX_CLIENTS - 1)) {
			assert_true(client_was_let_go(fds[i]));
		} else {
			client_say(fds[i], INFO);
			assert_ok(fds[i]);
		}
		close(fds[i]);
	}
	close(busy);
	pump();
}

static void one_that_never_reads_is_let_go(void **state)
{
	int fd = client_new(), other = client_new();
	unsigned nr = 0;

	(void)state;
	while (send(fd, INFO, strlen(INFO), MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)strlen(INFO)) {
		ub_loop_once(&keeper.loop, 0);
		assert_true(nr++ < 1000000);
	}
	assert_int_equal(errno, EPIPE);
	client_say(other, INFO);
	assert_ok(other);
	close(fd);
	close(other);
	pump();
}

/* ---- late answers -------------------------------------------------------- */

static struct ub_msg_set server_take_set(void)
{
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)];
	const struct ub_msg_set *msg = (const struct ub_msg_set *)inbox;
	int fds[UB_MESSAGE_MAX_FDS];

	assert_int_equal(ub_message_receive(server_fd, inbox, fds, MSG_DONTWAIT), 0);
	assert_int_equal(msg->header.type, UB_MSG_SET);
	assert_int_equal(msg->header.len_bytes, sizeof(*msg));
	return *msg;
}

static void server_answers(int code, const char *text)
{
	struct ub_msg_text answer = { .header = { .type = UB_MSG_SET, .len_bytes = sizeof(answer) },
				      .value = (uint32_t)code };

	strcpy(answer.text, text);
	ub_jobs_hear(&keeper, &answer.header);
	pump();
}

static void set_is_answered_by_the_server(void **state)
{
	int fd = client_new();
	struct ub_msg_set msg;
	json_t *reply;

	(void)state;
	client_say(fd, SET("\"outage_limit_ms\":1500,\"log_level\":\"debug\""));
	assert_true(client_has_nothing(fd));
	msg = server_take_set();
	assert_int_equal(msg.settings.which, UB_SET_OUTAGE_LIMIT | UB_SET_LOG_LEVEL);
	assert_int_equal(msg.settings.outage_limit_ms, 1500);
	assert_int_equal(msg.settings.log_level, UB_LOG_DEBUG);
	assert_true(nbd.outage_limit_ms == NBD_NO_LIMIT); /* not yet */
	server_answers(0, "");
	assert_int_equal(nbd.outage_limit_ms, 1500);
	assert_int_equal(nbd.stall_timeout_ms, NBD_DEFAULT_STALL_MS);
	assert_int_equal(ub_log_get_level(), UB_LOG_DEBUG);
	reply = client_hear(fd);
	assert_int_equal(json_integer_value(json_object_get(reply, "outage_limit_ms")), 1500);
	json_decref(reply);

	client_say(fd, SET("\"outage_limit_ms\":null,\"stall_timeout_ms\":100"));
	msg = server_take_set();
	assert_true(msg.settings.outage_limit_ms == NBD_NO_LIMIT);
	server_answers(EOPNOTSUPP, "a device of mem has no outage-limit");
	assert_refused(fd, "EOPNOTSUPP", "no outage-limit");
	assert_int_equal(nbd.outage_limit_ms, 1500);
	assert_int_equal(nbd.stall_timeout_ms, NBD_DEFAULT_STALL_MS);

	client_say(fd, SET("\"fence_timeout_ms\":0"));
	msg = server_take_set();
	assert_int_equal(msg.settings.which, UB_SET_FENCE_TIMEOUT);
	assert_int_equal(msg.settings.fence_timeout_ms, 0);
	assert_int_equal(nbd.fence_timeout_ms, NBD_DEFAULT_FENCE_MS);
	server_answers(0, "");
	assert_int_equal(nbd.fence_timeout_ms, 0);
	reply = client_hear(fd);
	assert_true(json_is_integer(json_object_get(reply, "fence_timeout_ms")));
	assert_int_equal(json_integer_value(json_object_get(reply, "fence_timeout_ms")), 0);
	json_decref(reply);
	close(fd);
	pump();
}

/* It knows exactly so much of a SET. */
static void a_server_of_version_3_gets_what_it_knows(void **state)
{
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)];
	const struct ub_msg_set *msg = (const struct ub_msg_set *)inbox;
	int fd = client_new(), fds[UB_MESSAGE_MAX_FDS];

	(void)state;
	keeper.server->version = UB_MESSAGE_V3;
	client_say(fd, SET("\"outage_limit_ms\":1500"));
	assert_int_equal(ub_message_receive(server_fd, inbox, fds, MSG_DONTWAIT), 0);
	assert_int_equal(msg->header.len_bytes, 32);
	assert_int_equal(msg->settings.outage_limit_ms, 1500);
	server_answers(0, "");
	assert_ok(fd);
	client_say(fd, SET("\"outage_limit_ms\":1,\"fence_timeout_ms\":1"));
	assert_refused(fd, "EOPNOTSUPP", "upgrade the device");
	assert_true(client_has_nothing(server_fd));
	close(fd);
	pump();
}

static void what_cannot_be_set_does_not_come_to_the_server(void **state)
{
	static const struct {
		const char *line, *name, *says;
	} cases[] = {
		{ "{\"version\":1,\"verb\":\"set\"}\n", "EINVAL", "nothing is to be set" },
		{ SET("\"colour\":1"), "EINVAL", "nothing is to be set" },
		{ SET("\"outage_limit_ms\":\"1s\""), "EINVAL", "outage_limit_ms" },
		{ SET("\"outage_limit_ms\":1.5"), "EINVAL", "outage_limit_ms" },
		{ SET("\"outage_limit_ms\":true"), "EINVAL", "outage_limit_ms" },
		{ SET("\"outage_limit_ms\":-1"), "ERANGE", "between 0 and" },
		{ SET("\"outage_limit_ms\":9223372036854775807"), "ERANGE", "between 0 and" },
		{ SET("\"stall_timeout_ms\":99"), "ERANGE", "between 100 and" },
		{ SET("\"stall_timeout_ms\":null"), "EINVAL", "stall_timeout_ms" },
		{ SET("\"fence_timeout_ms\":-1"), "ERANGE", "between 0 and" },
		{ SET("\"fence_timeout_ms\":null"), "EINVAL", "fence_timeout_ms" },
		{ SET("\"log_level\":3"), "EINVAL", "log_level" },
		{ SET("\"log_level\":\"loud\""), "EINVAL", "log_level" },
		{ SET("\"outage_limit_ms\":5,\"log_level\":\"loud\""), "EINVAL", "log_level" },
	};
	int fd = client_new();

	(void)state;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		client_say(fd, cases[i].line);
		assert_refused(fd, cases[i].name, cases[i].says);
	}
	keeper.was_live = false;
	keeper.life = UB_ATTACHING;
	client_say(fd, SET("\"outage_limit_ms\":5"));
	assert_refused(fd, "EAGAIN", "not live");
	client_say(fd, DETACH);
	assert_refused(fd, "EAGAIN", "not live");
	assert_true(client_has_nothing(server_fd));
	close(fd);
	pump();
}

#define RESIZE(members) "{\"version\":1,\"verb\":\"resize\"" members "}\n"

static void what_is_no_size_is_refused_and_one_size_is_asked_for_at_a_time(void **state)
{
	static const struct {
		const char *line, *name, *says;
	} cases[] = {
		{ RESIZE(",\"size_bytes\":\"4M\""), "EINVAL", "number of bytes" },
		{ RESIZE(",\"size_bytes\":4096.0"), "EINVAL", "number of bytes" },
		{ RESIZE(",\"size_bytes\":null"), "EINVAL", "number of bytes" },
		{ RESIZE(",\"size_bytes\":0"), "ERANGE", "at least one block" },
		{ RESIZE(",\"size_bytes\":-4096"), "ERANGE", "at least one block" },
		{ RESIZE(",\"force\":1"), "EINVAL", "force" },
	};
	int fd = client_new(), other = client_new();

	(void)state;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		client_say(fd, cases[i].line);
		assert_refused(fd, cases[i].name, cases[i].says);
	}
	opts.side.nbd = NULL;
	client_say(fd, RESIZE(""));
	assert_refused(fd, "EINVAL", "give the size");
	opts.side.nbd = &nbd;
	assert_false(keeper.job.resize.is_asked);
	client_say(fd, RESIZE(",\"size_bytes\":8192,\"force\":true"));
	assert_true(client_has_nothing(fd));
	assert_true(keeper.job.resize.is_asked && keeper.job.resize.is_forced);
	assert_true(keeper.job.resize.size_bytes == 8192);
	client_say(other, RESIZE(""));
	assert_refused(other, "EBUSY", "being changed already");
	/* This kernel cannot, and whoever asked first is told. */
	assert_int_equal(ub_job_resize.tend(&keeper), -1);
	assert_refused(fd, "EOPNOTSUPP", "cannot change the size");
	client_say(other, RESIZE(""));
	assert_true(client_has_nothing(other));
	assert_true(keeper.job.resize.is_asked && !keeper.job.resize.is_forced &&
		    keeper.job.resize.size_bytes == 0);
	assert_true(client_has_nothing(server_fd));
	close(fd);
	close(other);
	pump();
}

/* The server tells that its export has grown. */
static void export_grows(void)
{
	struct ub_msg_header grown = { .type = UB_MSG_GROWN, .len_bytes = sizeof(grown) };

	ub_jobs_hear(&keeper, &grown);
}

static void only_a_device_that_shall_follow_follows_its_export(void **state)
{
	struct ub_err err = { 0 };

	(void)state;
	keeper.device.features = UBLK_F_UPDATE_SIZE;
	export_grows();
	assert_false(keeper.job.resize.is_asked);
	nbd.auto_resize = true;
	assert_int_equal(ub_resize_check_options(&keeper, &err), 0);
	export_grows();
	assert_true(keeper.job.resize.is_asked && !keeper.job.resize.has_caller &&
		    keeper.job.resize.size_bytes == 0);
	keeper.job.resize.is_asked = false;
	keeper.device.features = 0;
	export_grows();
	assert_false(keeper.job.resize.is_asked);
	assert_int_equal(ub_resize_check_options(&keeper, &err), -EOPNOTSUPP);
	unit_assert_says(err.text, "--auto-resize: this kernel");
}

static void a_request_behind_one_that_is_awaited_waits(void **state)
{
	int fd = client_new();

	(void)state;
	client_say(fd, SET("\"outage_limit_ms\":1") INFO SET("\"outage_limit_ms\":2") INFO);
	assert_true(client_has_nothing(fd));
	server_answers(0, "");
	assert_ok(fd);
	assert_ok(fd);
	assert_true(client_has_nothing(fd));
	assert_int_equal(nbd.outage_limit_ms, 1);
	server_answers(0, "");
	assert_ok(fd);
	assert_ok(fd);
	assert_int_equal(nbd.outage_limit_ms, 2);
	close(fd);
	pump();
}

/* More than its place has room for: it is taken when the answer has been given. */
static void what_comes_while_one_is_awaited_is_not_lost(void **state)
{
	static char line[UB_CONTROL_REQUEST_BYTES];
	int fd = client_new();

	(void)state;
	client_say(fd, SET("\"outage_limit_ms\":1"));
	make_request(line, sizeof(line));
	for (unsigned i = 0; i < 4; i++)
		client_send(fd, line, sizeof(line));
	assert_true(client_has_nothing(fd));
	server_answers(0, "");
	pump();
	for (unsigned i = 0; i < 5; i++)
		assert_ok(fd);
	close(fd);
	pump();
}

static void one_that_says_no_more_is_answered(void **state)
{
	int fd = client_new();

	(void)state;
	client_say(fd, SET("\"outage_limit_ms\":1") INFO);
	shutdown(fd, SHUT_WR);
	pump();
	server_answers(0, "");
	assert_ok(fd);
	assert_ok(fd);
	assert_true(client_was_let_go(fd));
	close(fd);
}

static void one_that_goes_before_its_answer_is_not_missed(void **state)
{
	int fd = client_new(), other;

	(void)state;
	client_say(fd, SET("\"outage_limit_ms\":1"));
	close(fd);
	pump();
	/* Others take all places: the answer must not come to them. */
	for (unsigned i = 0; i < UB_CONTROL_MAX_CLIENTS; i++) {
		other = client_new();
		client_say(other, SET("\"stall_timeout_ms\":200"));
		/* the one that has gone is still to be answered */
		if (i == UB_CONTROL_MAX_CLIENTS - 1)
			assert_refused(other, "EBUSY", "try again");
		else
			assert_true(client_has_nothing(other));
		if (i > 0)
			close(other);
		else
			fd = other;
	}
	pump();
	server_answers(0, "");
	assert_int_equal(nbd.outage_limit_ms, 1);
	assert_true(client_has_nothing(fd));
	server_answers(0, "");
	assert_ok(fd);
	while (keeper.job.settings.nr_asked)
		server_answers(EIO, "no");
	server_answers(0, "nobody has asked");
	close(fd);
	pump();
}

static void a_server_that_is_gone_answers_nobody(void **state)
{
	int one = client_new(), two = client_new();

	(void)state;
	client_say(one, SET("\"outage_limit_ms\":1"));
	client_say(two, SET("\"outage_limit_ms\":2"));
	ub_jobs_raise(&keeper, UB_EVENT_SERVER_DIED);
	assert_refused(one, "EIO", "not known");
	assert_refused(two, "EIO", "not known");
	assert_true(nbd.outage_limit_ms == NBD_NO_LIMIT);
	keeper.server->gone = true;
	client_say(one, SET("\"outage_limit_ms\":1"));
	assert_refused(one, "EAGAIN", "not live");
	close(one);
	close(two);
	pump();
}

static void all_who_detach_are_answered(void **state)
{
	int one = client_new(), two = client_new(), gone = client_new();
	struct ub_err busy = { .code = EBUSY, .text = "/dev/ublkb7 stays: mounted" };

	(void)state;
	client_say(one, "{\"version\":1,\"verb\":\"detach\",\"force\":1}\n");
	assert_refused(one, "EINVAL", "true or false");
	client_say(one, DETACH);
	client_say(two, DETACH);
	client_say(gone, DETACH);
	close(gone);
	pump();
	assert_int_equal(keeper.job.detach.callers.nr, 3);
	assert_false(keeper.job.detach.is_forced);
	ub_detach_answer(&keeper, &busy);
	assert_int_equal(keeper.job.detach.callers.nr, 0);
	assert_refused(one, "EBUSY", "mounted");
	assert_refused(two, "EBUSY", "mounted");
	client_say(one, DETACH);
	client_say(two, "{\"version\":1,\"verb\":\"detach\",\"force\":true}\n");
	assert_true(keeper.job.detach.is_forced);
	ub_detach_answer(&keeper, &(struct ub_err){ .code = 0 });
	assert_ok(one);
	assert_ok(two);
	/* Whoever asks and goes, again and again, fills no table. */
	for (unsigned i = 0; i < 3 * UB_CONTROL_MAX_CLIENTS; i++) {
		gone = client_new();
		client_say(gone, DETACH);
		close(gone);
		pump();
	}
	client_say(one, DETACH);
	ub_detach_answer(&keeper, &(struct ub_err){ .code = 0 });
	assert_ok(one);
	close(one);
	close(two);
	pump();
}

/* ---- what nobody thought of ---------------------------------------------- */

static size_t mutate(char *line, size_t len, uint64_t *seed)
{
	static const char tokens[] = "{}[]\",:\\\n\0\xff\xc3u0-9e.tfn ";
	unsigned nr = 1 + (unsigned)(unit_random(seed) % 4);

	for (unsigned i = 0; i < nr && len > 1; i++) {
		size_t at = unit_random(seed) % len;

		switch (unit_random(seed) % 5) {
		case 0:
			line[at] = (char)unit_random(seed);
			break;
		case 1:
			line[at] = tokens[unit_random(seed) % sizeof(tokens)];
			break;
		case 2:
			memmove(line + at, line + at + 1, len - at - 1);
			len--;
			break;
		case 3: {
			size_t from = unit_random(seed) % len, n = unit_random(seed) % 32;

			if (from + n <= len && len + n < (size_t)2 * UB_CONTROL_REQUEST_BYTES) {
				memmove(line + len, line + from, n);
				len += n;
			}
			break;
		}
		default:
			len = at + 1;
		}
	}
	return len;
}

static void fuzz_server(uint64_t *seed)
{
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)];
	int fds[UB_MESSAGE_MAX_FDS];

	while (ub_message_receive(server_fd, inbox, fds, MSG_DONTWAIT) == 0)
		server_answers(unit_random(seed) % 2 ? 0 : EINVAL, "as it was thrown");
	if (keeper.job.detach.callers.nr)
		ub_detach_answer(&keeper, &(struct ub_err){ .code = EBUSY, .text = "busy" });
}

static void mutated_requests_are_answered_or_let_go(void **state)
{
	static const char *const seeds[] = {
		INFO,
		DETACH,
		/* NOLINTNEXTLINE(bugprone-suspicious-missing-comma): SET is one string */
		SET("\"outage_limit_ms\":null,\"stall_timeout_ms\":1000,\"log_level\":\"warning\""),
		"{\"version\":1,\"verb\":\"detach\",\"force\":true}\n",
		"{\"version\":1,\"verb\":\"info\",\"a\":[1.5e3,{\"b\":[true,false,null,"
		"\"\\u00e9\\n\"]}]}\n",
	};
	static char line[2 * UB_CONTROL_REQUEST_BYTES + 64];
	uint64_t seed = 20250101;
	unsigned nr_ok = 0, nr_refused = 0;
	int fd = client_new();

	(void)state;
	for (unsigned i = 0; i < FUZZ_ROUNDS; i++) {
		const char *from = seeds[unit_random(&seed) % (sizeof(seeds) / sizeof(*seeds))];
		size_t len = strlen(from);
		json_t *reply;

		memcpy(line, from, len); /* NOLINT(bugprone-not-null-terminated-result): likewise */
		len = mutate(line, len, &seed);
		line[len++] = '\n';
		client_send(fd, line, len);
		fuzz_server(&seed);
		while ((reply = client_hear(fd))) {
			if (json_is_true(json_object_get(reply, "ok")))
				nr_ok++;
			else
				nr_refused++;
			json_decref(reply);
			fuzz_server(&seed);
		}
		if (unit_random(&seed) % 64 && !client_was_let_go(fd))
			continue;
		close(fd);
		fd = client_new();
	}
	/* It was no test of one path alone. */
	assert_true(nr_ok > FUZZ_ROUNDS / 50);
	assert_true(nr_refused > FUZZ_ROUNDS / 4);
	close(fd);
	fd = client_new();
	client_say(fd, INFO);
	assert_ok(fd);
	close(fd);
	pump();
}

int main(void)
{
#define CONTROL_TEST(fn) cmocka_unit_test_setup_teardown(fn, keeper_setup, keeper_teardown)
	const struct CMUnitTest tests[] = {
		CONTROL_TEST(a_request_is_answered),
		CONTROL_TEST(info_tells_what_is_waited_for),
		CONTROL_TEST(what_is_no_request_is_refused_and_the_next_is_taken),
		CONTROL_TEST(what_is_deep_is_refused),
		CONTROL_TEST(a_line_has_a_longest_length),
		CONTROL_TEST(a_request_without_its_end_is_none),
		CONTROL_TEST(many_requests_in_a_packet_are_answered_in_their_order),
		CONTROL_TEST(a_request_may_come_byte_by_byte),
		CONTROL_TEST(silent_clients_make_room),
		CONTROL_TEST(one_that_never_reads_is_let_go),
		CONTROL_TEST(set_is_answered_by_the_server),
		CONTROL_TEST(a_server_of_version_3_gets_what_it_knows),
		CONTROL_TEST(what_cannot_be_set_does_not_come_to_the_server),
		CONTROL_TEST(what_is_no_size_is_refused_and_one_size_is_asked_for_at_a_time),
		CONTROL_TEST(only_a_device_that_shall_follow_follows_its_export),
		CONTROL_TEST(a_request_behind_one_that_is_awaited_waits),
		CONTROL_TEST(what_comes_while_one_is_awaited_is_not_lost),
		CONTROL_TEST(one_that_says_no_more_is_answered),
		CONTROL_TEST(one_that_goes_before_its_answer_is_not_missed),
		CONTROL_TEST(a_server_that_is_gone_answers_nobody),
		CONTROL_TEST(all_who_detach_are_answered),
		CONTROL_TEST(mutated_requests_are_answered_or_let_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
