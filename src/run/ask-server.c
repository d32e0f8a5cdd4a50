/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The client's end of server.sock. */
#include "run/ask-server.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "run/rundir.h"

#define ASK_ANSWER_MS 500
#define ASK_ADOPT_MS  5000

static void ask_close_fds(int fds[])
{
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		ub_close(&fds[i]);
}

/*
 * Greets a server, says one thing and waits for the answer of that type: in inbox, the descriptors
 * in fds (the caller's). 0 with *version, what is spoken there, or -errno; -EAGAIN: the time is
 * over.
 *
 * Other messages are passed over: the threads of a server that takes a keeper log at any time, and
 * as soon as that is whom they speak to, which is before it is told so.
 *
 * The answer is waited for: whoever closes a socket with something unread in it resets the
 * connection, and what it had sent before is then lost.
 */
static int ask_say(int fd, enum ub_message_type type, enum ub_message_type answer_type,
		   unsigned limit_ms, uint64_t inbox[], int fds[], unsigned *version)
{
	const struct timeval limit = { .tv_sec = limit_ms / 1000,
				       .tv_usec = limit_ms % 1000 * 1000L };
	const struct ub_msg_header *answer = (const struct ub_msg_header *)inbox;
	uint64_t deadline = ub_now_ms() + limit_ms;
	int ret;

	*version = UB_MESSAGE_V3;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	ret = ub_message_send_hello(fd);
	if (ret == 0)
		ret = ub_message_send_type(fd, type);
	while (ret == 0) {
		ret = ub_message_receive(fd, inbox, fds, 0);
		if (ret || answer->type == answer_type)
			break;
		if (answer->type == UB_MSG_HELLO)
			*version = ub_message_hello_version(answer);
		ask_close_fds(fds);
		if (ub_now_ms() >= deadline)
			ret = -EAGAIN;
	}
	return ret;
}

int ub_rundir_adopt(const char *name, struct ub_adoption *a)
{
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)] = { 0 };
	struct ub_msg_adopted *answer = (struct ub_msg_adopted *)inbox;
	static const struct timeval forever = { 0 };
	cleanup_fd int fd = ub_rundir_connect(name);
	socklen_t len = sizeof(struct ucred);
	struct ucred peer;
	int ret;

	*a = (struct ub_adoption){ .fd = -1 };
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		a->fds[i] = -1;
	if (fd < 0)
		return fd;
	ret = ask_say(fd, UB_MSG_ADOPT, UB_MSG_ADOPTED, ASK_ADOPT_MS, inbox, a->fds, &a->version);
	if (ret == 0 && answer->header.len_bytes < UB_V3_BYTES_ADOPTED)
		ret = -EPROTO;
	if (ret)
		return ret == -EAGAIN ? -ETIMEDOUT : ret;
	ub_message_unpack_fds(a->fds, answer->has_fd);
	/* As whoever bound the socket is named, and not who answers: the server says it itself. */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.uid != geteuid())
		return -EPERM;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof(forever));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &forever, sizeof(forever));
	a->state = answer->state;
	a->pid = answer->pid;
	a->nr_links = answer->nr_links;
	a->fd = ub_steal_fd(&fd);
	return 0;
}

/* Asks NAME's server one thing; the answer, of the same type, is in inbox. 0 or -errno. */
static int ask(const char *name, enum ub_message_type type, uint64_t inbox[])
{
	cleanup_fd int fd = ub_rundir_connect(name);
	int fds[UB_MESSAGE_MAX_FDS];
	unsigned version;
	int ret;

	if (fd < 0)
		return fd;
	ret = ask_say(fd, type, type, ASK_ANSWER_MS, inbox, fds, &version);
	if (ret == 0)
		ask_close_fds(fds);
	return ret;
}

int ub_rundir_ask_health(const char *name, unsigned *health, char *why, size_t len)
{
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)] = { 0 };
	struct ub_msg_text *answer = (struct ub_msg_text *)inbox;
	int ret = ask(name, UB_MSG_HEALTH, inbox);

	if (ret == 0 && answer->header.len_bytes < UB_V3_BYTES_TEXT)
		ret = -EPROTO;
	if (ret)
		return ret;
	*health = answer->value;
	answer->text[sizeof(answer->text) - 1] = '\0';
	snprintf(why, len, "%s", answer->text);
	return 0;
}

int ub_rundir_cancel_io(const char *name)
{
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)] = { 0 };

	return ask(name, UB_MSG_CANCEL, inbox);
}

bool ub_rundir_is_offline(const char *name, char *why, size_t len)
{
	unsigned health;

	return ub_rundir_ask_health(name, &health, why, len) == 0 &&
	       (health == UB_HEALTH_OFFLINE || health == UB_HEALTH_FAILED);
}
