/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stands between an NBD client and a real NBD server, knows where in the protocol each byte is, and
 * does what rules say at that place: it cuts, stalls, corrupts, or answers in the server's stead.
 *
 *   nbdproxy --listen WHERE --server WHERE [--control FIFO] [--log FILE] [--lie] [RULE…]
 *
 * WHERE is unix:PATH or tcp:PORT (of 127.0.0.1). A RULE is one argument, or one line written to
 * FIFO:
 *
 *   cut|reset|half-close|stall|freeze|corrupt STAGE[:BYTE] [KEY=VALUE…] [FLAG…]
 *   error|late-error|error-at|short|none|outside|twice|simple|refuse|unknown|duplicate [KEY=VALUE…]
 *   clear     forgets all rules            release   lets stalled connections go on
 *
 *   STAGE   from the server: greeting, option-reply, option-data, reply, data, raw-server
 *           from the client: flags, option, option-body, request, payload, raw-client
 *           accept: a connection comes; ready: it is negotiated, and nothing was sent yet; now: at
 *           once, on the connections there are
 *           (raw: bytes that are not understood, and that is all of them under TLS; BYTE counts
 *           them from when the rule was armed)
 *   BYTE    so many bytes of the stage are let through before that; also mid, last (all but one)
 *           and end
 *
 *   cut        the connection ends orderly; reset: with a RST where TCP is
 *   half-close nothing more comes from this side of it, and the receiver sees its end: one that is
 *              cut, but that the client may write to for as long as it likes, when the server's
 *              side is meant
 *   stall      the rest of what comes from this side waits; freeze: of both sides
 *   corrupt    the byte is changed
 *   error      answers a request with an error: of a READ in a chunk where those were agreed on;
 *              error-at: with an offset; late-error: after all of its data
 *   short      answers a READ with half of it; none: with no data; outside: with data that it did
 *              not ask for; twice: with the first half, twice; simple: with a simple reply, no
 *              matter what was agreed on
 *   refuse     says that the server does not know an option (opt=8: structured replies)
 *   unknown    a reply to nothing before the request's own; duplicate: a second one after it
 *
 *   at=N      at the Nth time (1)          every=N   at each Nth time
 *   times=N   so often (1; 0: for ever)    cmd=NAME  of read, write, flush, trim, zero, disc only
 *   conn=N    the Nth connection only      flight=N  with N requests in flight on it or more
 *   err=N     what error answers (5)       xor=N     what corrupt does to the byte (255)
 *   for=MS    how long a stall lasts       opt=N     of this option only
 *   new       of connections that come later only
 *   all       ends or stalls all connections, not only the one where it happens
 *   dead      a stalled connection does not pass on that the client hangs up
 *
 * Each rule gets a number, said in the log: "armed 1: …", and "fired 1: …" when it was done, so
 * that a test knows of each fault that it did happen. What is malformed is passed on as it is, and
 * said.
 *
 * A connection that a rule ends is seen by the client as ended only when the server has let go of
 * it: as when the server itself ends it, nothing that was sent over it is executed after that.
 *
 * With --lie it is as other proxies are (a load balancer, stunnel, ssh): a client that ends its
 * side, if only by half, is closed at once, and so is one that a rule ends, while the server's side
 * stays open for as long as the server likes, with all that it still does.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define IN_BYTES	65536UL
#define OUT_LIMIT_BYTES (4 * IN_BYTES) /* more is not read before it is gone */
#define MAX_CONNS	256
#define MAX_RULES	256
#define MAX_FLIGHT	1024
#define LINE_BYTES	512
#define LET_GO_MS	5000 /* the longest that a server's end of a connection is waited for */
#define LINGER_MS	1000

#define GREETING_BYTES	   18
#define FLAGS_BYTES	   4
#define OPTION_BYTES	   16
#define OPTION_REPLY_BYTES 20
#define EXPORT_BYTES	   10 /* the answer to NBD_OPT_EXPORT_NAME, and its padding */
#define EXPORT_PAD_BYTES   124
#define REQUEST_BYTES	   28
#define SIMPLE_BYTES	   16
#define CHUNK_BYTES	   20

#define NBDMAGIC	 0x4e42444d41474943ULL
#define IHAVEOPT	 0x49484156454f5054ULL
#define OPTION_REPLY	 0x0003e889045565a9ULL
#define REQUEST_MAGIC	 0x25609513U
#define SIMPLE_MAGIC	 0x67446698U
#define STRUCTURED_MAGIC 0x668e33efU

enum { OPT_EXPORT_NAME = 1, OPT_STARTTLS = 5, OPT_GO = 7, OPT_STRUCTURED = 8, OPT_EXTENDED = 11 };
enum { REP_ACK = 1, REP_ERR_UNSUP = 0x80000001, FLAG_NO_ZEROES = 2 };
enum { CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_ZERO = 6 };
enum { CHUNK_NONE, CHUNK_DATA, CHUNK_ERROR = 32769, CHUNK_ERROR_AT = 32770, CHUNK_DONE = 1 };

enum stage {
	GREETING,
	REPLY_OPTION,
	OPTION_DATA,
	REPLY,
	DATA,
	RAW_SERVER,
	FLAGS,
	OPTION,
	OPTION_BODY,
	REQUEST,
	PAYLOAD,
	RAW_CLIENT,
	ACCEPT,
	READY,
	NOW,
	NR_STAGES
};

static const char *const stage_names[NR_STAGES] = {
	"greeting",   "option-reply", "option-data", "reply",	    "data",
	"raw-server", "flags",	      "option",	     "option-body", "request",
	"payload",    "raw-client",   "accept",	     "ready",	    "now",
};

enum action {
	CUT,
	RESET,
	HALF_CLOSE,
	STALL,
	FREEZE,
	CORRUPT,
	ERROR,
	LATE_ERROR,
	ERROR_AT,
	SHORT,
	NONE,
	OUTSIDE,
	TWICE,
	SIMPLE,
	REFUSE,
	UNKNOWN,
	DUPLICATE,
	NR_ACTIONS
};

static const char *const action_names[NR_ACTIONS] = {
	"cut",	 "reset",      "half-close", "stall",	"freeze",    "corrupt",
	"error", "late-error", "error-at",   "short",	"none",	     "outside",
	"twice", "simple",     "refuse",     "unknown", "duplicate",
};

static const struct {
	const char *name;
	int cmd;
} cmd_names[] = {
	{ "read", CMD_READ },	{ "write", CMD_WRITE }, { "disc", CMD_DISC },
	{ "flush", CMD_FLUSH }, { "trim", CMD_TRIM },	{ "zero", CMD_ZERO },
};

enum where { FROM_START, MID, LAST, END };

struct rule {
	unsigned id; /* 0: unused */
	enum action action;
	enum stage stage;
	enum where where;
	uint64_t byte, seen_bytes; /* seen: of raw stages */
	uint64_t at, every, times, conn, flight, err, xor, for_ms;
	int cmd, opt; /* -1: any */
	bool only_new, all, dead;
	uint64_t seen, fired;
	unsigned after_conn; /* only_new: of those that came later */
	char text[LINE_BYTES];
};

struct bytes {
	uint8_t *data;
	size_t len, size;
};

struct request {
	uint64_t cookie, offset;
	uint32_t len;
	uint16_t cmd;
};

struct conn;

/* One side's bytes on their way to the other. */
struct way {
	struct conn *conn;
	bool from_client;
	enum stage stage;
	bool is_body; /* `left` bytes of it are to come; else it is gathered in `header` */
	uint8_t header[32];
	unsigned have, want, done; /* done: passed on, once all is there */
	uint64_t left, pos;
	struct rule *rule; /* to be done in this stage, at `trigger` */
	unsigned rule_id;
	uint64_t trigger;
	bool swallow;	    /* the request is answered here */
	struct request req; /* of the unit: the request, or the one that is replied to */
	uint32_t opt, rep;
	bool is_last; /* the reply ends with this unit */

	uint8_t in[IN_BYTES];
	size_t in_pos, in_len;
	struct bytes out;
	bool stalled, dead, muted, is_eof, eof_passed;
	uint64_t stalled_until_ms; /* 0: until it is told */
};

struct conn {
	unsigned nr;
	int client_fd, server_fd;
	struct way up, down; /* from the client, from the server */
	bool is_transmission, is_structured, no_zeroes;
	struct request flight[MAX_FLIGHT];
	unsigned nr_flight;
	struct bytes injected;		/* replies of ours, for the next place between two */
	bool ending, is_reset, lingers; /* it ends; and the client has been told */
	bool stays;			/* … and is left alone with its side */
	/* --lie: the client is gone, and the server does not know */
	bool is_orphan;
	uint64_t deadline_ms;
};

static struct {
	const char *listen, *server, *control, *log;
	bool lies;
	int listen_fd, control_fd;
	FILE *out;
	struct conn *conns[MAX_CONNS];
	unsigned nr_accepted, nr_rules;
	struct rule rules[MAX_RULES];
	char line[LINE_BYTES];
	size_t line_len;
} g = { .listen_fd = -1, .control_fd = -1 };

/* ---- small things -------------------------------------------------------- */

static void die(const char *what)
{
	fprintf(stderr, "nbdproxy: %s: %s\n", what, strerror(errno));
	exit(1);
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(g.out, format, args);
	va_end(args);
	fputc('\n', g.out);
	fflush(g.out);
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static uint64_t get_be(const uint8_t *p, unsigned bytes)
{
	uint64_t value = 0;

	while (bytes--)
		value = value << 8 | *p++;
	return value;
}

static uint8_t *put_be(uint8_t *p, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		p[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
	return p + bytes;
}

/* Appends; NULL data: zeroes of the proxy's own, which no test writes: 0x5a. */
static void bytes_add(struct bytes *b, const void *data, size_t len)
{
	if (b->len + len > b->size) {
		b->size = 2 * (b->len + len);
		b->data = realloc(b->data, b->size);
		if (!b->data)
			die("memory");
	}
	if (data)
		memcpy(b->data + b->len, data, len);
	else
		memset(b->data + b->len, 0x5a, len);
	b->len += len;
}

static void bytes_drop(struct bytes *b, size_t len)
{
	memmove(b->data, b->data + len, b->len - len);
	b->len -= len;
}

/* ---- rules --------------------------------------------------------------- */

static int find_name(const char *const names[], int nr, const char *name)
{
	for (int i = 0; i < nr; i++) {
		if (strcmp(names[i], name) == 0)
			return i;
	}
	return -1;
}

static bool parse_number(const char *text, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 0);
	return *text >= '0' && *text <= '9' && !*end && !errno;
}

static bool parse_stage(struct rule *r, char *word)
{
	char *byte = strchr(word, ':');
	int stage;

	if (byte)
		*byte++ = '\0';
	stage = find_name(stage_names, NR_STAGES, word);
	if (stage < 0)
		return false;
	r->stage = (enum stage)stage;
	if (!byte)
		return true;
	if (strcmp(byte, "mid") == 0)
		r->where = MID;
	else if (strcmp(byte, "last") == 0)
		r->where = LAST;
	else if (strcmp(byte, "end") == 0)
		r->where = END;
	else
		return parse_number(byte, &r->byte);
	return r->stage != RAW_CLIENT && r->stage != RAW_SERVER;
}

static bool parse_cmd(struct rule *r, const char *name)
{
	for (size_t i = 0; i < sizeof(cmd_names) / sizeof(cmd_names[0]); i++) {
		if (strcmp(cmd_names[i].name, name) == 0)
			r->cmd = cmd_names[i].cmd;
	}
	return r->cmd >= 0;
}

static bool parse_setting(struct rule *r, char *word)
{
	const struct {
		const char *name;
		uint64_t *value;
	} numbers[] = {
		{ "at", &r->at },     { "every", &r->every },	{ "times", &r->times },
		{ "conn", &r->conn }, { "flight", &r->flight }, { "err", &r->err },
		{ "xor", &r->xor },   { "for", &r->for_ms },
	};
	char *value = strchr(word, '=');
	uint64_t number;

	if (!value) {
		r->only_new |= strcmp(word, "new") == 0;
		r->all |= strcmp(word, "all") == 0;
		r->dead |= strcmp(word, "dead") == 0;
		return strcmp(word, "new") == 0 || strcmp(word, "all") == 0 ||
		       strcmp(word, "dead") == 0;
	}
	*value++ = '\0';
	if (strcmp(word, "cmd") == 0)
		return parse_cmd(r, value);
	if (!parse_number(value, &number))
		return false;
	if (strcmp(word, "opt") == 0) {
		r->opt = (int)number;
		return true;
	}
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		if (strcmp(numbers[i].name, word) == 0) {
			*numbers[i].value = number;
			return true;
		}
	}
	return false;
}

/* A rule from its words; false: it is none. */
static bool rule_parse(struct rule *r, const char *text)
{
	char copy[LINE_BYTES], *save = NULL, *word;
	int action;

	memset(r, 0, sizeof(*r));
	r->at = r->times = 1;
	r->err = EIO;
	r->xor = 0xff;
	r->cmd = r->opt = -1;
	snprintf(r->text, sizeof(r->text), "%s", text);
	snprintf(copy, sizeof(copy), "%s", text);
	word = strtok_r(copy, " ", &save);
	action = word ? find_name(action_names, NR_ACTIONS, word) : -1;
	if (action < 0)
		return false;
	r->action = (enum action)action;
	if (r->action <= CORRUPT) {
		word = strtok_r(NULL, " ", &save);
		if (!word || !parse_stage(r, word))
			return false;
	} else {
		r->stage = r->action == DUPLICATE ? REPLY : r->action == REFUSE ? OPTION : REQUEST;
	}
	while ((word = strtok_r(NULL, " ", &save))) {
		if (!parse_setting(r, word))
			return false;
	}
	if (r->action >= LATE_ERROR && r->action <= SIMPLE)
		r->cmd = CMD_READ;
	return r->action != CORRUPT || (r->xor &0xff);
}

static bool rule_wants(const struct rule *r, const struct conn *conn, enum stage stage, int cmd,
		       int opt)
{
	return r->id && r->stage == stage && (!r->conn || r->conn == conn->nr) &&
	       (!r->only_new || conn->nr > r->after_conn) && (r->cmd < 0 || r->cmd == cmd) &&
	       (r->opt < 0 || r->opt == opt) && conn->nr_flight >= r->flight;
}

/* Counts this time; whether it is one at which the rule is to be done. */
static bool rule_is_due(struct rule *r)
{
	r->seen++;
	if (r->every)
		return r->seen % r->every == 0;
	return r->seen >= r->at;
}

static void rule_fired(struct rule *r, const struct conn *conn, uint64_t byte)
{
	say("fired %u: %s [connection %u, %s byte %llu, %u in flight]", r->id, r->text, conn->nr,
	    stage_names[r->stage], (unsigned long long)byte, conn->nr_flight);
	r->fired++;
	if (r->times && r->fired >= r->times)
		r->id = 0;
}

/* ---- connections: their end ---------------------------------------------- */

/*
 * What was let through goes out yet; then the server's end is waited for, and then the client's
 * goes.
 */
static void conn_close_client(struct conn *conn)
{
	static const struct linger reset = { .l_onoff = 1, .l_linger = 0 };

	if (conn->client_fd < 0)
		return;
	if (conn->is_reset)
		setsockopt(conn->client_fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(conn->client_fd);
	conn->client_fd = -1;
}

static void conn_end(struct conn *conn, bool is_reset)
{
	if (conn->ending)
		return;
	conn->ending = true;
	conn->is_reset = is_reset;
	conn->up.in_pos = conn->up.in_len = conn->down.in_pos = conn->down.in_len = 0;
	conn->deadline_ms = now_ms() + LET_GO_MS;
	if (g.lies && conn->server_fd >= 0) {
		conn->is_orphan = true;
		conn->deadline_ms = UINT64_MAX;
		conn_close_client(conn);
		say("connection %u: the server is not told", conn->nr);
	}
}

static void conn_close(struct conn *conn)
{
	conn_close_client(conn);
	if (conn->server_fd >= 0)
		close(conn->server_fd);
	for (unsigned i = 0; i < MAX_CONNS; i++) {
		if (g.conns[i] == conn)
			g.conns[i] = NULL;
	}
	say("connection %u is closed", conn->nr);
	free(conn->up.out.data);
	free(conn->down.out.data);
	free(conn->injected.data);
	free(conn);
}

static void way_stall(struct way *w, const struct rule *r)
{
	w->stalled = true;
	w->dead = r->dead;
	w->stalled_until_ms = r->for_ms ? now_ms() + r->for_ms : 0;
}

static void conn_apply(struct conn *conn, struct way *w, const struct rule *r)
{
	switch (r->action) {
	case CUT:
	case RESET:
		conn_end(conn, r->action == RESET);
		break;
	case HALF_CLOSE:
		w->muted = w->from_client;
		conn->stays = !w->from_client;
		if (conn->stays)
			conn_end(conn, false);
		break;
	case STALL:
		way_stall(w, r);
		break;
	case FREEZE:
		way_stall(&conn->up, r);
		way_stall(&conn->down, r);
		break;
	default:
		break;
	}
}

/*
 * Does what a rule says, at byte `byte` of what it named. `rule_fired` may end the rule: take a
 * copy.
 */
static void rule_do(struct rule *rule, struct conn *conn, struct way *w, uint64_t byte)
{
	struct rule r = *rule;

	rule_fired(rule, conn, byte);
	if (!r.all) {
		conn_apply(conn, w, &r);
		return;
	}
	for (unsigned i = 0; i < MAX_CONNS; i++) {
		struct conn *other = g.conns[i];

		if (other)
			conn_apply(other, w->from_client ? &other->up : &other->down, &r);
	}
}

/* Rules for what happens to the connection as a whole. */
static void conn_match(struct conn *conn, enum stage stage)
{
	for (unsigned i = 0; i < MAX_RULES; i++) {
		struct rule *r = &g.rules[i];

		if (rule_wants(r, conn, stage, -1, -1) && rule_is_due(r)) {
			rule_do(r, conn, &conn->down, 0);
			return;
		}
	}
}

/* ---- requests in flight, and answers of our own -------------------------- */

static bool conn_add_request(struct conn *conn, const struct request *req)
{
	if (conn->nr_flight == MAX_FLIGHT)
		return false;
	conn->flight[conn->nr_flight++] = *req;
	return true;
}

static struct request *conn_find_request(struct conn *conn, uint64_t cookie)
{
	for (unsigned i = 0; i < conn->nr_flight; i++) {
		if (conn->flight[i].cookie == cookie)
			return &conn->flight[i];
	}
	return NULL;
}

static void conn_forget_request(struct conn *conn, uint64_t cookie)
{
	struct request *req = conn_find_request(conn, cookie);

	if (req)
		*req = conn->flight[--conn->nr_flight];
}

static void add_simple(struct bytes *b, uint64_t cookie, uint64_t err)
{
	uint8_t header[SIMPLE_BYTES];

	put_be(put_be(put_be(header, SIMPLE_MAGIC, 4), err, 4), cookie, 8);
	bytes_add(b, header, sizeof(header));
}

static void add_chunk(struct bytes *b, uint64_t cookie, unsigned flags, unsigned type, uint32_t len)
{
	uint8_t header[CHUNK_BYTES], *p = put_be(header, STRUCTURED_MAGIC, 4);

	put_be(put_be(put_be(put_be(p, flags, 2), type, 2), cookie, 8), len, 4);
	bytes_add(b, header, sizeof(header));
}

/* A chunk of `len` bytes that nobody ever wrote. */
static void add_data(struct bytes *b, const struct request *req, unsigned flags, uint64_t offset,
		     uint32_t len)
{
	uint8_t at[8];

	add_chunk(b, req->cookie, flags, CHUNK_DATA, 8 + len);
	put_be(at, offset, 8);
	bytes_add(b, at, sizeof(at));
	bytes_add(b, NULL, len);
}

static void add_error(struct bytes *b, const struct request *req, uint64_t err, bool with_offset)
{
	static const char text[] = "by the proxy";
	const size_t text_len = sizeof(text) - 1;
	uint8_t head[6], at[8];

	add_chunk(b, req->cookie, CHUNK_DONE, with_offset ? CHUNK_ERROR_AT : CHUNK_ERROR,
		  (uint32_t)(6 + text_len + (with_offset ? 8 : 0)));
	put_be(put_be(head, err, 4), text_len, 2);
	bytes_add(b, head, sizeof(head));
	bytes_add(b, text, text_len);
	put_be(at, req->offset, 8);
	if (with_offset)
		bytes_add(b, at, sizeof(at));
}

static void add_refusal(struct bytes *b, uint32_t opt)
{
	uint8_t header[OPTION_REPLY_BYTES], *p = put_be(header, OPTION_REPLY, 8);

	put_be(put_be(put_be(p, opt, 4), REP_ERR_UNSUP, 4), 0, 4);
	bytes_add(b, header, sizeof(header));
}

static void add_answer(struct bytes *b, const struct rule *r, const struct conn *conn,
		       const struct request *req)
{
	uint32_t half = req->len / 2;

	if (req->cmd != CMD_READ || !conn->is_structured || r->action == SIMPLE) {
		add_simple(b, req->cookie, r->action == SIMPLE ? 0 : r->err);
		return;
	}
	switch (r->action) {
	case ERROR:
	case ERROR_AT:
		add_error(b, req, r->err, r->action == ERROR_AT);
		break;
	case LATE_ERROR:
		add_data(b, req, 0, req->offset, req->len);
		add_error(b, req, r->err, false);
		break;
	case SHORT:
		add_data(b, req, CHUNK_DONE, req->offset, half);
		break;
	case NONE:
		add_chunk(b, req->cookie, CHUNK_DONE, CHUNK_NONE, 0);
		break;
	case OUTSIDE:
		add_data(b, req, CHUNK_DONE, req->offset + req->len, req->len);
		break;
	default: /* TWICE */
		add_data(b, req, 0, req->offset, half);
		add_data(b, req, CHUNK_DONE, req->offset, half);
		break;
	}
}

/* Between two replies: those of ours. */
static void conn_inject(struct conn *conn)
{
	struct way *down = &conn->down;

	if (!conn->injected.len || down->stage != REPLY || down->is_body || down->done ||
	    down->muted)
		return;
	bytes_add(&down->out, conn->injected.data, conn->injected.len);
	conn->injected.len = 0;
}

/* A rule of those that answer, at a request or at the reply to it. */
static void conn_answer(struct conn *conn, struct way *w, struct rule *r)
{
	struct rule copy = *r;
	const struct request *req = &w->req;

	rule_fired(r, conn, 0);
	if (copy.action == REFUSE) {
		/* the client waits for it: there is nothing between */
		add_refusal(&conn->down.out, w->opt);
		w->swallow = true;
		return;
	}
	if (copy.action == UNKNOWN) {
		add_simple(&conn->injected, ~req->cookie, 0);
	} else if (copy.action == DUPLICATE) {
		if (req->cmd == CMD_READ && conn->is_structured)
			add_chunk(&conn->injected, req->cookie, CHUNK_DONE, CHUNK_NONE, 0);
		else
			add_simple(&conn->injected, req->cookie, 0);
		return; /* it follows what is passed on now */
	} else {
		add_answer(&conn->injected, &copy, conn, req);
		conn_forget_request(conn, req->cookie);
		w->swallow = true;
	}
	conn_inject(conn);
}

/* ---- ways: what a byte is ------------------------------------------------ */

static void way_header(struct way *w, enum stage stage, unsigned want)
{
	w->stage = stage;
	w->is_body = false;
	w->have = w->done = 0;
	w->want = want;
	w->rule = NULL;
	w->swallow = false;
}

static void way_raw(struct way *w)
{
	w->stage = w->from_client ? RAW_CLIENT : RAW_SERVER;
	w->is_body = true;
	w->rule = NULL;
	w->swallow = false;
}

static uint64_t rule_byte(const struct rule *r, uint64_t len)
{
	uint64_t byte = r->byte;

	if (r->where == MID)
		byte = len / 2;
	else if (r->where == LAST)
		byte = len ? len - 1 : 0;
	else if (r->where == END)
		byte = len;
	if (r->action == CORRUPT && byte >= len)
		byte = len ? len - 1 : 0;
	return byte < len ? byte : len;
}

/* The unit begins, and has `len` bytes: is anything to be done in it? */
static void way_match(struct way *w, uint64_t len)
{
	struct conn *conn = w->conn;
	bool is_option = w->stage == OPTION || w->stage == OPTION_BODY ||
			 w->stage == REPLY_OPTION || w->stage == OPTION_DATA;
	int cmd = is_option ? -1 : w->req.cmd, opt = is_option ? (int)w->opt : -1;

	w->rule = NULL;
	for (unsigned i = 0; i < MAX_RULES && !w->rule; i++) {
		struct rule *r = &g.rules[i];

		if (!rule_wants(r, conn, w->stage, cmd, opt) || !rule_is_due(r))
			continue;
		if (r->action > CORRUPT) {
			conn_answer(conn, w, r);
			return;
		}
		if (r->action == CORRUPT && !len)
			continue;
		w->rule = r;
		w->rule_id = r->id;
		w->trigger = rule_byte(r, len);
	}
}

static void way_body(struct way *w, enum stage stage, uint64_t len)
{
	bool swallow = w->swallow;

	w->stage = stage;
	w->is_body = true;
	w->left = len;
	w->pos = 0;
	w->rule = NULL;
	if (!swallow && len)
		way_match(w, len);
	w->swallow = swallow;
}

/* A server's option reply is whole: does the protocol go on in another way? */
static void conn_option_answered(struct conn *conn, uint32_t opt, uint32_t rep)
{
	if (rep != REP_ACK)
		return;
	if (opt == OPT_STARTTLS) {
		way_raw(&conn->up);
		way_raw(&conn->down);
		say("connection %u: TLS", conn->nr);
	} else if (opt == OPT_STRUCTURED) {
		conn->is_structured = true;
	} else if (opt == OPT_GO) {
		conn->is_transmission = true;
		way_header(&conn->up, REQUEST, REQUEST_BYTES);
		way_header(&conn->down, REPLY, SIMPLE_BYTES);
		conn_match(conn, READY);
	}
}

static void way_next(struct way *w);

/* The header is passed on: a body follows, or the next header. */
static void way_after_header(struct way *w)
{
	uint64_t len = 0;

	switch (w->stage) {
	case GREETING:
	case FLAGS:
		if (w->stage == FLAGS)
			w->conn->no_zeroes = w->header[3] & FLAG_NO_ZEROES;
		way_next(w);
		return;
	case OPTION:
		way_body(w, OPTION_BODY, get_be(w->header + 12, 4));
		break;
	case REPLY_OPTION:
		way_body(w, OPTION_DATA, get_be(w->header + 16, 4));
		break;
	case REQUEST:
		way_body(w, PAYLOAD, w->req.cmd == CMD_WRITE ? w->req.len : 0);
		break;
	default: /* REPLY */
		if (w->want == CHUNK_BYTES)
			len = get_be(w->header + 16, 4);
		else if (w->req.cmd == CMD_READ && !get_be(w->header + 4, 4))
			len = w->req.len;
		way_body(w, DATA, len);
		break;
	}
	if (!w->left && !w->rule)
		way_next(w);
}

/* The unit has ended: what comes now? */
static void way_next(struct way *w)
{
	struct conn *conn = w->conn;

	switch (w->stage) {
	case GREETING:
		way_header(w, REPLY_OPTION, OPTION_REPLY_BYTES);
		break;
	case FLAGS:
		way_header(w, OPTION, OPTION_BYTES);
		break;
	case OPTION_BODY:
		way_header(w, OPTION, OPTION_BYTES);
		if (w->opt != OPT_EXPORT_NAME)
			break;
		conn->is_transmission = true;
		conn->down.opt = OPT_EXPORT_NAME;
		way_header(w, REQUEST, REQUEST_BYTES);
		way_body(&conn->down, OPTION_DATA,
			 EXPORT_BYTES + (conn->no_zeroes ? 0 : EXPORT_PAD_BYTES));
		break;
	case OPTION_DATA:
		way_header(w, conn->is_transmission ? REPLY : REPLY_OPTION,
			   conn->is_transmission ? SIMPLE_BYTES : OPTION_REPLY_BYTES);
		if (!conn->is_transmission)
			conn_option_answered(conn, w->opt, w->rep);
		break;
	case PAYLOAD:
		way_header(w, REQUEST, REQUEST_BYTES);
		break;
	default: /* DATA */
		if (w->is_last)
			conn_forget_request(conn, w->req.cookie);
		way_header(w, REPLY, SIMPLE_BYTES);
		conn_inject(conn);
		break;
	}
}

static bool way_parse_request(struct way *w)
{
	const uint8_t *h = w->header;

	w->req = (struct request){ .cmd = (uint16_t)get_be(h + 6, 2),
				   .cookie = get_be(h + 8, 8),
				   .offset = get_be(h + 16, 8),
				   .len = (uint32_t)get_be(h + 24, 4) };
	return get_be(h, 4) == REQUEST_MAGIC &&
	       (w->req.cmd == CMD_DISC || conn_add_request(w->conn, &w->req));
}

static bool way_parse_reply(struct way *w)
{
	const uint8_t *h = w->header;
	bool is_chunk = w->want == CHUNK_BYTES;
	const struct request *req = conn_find_request(w->conn, get_be(h + 8, 8));

	w->is_last = !is_chunk || (get_be(h + 4, 2) & CHUNK_DONE);
	if (!req || get_be(h, 4) != (is_chunk ? STRUCTURED_MAGIC : SIMPLE_MAGIC))
		return false;
	w->req = *req;
	return true;
}

/* The header is whole. False: it is not what belongs here. */
static bool way_parse(struct way *w)
{
	const uint8_t *h = w->header;

	switch (w->stage) {
	case GREETING:
		return get_be(h, 8) == NBDMAGIC && get_be(h + 8, 8) == IHAVEOPT;
	case OPTION:
		w->opt = (uint32_t)get_be(h + 8, 4);
		return get_be(h, 8) == IHAVEOPT && w->opt != OPT_EXTENDED;
	case REPLY_OPTION:
		w->opt = (uint32_t)get_be(h + 8, 4);
		w->rep = (uint32_t)get_be(h + 12, 4);
		return get_be(h, 8) == OPTION_REPLY;
	case REQUEST:
		return way_parse_request(w);
	case REPLY:
		return way_parse_reply(w);
	default:
		return true;
	}
}

/* ---- ways: passing on ---------------------------------------------------- */

static void way_emit(struct way *w, const uint8_t *data, size_t len)
{
	if (!w->swallow && !w->muted && len)
		bytes_add(&w->out, data, len);
}

static void way_gather(struct way *w)
{
	while (w->have < w->want && w->in_pos < w->in_len) {
		w->header[w->have++] = w->in[w->in_pos++];
		if (w->stage == REPLY && w->have == 4 && get_be(w->header, 4) == STRUCTURED_MAGIC)
			w->want = CHUNK_BYTES;
	}
	if (w->have < w->want)
		return;
	if (way_parse(w)) {
		way_match(w, w->have);
		return;
	}
	say("connection %u: malformed %s", w->conn->nr, stage_names[w->stage]);
	way_emit(w, w->header, w->have);
	way_raw(w);
}

/* The rule that is due, if it was not forgotten meanwhile. */
static struct rule *way_take_rule(struct way *w)
{
	struct rule *r = w->rule;

	w->rule = NULL;
	return r && r->id == w->rule_id ? r : NULL;
}

static void way_pass_header(struct way *w)
{
	struct rule *r;

	if (!w->rule) {
		way_emit(w, w->header + w->done, w->have - w->done);
		way_after_header(w);
		return;
	}
	way_emit(w, w->header + w->done, (size_t)w->trigger - w->done);
	w->done = (unsigned)w->trigger;
	r = way_take_rule(w);
	if (!r)
		return;
	if (r->action == CORRUPT)
		w->header[w->trigger] ^= (uint8_t)r->xor ;
	rule_do(r, w->conn, w, w->trigger);
}

static void way_pass_body(struct way *w)
{
	size_t len = w->in_len - w->in_pos;
	struct rule *r;

	if (len > w->left)
		len = (size_t)w->left;
	if (w->rule && w->trigger - w->pos <= len)
		len = (size_t)(w->trigger - w->pos);
	way_emit(w, w->in + w->in_pos, len);
	w->in_pos += len;
	w->pos += len;
	w->left -= len;
	if (w->rule && w->pos == w->trigger) {
		if (w->rule->action == CORRUPT && w->in_pos == w->in_len)
			return; /* the byte has not come yet */
		r = way_take_rule(w);
		if (r && r->action == CORRUPT)
			w->in[w->in_pos] ^= (uint8_t)r->xor ;
		if (r)
			rule_do(r, w->conn, w, w->pos);
	}
	if (!w->left && !w->rule && !w->conn->ending)
		way_next(w);
}

/* What is not understood: rules count the bytes themselves. */
static void way_pass_raw(struct way *w)
{
	size_t len = w->in_len - w->in_pos;
	struct rule *due = NULL;

	for (unsigned i = 0; i < MAX_RULES; i++) {
		struct rule *r = &g.rules[i];

		if (rule_wants(r, w->conn, w->stage, -1, -1) && r->byte - r->seen_bytes < len) {
			len = (size_t)(r->byte - r->seen_bytes);
			due = r;
		}
	}
	for (unsigned i = 0; i < MAX_RULES; i++) {
		if (rule_wants(&g.rules[i], w->conn, w->stage, -1, -1))
			g.rules[i].seen_bytes += len;
	}
	way_emit(w, w->in + w->in_pos, len);
	w->in_pos += len;
	if (!due)
		return;
	due->seen_bytes = 0;
	if (due->action == CORRUPT)
		w->in[w->in_pos] ^= (uint8_t)due->xor ;
	if (due->times != 1) { /* the byte itself must go, or it would be met again */
		way_emit(w, w->in + w->in_pos, 1);
		w->in_pos++;
	}
	rule_do(due, w->conn, w, due->byte);
}

static void way_pump(struct way *w)
{
	while (!w->stalled && !w->conn->ending && w->out.len < OUT_LIMIT_BYTES) {
		if (!w->is_body && w->have == w->want) {
			way_pass_header(w);
			continue;
		}
		if (w->is_body && w->stage != RAW_CLIENT && w->stage != RAW_SERVER && w->rule &&
		    w->trigger == w->pos && w->rule->action != CORRUPT) {
			way_pass_body(w); /* needs no byte */
			continue;
		}
		if (w->in_pos == w->in_len)
			break;
		if (!w->is_body)
			way_gather(w);
		else if (w->stage == RAW_CLIENT || w->stage == RAW_SERVER)
			way_pass_raw(w);
		else
			way_pass_body(w);
	}
}

/* ---- ways: sockets ------------------------------------------------------- */

static int way_in_fd(const struct way *w)
{
	return w->from_client ? w->conn->client_fd : w->conn->server_fd;
}

static int way_out_fd(const struct way *w)
{
	return w->from_client ? w->conn->server_fd : w->conn->client_fd;
}

/* False: the connection is broken. */
static bool way_read(struct way *w)
{
	ssize_t n;

	if (w->in_pos != w->in_len || w->is_eof)
		return true;
	n = recv(way_in_fd(w), w->in, sizeof(w->in), 0);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	w->is_eof = n == 0;
	w->in_pos = 0;
	w->in_len = (size_t)n;
	return true;
}

static bool way_write(struct way *w)
{
	while (w->out.len) {
		ssize_t n = send(way_out_fd(w), w->out.data, w->out.len, MSG_NOSIGNAL);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		bytes_drop(&w->out, (size_t)n);
	}
	if (g.lies && w->from_client && w->is_eof && w->in_pos == w->in_len && !w->stalled) {
		conn_end(w->conn, false);
		return true;
	}
	if (!w->eof_passed && (w->muted || (w->is_eof && w->in_pos == w->in_len && !w->stalled))) {
		shutdown(way_out_fd(w), SHUT_WR);
		w->eof_passed = true;
	}
	return true;
}

static bool way_has_ended(const struct way *w)
{
	return w->is_eof && w->eof_passed;
}

static short way_wants(const struct way *w)
{
	return !w->is_eof && w->in_pos == w->in_len && w->out.len < OUT_LIMIT_BYTES ? POLLIN : 0;
}

/* Stalls that are over, and those that the client has given up. */
static void conn_check_stalls(struct conn *conn, short client_revents)
{
	struct way *ways[] = { &conn->up, &conn->down };
	bool gone = client_revents & (POLLHUP | POLLERR);

	for (unsigned i = 0; i < 2; i++) {
		struct way *w = ways[i];

		if (w->stalled && w->stalled_until_ms && now_ms() >= w->stalled_until_ms)
			w->stalled = false;
		if (w->stalled && (gone || (!w->dead && (client_revents & POLLRDHUP))))
			conn_end(conn, gone);
	}
}

/*
 * The client was told that it is over; what the server still does, it does. True: it has ended by
 * itself.
 */
static bool conn_continue_orphan(struct conn *conn)
{
	uint8_t scrap[IN_BYTES];
	ssize_t n;

	while (conn->up.out.len) {
		n = send(conn->server_fd, conn->up.out.data, conn->up.out.len, MSG_NOSIGNAL);
		if (n < 0)
			break;
		bytes_drop(&conn->up.out, (size_t)n);
	}
	do {
		n = recv(conn->server_fd, scrap, sizeof(scrap), 0);
	} while (n > 0);
	return n == 0 || errno != EAGAIN;
}

/* The server's end is to close, then the client's is told. True: nothing of it is left. */
static bool conn_continue_ending(struct conn *conn)
{
	uint8_t scrap[IN_BYTES];
	ssize_t n = 0;

	if (conn->is_orphan)
		return conn_continue_orphan(conn);
	if (conn->lingers) {
		do {
			n = recv(conn->client_fd, scrap, sizeof(scrap), 0);
		} while (n > 0);
		return n == 0 || errno != EAGAIN || now_ms() >= conn->deadline_ms;
	}
	way_write(&conn->down);
	if (way_write(&conn->up) && !conn->up.out.len && !conn->up.eof_passed) {
		shutdown(conn->server_fd, SHUT_WR);
		conn->up.eof_passed = true;
	}
	do {
		n = conn->server_fd < 0 ? 0 : recv(conn->server_fd, scrap, sizeof(scrap), 0);
	} while (n > 0);
	if (n < 0 && errno == EAGAIN && now_ms() < conn->deadline_ms)
		return false;
	if (n < 0 && errno == EAGAIN)
		say("connection %u: the server does not let go of it", conn->nr);
	if (conn->is_reset)
		return true;
	shutdown(conn->client_fd, SHUT_WR);
	conn->lingers = true;
	conn->deadline_ms = conn->stays ? UINT64_MAX : now_ms() + LINGER_MS;
	return false;
}

static void conn_turn(struct conn *conn, short client_revents, short server_revents)
{
	conn_check_stalls(conn, client_revents);
	if (!conn->ending) {
		bool ok = true;

		if (client_revents & (POLLIN | POLLHUP | POLLERR))
			ok &= way_read(&conn->up);
		if (server_revents & (POLLIN | POLLHUP | POLLERR))
			ok &= way_read(&conn->down);
		way_pump(&conn->up);
		way_pump(&conn->down);
		ok &= way_write(&conn->up) && way_write(&conn->down);
		/* Room may have come for what had to wait. */
		way_pump(&conn->up);
		way_pump(&conn->down);
		if (!ok)
			conn_end(conn, true);
		if (way_has_ended(&conn->up) && way_has_ended(&conn->down)) {
			conn_close(conn);
			return;
		}
	}
	if (conn->ending && conn_continue_ending(conn))
		conn_close(conn);
}

/* ---- listening ----------------------------------------------------------- */

static socklen_t where_address(const char *where, struct sockaddr_storage *address)
{
	struct sockaddr_un *un = (struct sockaddr_un *)address;
	struct sockaddr_in *in = (struct sockaddr_in *)address;
	uint64_t port;

	memset(address, 0, sizeof(*address));
	if (where && strncmp(where, "unix:", 5) == 0 && strlen(where + 5) < sizeof(un->sun_path)) {
		un->sun_family = AF_UNIX;
		memcpy(un->sun_path, where + 5, strlen(where + 5));
		return sizeof(*un);
	}
	if (where && strncmp(where, "tcp:", 4) == 0 && parse_number(where + 4, &port) &&
	    port <= UINT16_MAX) {
		in->sin_family = AF_INET;
		in->sin_port = htons((uint16_t)port);
		in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return sizeof(*in);
	}
	fprintf(stderr, "nbdproxy: \"%s\" is neither unix:PATH nor tcp:PORT\n", where ? where : "");
	exit(2);
}

static int where_socket(const char *where, bool listens)
{
	struct sockaddr_storage address;
	socklen_t len = where_address(where, &address);
	int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, ret;

	if (fd < 0)
		return -1;
	if (listens) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		if (address.ss_family == AF_UNIX)
			unlink(where + 5);
		ret = bind(fd, (struct sockaddr *)&address, len) || listen(fd, 64);
	} else {
		ret = connect(fd, (struct sockaddr *)&address, len);
	}
	if (ret || fcntl(fd, F_SETFL, O_NONBLOCK)) {
		ret = errno;
		close(fd);
		errno = ret;
		return -1;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static void accept_one(void)
{
	int fd = accept4(g.listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
	struct conn *conn;
	unsigned slot = 0;

	if (fd < 0)
		return;
	while (slot < MAX_CONNS && g.conns[slot])
		slot++;
	conn = slot < MAX_CONNS ? calloc(1, sizeof(*conn)) : NULL;
	if (!conn) {
		say("no room for a connection");
		close(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	conn->nr = ++g.nr_accepted;
	conn->client_fd = fd;
	conn->up.conn = conn->down.conn = conn;
	conn->up.from_client = true;
	way_header(&conn->up, FLAGS, FLAGS_BYTES);
	way_header(&conn->down, GREETING, GREETING_BYTES);
	conn->server_fd = where_socket(g.server, false);
	g.conns[slot] = conn;
	say("connection %u%s%s", conn->nr, conn->server_fd < 0 ? ": no server: " : "",
	    conn->server_fd < 0 ? strerror(errno) : "");
	conn_match(conn, ACCEPT);
	if (conn->server_fd < 0)
		conn_end(conn, false);
}

/* ---- control ------------------------------------------------------------- */

static void rule_do_now(struct rule *r)
{
	for (unsigned i = 0; i < MAX_CONNS && r->id; i++) {
		if (g.conns[i] && !g.conns[i]->ending && rule_wants(r, g.conns[i], NOW, -1, -1) &&
		    rule_is_due(r))
			rule_do(r, g.conns[i], &g.conns[i]->down, 0);
	}
	r->id = 0;
}

/* False: it is no rule, or there is no room. */
static bool rule_add(const char *text)
{
	struct rule *r = NULL;

	for (unsigned i = 0; i < MAX_RULES && !r; i++)
		r = g.rules[i].id ? NULL : &g.rules[i];
	if (!r || !rule_parse(r, text))
		return false;
	r->id = ++g.nr_rules;
	r->after_conn = g.nr_accepted;
	say("armed %u: %s", r->id, text);
	if (r->stage == NOW)
		rule_do_now(r);
	return true;
}

static void release(void)
{
	for (unsigned i = 0; i < MAX_CONNS; i++) {
		if (g.conns[i])
			g.conns[i]->up.stalled = g.conns[i]->down.stalled = false;
	}
}

static void control_line(const char *line)
{
	if (strcmp(line, "clear") == 0) {
		for (unsigned i = 0; i < MAX_RULES; i++)
			g.rules[i].id = 0;
		say("cleared");
	} else if (strcmp(line, "release") == 0) {
		release();
		say("released");
	} else if (!rule_add(line)) {
		say("no rule: %s", line);
	}
}

static void control_read(void)
{
	char buf[LINE_BYTES];
	ssize_t n = read(g.control_fd, buf, sizeof(buf));

	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n') {
			g.line[g.line_len] = '\0';
			g.line_len = 0;
			control_line(g.line);
		} else if (g.line_len < sizeof(g.line) - 1) {
			g.line[g.line_len++] = buf[i];
		}
	}
}

/* ---- the loop ------------------------------------------------------------ */

struct polls {
	struct pollfd fds[2 + 2 * MAX_CONNS];
	struct conn *conns[MAX_CONNS];
	unsigned nr_conns;
	int timeout_ms;
};

static void polls_until(struct polls *p, uint64_t ms)
{
	uint64_t now = now_ms(), left = ms > now ? ms - now : 0;

	if (left < INT32_MAX && (p->timeout_ms < 0 || left < (uint64_t)p->timeout_ms))
		p->timeout_ms = (int)left;
}

/*
 * A side that has ended says so for ever: it is not asked any more. (poll() tells POLLHUP unasked,
 * so the descriptor itself is left out.)
 */
static void polls_add(struct polls *p, struct conn *conn)
{
	struct pollfd *client = &p->fds[2 + 2 * p->nr_conns], *server = client + 1;
	const struct way *ways[] = { &conn->up, &conn->down };
	bool stalled = conn->up.stalled || conn->down.stalled;

	*client = (struct pollfd){ .fd = conn->client_fd };
	*server = (struct pollfd){ .fd = conn->server_fd };
	p->conns[p->nr_conns++] = conn;
	if (conn->ending) {
		polls_until(p, conn->lingers || conn->is_orphan || conn->up.eof_passed ?
				       conn->deadline_ms :
				       0);
		client->events = (short)(conn->lingers ? POLLIN : 0);
		server->events =
			(short)((conn->lingers ? 0 : POLLIN) | (conn->up.out.len ? POLLOUT : 0));
		if (!conn->lingers)
			client->fd = -1;
		if (conn->lingers)
			server->fd = -1;
		return;
	}
	client->events = (short)(way_wants(&conn->up) | (conn->down.out.len ? POLLOUT : 0) |
				 (stalled ? POLLRDHUP : 0));
	server->events = (short)(way_wants(&conn->down) | (conn->up.out.len ? POLLOUT : 0));
	if (conn->up.is_eof && !conn->down.out.len && !stalled)
		client->fd = -1;
	if (!server->events)
		server->fd = -1;
	if (stalled && (conn->up.dead || conn->down.dead))
		client->events &= (short)~POLLRDHUP;
	for (unsigned i = 0; i < 2; i++) {
		if (ways[i]->stalled && ways[i]->stalled_until_ms)
			polls_until(p, ways[i]->stalled_until_ms);
	}
}

static void serve_for_ever(void)
{
	static struct polls p;

	for (;;) {
		p.nr_conns = 0;
		p.timeout_ms = -1;
		p.fds[0] = (struct pollfd){ .fd = g.listen_fd, .events = POLLIN };
		p.fds[1] = (struct pollfd){ .fd = g.control_fd, .events = POLLIN };
		for (unsigned i = 0; i < MAX_CONNS; i++) {
			if (g.conns[i])
				polls_add(&p, g.conns[i]);
		}
		if (poll(p.fds, 2 + 2 * p.nr_conns, p.timeout_ms) < 0)
			continue;
		if (p.fds[1].revents)
			control_read();
		/*
		 * All of them, whatever happened: a turn closes no other connection than its own.
		 */
		for (unsigned i = 0; i < p.nr_conns; i++)
			conn_turn(p.conns[i], p.fds[2 + 2 * i].revents, p.fds[3 + 2 * i].revents);
		if (p.fds[0].revents)
			accept_one();
	}
}

static int usage(void)
{
	fprintf(stderr, "nbdproxy --listen WHERE --server WHERE [--control FIFO] [--log FILE] "
			"[--lie] [RULE…]\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "listen", required_argument, NULL, 'l' },
		{ "server", required_argument, NULL, 's' },
		{ "control", required_argument, NULL, 'c' },
		{ "log", required_argument, NULL, 'o' },
		{ "lie", no_argument, NULL, 'i' },
		{ NULL, 0, NULL, 0 },
	};
	struct sockaddr_storage ignored;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'l')
			g.listen = optarg;
		else if (opt == 's')
			g.server = optarg;
		else if (opt == 'c')
			g.control = optarg;
		else if (opt == 'o')
			g.log = optarg;
		else if (opt == 'i')
			g.lies = true;
		else
			return usage();
	}
	if (!g.listen || !g.server)
		return usage();
	where_address(g.server, &ignored);
	signal(SIGPIPE, SIG_IGN);
	g.out = g.log ? fopen(g.log, "ae") : stderr;
	if (!g.out)
		die(g.log);
	for (; optind < argc; optind++) {
		if (!rule_add(argv[optind])) {
			fprintf(stderr, "nbdproxy: \"%s\" is no rule\n", argv[optind]);
			return 2;
		}
	}
	/* Open for writing, too: it never comes to an end. */
	if (g.control) {
		if (mkfifo(g.control, 0600) != 0 && errno != EEXIST)
			die(g.control);
		g.control_fd = open(g.control, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (g.control_fd < 0)
			die(g.control);
	}
	g.listen_fd = where_socket(g.listen, true);
	if (g.listen_fd < 0)
		die(g.listen);
	say("listening");
	serve_for_ever();
}
