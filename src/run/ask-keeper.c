/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The client's end of control.sock. Verbs of the command line; blocks. */
#include "run/ask-keeper.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "run/rundir.h"

#define ASK_REPLY_BYTES (1 << 20) /* more than any keeper sends */

static int ask_send(int fd, json_t *request)
{
	cleanup_free char *text = json_dumps(request, JSON_COMPACT);
	size_t len = text ? strlen(text) : 0;

	if (!text)
		return -ENOMEM;
	text[len] = '\n';
	/* The socket blocks: all of it is sent, or there is nobody. */
	return send(fd, text, len + 1, MSG_NOSIGNAL) == (ssize_t)(len + 1) ? 0 : -EPIPE;
}

/* One line, without its end; *text is the caller's to free(). */
static int ask_receive(int fd, char **text, uint64_t deadline)
{
	size_t len = 0;

	*text = malloc(ASK_REPLY_BYTES);
	if (!*text)
		return -ENOMEM;
	for (;;) {
		struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
		uint64_t now = ub_now_ms();
		int wait_ms = -1;
		ssize_t n;

		if (deadline != UINT64_MAX)
			wait_ms = deadline > now ? (int)(deadline - now) : 0;
		if (poll(&poll_fd, 1, wait_ms) == 0)
			return -ETIMEDOUT;
		n = recv(fd, *text + len, ASK_REPLY_BYTES - len, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ECONNRESET;
		len += (size_t)n;
		if ((*text)[len - 1] == '\n') {
			(*text)[len - 1] = '\0';
			return 0;
		}
		if (len == ASK_REPLY_BYTES)
			return -EMSGSIZE;
	}
}

/* errno's number from its name, as far as a keeper uses it. */
static int ask_errno(const char *name)
{
	for (int code = 1; name && code < 200; code++) {
		const char *known = strerrorname_np(code);

		if (known && strcmp(known, name) == 0)
			return code;
	}
	return EIO;
}

static int ask_understand(const char *text, json_t **reply, struct ub_err *err)
{
	json_t *json = json_loads(text, 0, NULL);
	const char *said;
	int ret = 0;

	if (!json_is_object(json))
		ret = ub_err_set(err, EBADMSG, "the keeper's answer is no JSON object");
	else if (!json_is_true(json_object_get(json, "ok"))) {
		said = json_string_value(json_object_get(json, "error"));
		ret = ub_err_set(err, ask_errno(json_string_value(json_object_get(json, "errno"))),
				 "%s", said ? said : "the keeper refused, and did not say why");
	}
	if (ret)
		json_decref(json);
	else
		*reply = json;
	return ret;
}

int ub_control_ask_on(const char *name, json_t *request, json_t **reply, int timeout_ms, int *fd,
		      struct ub_err *err)
{
	uint64_t deadline = timeout_ms < 0 ? UINT64_MAX : ub_now_ms() + (uint64_t)timeout_ms;
	cleanup_fd int sock = ub_rundir_connect_control(name);
	char *text = NULL;
	int ret = sock < 0 ? sock : 0;

	json_object_set_new(request, "version", json_integer(UB_CONTROL_VERSION));
	if (ret == 0)
		ret = ask_send(sock, request);
	json_decref(request);
	if (ret == 0)
		ret = ask_receive(sock, &text, deadline);
	if (ret == -ECONNREFUSED || ret == -ENOENT)
		ub_err_set(err, -ret,
			   "'%s' has no keeper: that process is dead. 'ublk-bridge recover %s' "
			   "starts another",
			   name, name);
	else if (ret)
		ub_err_errno(err, -ret, "the keeper of '%s' does not answer", name);
	else
		ret = ask_understand(text, reply, err);
	free(text);
	if (ret == 0)
		*fd = ub_steal_fd(&sock);
	return ret;
}

int ub_control_ask(const char *name, json_t *request, json_t **reply, int timeout_ms,
		   struct ub_err *err)
{
	int fd = -1, ret = ub_control_ask_on(name, request, reply, timeout_ms, &fd, err);

	ub_close(&fd);
	return ret;
}
