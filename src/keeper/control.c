/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The keeper's end of control.sock: clients, lines and the table of verbs. */
#include "keeper/control.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"

/* of answers that a client has not read; more, and it is let go */
#define CONTROL_SEND_BYTES (512 << 10)

static void control_heard(void *arg);

static void control_listen(struct ub_control_client *client, bool listen)
{
	if (listen && !client->is_heard)
		ub_loop_add(client->control->loop, client->fd, control_heard, client);
	if (!listen)
		ub_loop_remove(client->control->loop, client->fd);
	client->is_heard = listen;
}

static void control_leave(struct ub_control_client *client)
{
	control_listen(client, false);
	ub_close(&client->fd);
	client->generation++;
	client->is_awaited = client->has_ended = false;
	client->len = 0;
}

/* ---- answers ------------------------------------------------------------- */

static int control_refuse(json_t *reply, const struct ub_err *err)
{
	char text[sizeof(err->text)];
	const char *name = strerrorname_np(err->code);

	memcpy(text, err->text, sizeof(text));
	ub_text_clean(text);
	json_object_clear(reply);
	json_object_set_new(reply, "error", json_string(text));
	return json_object_set_new(reply, "errno", json_string(name ? name : "EIO"));
}

/* Sends it whole or lets the client go: nobody waits for one who does not read. */
static void control_send(struct ub_control_client *client, json_t *reply, const struct ub_err *err)
{
	cleanup_free char *text = NULL;
	size_t len;

	if (err->code)
		control_refuse(reply, err);
	json_object_set_new(reply, "version", json_integer(UB_CONTROL_VERSION));
	json_object_set_new(reply, "ok", json_boolean(!err->code));
	text = json_dumps(reply, JSON_COMPACT);
	if (text) {
		len = strlen(text);
		text[len] = '\n'; /* instead of its end: what is sent has none */
		if (send(client->fd, text, len + 1, MSG_DONTWAIT | MSG_NOSIGNAL) ==
		    (ssize_t)(len + 1))
			return;
	}
	control_leave(client);
}

static void control_take_lines(struct ub_control_client *client);

bool ub_control_is_awaited(const struct ub_control *c, struct ub_control_caller caller)
{
	const struct ub_control_client *client = &c->clients[caller.place];

	return c->listen_fd >= 0 && client->fd >= 0 && client->is_awaited &&
	       client->generation == caller.generation;
}

void ub_control_answer(struct ub_control *c, struct ub_control_caller caller, json_t *reply,
		       const struct ub_err *err)
{
	struct ub_control_client *client = &c->clients[caller.place];
	json_t *object = reply ? reply : json_object();

	if (ub_control_is_awaited(c, caller)) {
		client->is_awaited = false;
		control_send(client, object, err);
		control_take_lines(client);
	}
	json_decref(object);
}

unsigned ub_control_callers_look(const struct ub_control *c, struct ub_control_callers *callers)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < callers->nr; i++) {
		if (ub_control_is_awaited(c, callers->list[i]))
			callers->list[nr++] = callers->list[i];
	}
	callers->nr = nr;
	return nr;
}

int ub_control_callers_add(const struct ub_control *c, struct ub_control_callers *callers,
			   struct ub_control_caller caller, struct ub_err *err)
{
	if (ub_control_callers_look(c, callers) == UB_CONTROL_MAX_CLIENTS)
		return ub_err_set(err, EBUSY, "%u others wait for it already", callers->nr);
	callers->list[callers->nr++] = caller;
	return 0;
}

void ub_control_callers_answer(struct ub_control *c, struct ub_control_callers *callers,
			       const struct ub_err *err)
{
	struct ub_control_callers asked = *callers;

	/* An answer may be followed by the next request. */
	callers->nr = 0;
	for (unsigned i = 0; i < asked.nr; i++)
		ub_control_answer(c, asked.list[i], NULL, err);
}

int ub_control_take(struct ub_control *c, struct ub_control_caller caller)
{
	struct ub_control_client *client = &c->clients[caller.place];
	int fd = -1;

	if (c->listen_fd < 0 || client->fd < 0 || client->generation != caller.generation)
		return -1;
	control_listen(client, false);
	fd = ub_steal_fd(&client->fd);
	control_leave(client);
	return fd;
}

/* ---- requests ------------------------------------------------------------ */

static int control_run(struct ub_control_client *client, const json_t *request, json_t *reply,
		       struct ub_err *err)
{
	struct ub_control *c = client->control;
	struct ub_control_caller caller = { (unsigned)(client - c->clients), client->generation };
	const char *verb = json_string_value(json_object_get(request, "verb"));
	json_int_t version = json_integer_value(json_object_get(request, "version"));

	if (!json_is_object(request))
		return ub_err_set(err, EBADMSG, "a request is one JSON object on a line");
	if (version != UB_CONTROL_VERSION)
		return ub_err_set(err, EPROTONOSUPPORT,
				  "this keeper speaks version %d of the protocol, not %lld",
				  UB_CONTROL_VERSION, (long long)version);
	if (!verb)
		return ub_err_set(err, EBADMSG, "the request names no verb");
	for (const struct ub_verb *known = c->verbs; known->name; known++) {
		if (strcmp(verb, known->name) == 0)
			return known->run(c->keeper, caller, request, reply, err);
	}
	return ub_err_set(err, EOPNOTSUPP, "this keeper knows no verb '%.40s'", verb);
}

static void control_request(struct ub_control_client *client, const char *line, size_t len)
{
	struct ub_err err = { 0 };
	uint32_t generation = client->generation;
	json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL),
	       *reply = json_object();
	int ret;

	client->is_awaited = true;
	ret = control_run(client, request, reply, &err);
	if (ret < 0 && !err.code)
		ub_err_errno(&err, -ret, "the request failed");
	/* The verb may have answered, or ended everything, by itself. */
	if (ret <= 0 && client->fd >= 0 && client->generation == generation) {
		client->is_awaited = false;
		control_send(client, reply, &err);
	}
	json_decref(reply);
	json_decref(request);
}

/* Takes the first line that has come, if there is one. */
static bool control_take_line(struct ub_control_client *client)
{
	char line[UB_CONTROL_REQUEST_BYTES];
	const char *end = memchr(client->line, '\n', client->len);
	size_t len;

	if (!end)
		return false;
	len = (size_t)(end - client->line);
	memcpy(line, client->line, len);
	client->len -= len + 1;
	memmove(client->line, end + 1, client->len);
	control_request(client, line, len);
	return true;
}

static void control_refuse_line(struct ub_control_client *client)
{
	struct ub_err err = { 0 };
	json_t *reply = json_object();

	ub_err_set(&err, EMSGSIZE, "a request has at most %d bytes", UB_CONTROL_REQUEST_BYTES - 1);
	control_send(client, reply, &err);
	json_decref(reply);
	if (client->fd >= 0)
		control_leave(client);
}

/* Answers the lines that have come, as far as that can be done at once. */
static void control_take_lines(struct ub_control_client *client)
{
	/* a verb has given its answer by itself: whoever called it goes on */
	if (client->is_taking)
		return;
	client->is_taking = true;
	while (client->fd >= 0 && !client->is_awaited && control_take_line(client))
		;
	client->is_taking = false;
	if (client->fd < 0)
		return;
	if (client->is_awaited) /* it is heard only to see it go */
		control_listen(client, !client->has_ended && client->len < sizeof(client->line));
	else if (client->len == sizeof(client->line))
		control_refuse_line(client);
	else if (client->has_ended)
		control_leave(client);
	else
		control_listen(client, true);
}

/*
 * Whether nobody reads what is still to come: a socket that was closed, and not for sending alone.
 */
static bool control_has_gone(const struct ub_control_client *client)
{
	struct pollfd fd = { .fd = client->fd };

	return poll(&fd, 1, 0) == 1 && (fd.revents & (POLLHUP | POLLERR));
}

static void control_heard(void *arg)
{
	struct ub_control_client *client = arg;
	ssize_t n;

	n = recv(client->fd, client->line + client->len, sizeof(client->line) - client->len,
		 MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		control_leave(client);
		return;
	}
	client->has_ended = n == 0;
	if (client->has_ended && client->is_awaited && control_has_gone(client)) {
		control_leave(client);
		return;
	}
	client->heard_ms = ub_now_ms();
	client->len += (size_t)n;
	control_take_lines(client);
}

/* ---- clients ------------------------------------------------------------- */

/* A free place, or that of the client that was silent longest. */
static struct ub_control_client *control_make_room(struct ub_control *c)
{
	struct ub_control_client *oldest = NULL;

	for (unsigned i = 0; i < UB_CONTROL_MAX_CLIENTS; i++) {
		struct ub_control_client *client = &c->clients[i];

		if (client->fd < 0)
			return client;
		if (!oldest || (oldest->is_awaited && !client->is_awaited) ||
		    (oldest->is_awaited == client->is_awaited &&
		     client->heard_ms < oldest->heard_ms))
			oldest = client;
	}
	control_leave(oldest);
	return oldest;
}

static void control_arrives(void *arg)
{
	struct ub_control *c = arg;
	cleanup_fd int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ub_control_client *client;
	int send_bytes = CONTROL_SEND_BYTES;
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ||
	    (peer.uid != 0 && peer.uid != geteuid())) {
		ub_log(UB_LOG_WARNING, "control.sock: user %u is not answered", peer.uid);
		return;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof(send_bytes));
	client = control_make_room(c);
	client->fd = ub_steal_fd(&fd);
	client->heard_ms = ub_now_ms();
	control_listen(client, true);
}

void ub_control_open(struct ub_control *c, struct ub_keeper *k, const struct ub_verb *verbs,
		     struct ub_loop *loop, int listen_fd)
{
	c->keeper = k;
	c->verbs = verbs;
	c->loop = loop;
	c->listen_fd = listen_fd;
	for (unsigned i = 0; i < UB_CONTROL_MAX_CLIENTS; i++) {
		c->clients[i].control = c;
		c->clients[i].fd = -1;
	}
	ub_loop_add(loop, listen_fd, control_arrives, c);
}

void ub_control_close(struct ub_control *c)
{
	if (c->listen_fd < 0)
		return;
	for (unsigned i = 0; i < UB_CONTROL_MAX_CLIENTS; i++) {
		if (c->clients[i].fd >= 0)
			control_leave(&c->clients[i]);
	}
	ub_loop_remove(c->loop, c->listen_fd);
	ub_close(&c->listen_fd);
}
