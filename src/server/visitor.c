/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* server.sock. The server's main thread. */
#include "server/visitor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <ublk-bridge/message.h>

#include "backend/backend.h"
#include "backend/names.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "server/server.h"
#include "server/state.h"

/* messages of a visitor that are read before the next one takes its place */
#define VISITOR_LAST_WORDS 3

static void visitor_leaves(struct server *s)
{
	ub_loop_remove(&s->loop, s->visitor_fd);
	ub_close(&s->visitor_fd);
}

static void visitor_tell_health(struct server *s)
{
	struct ub_msg_text msg = { .header = { .type = UB_MSG_HEALTH, .len_bytes = sizeof(msg) } };
	size_t len;

	msg.value = ub_server_host_health(&s->host, msg.text, sizeof(msg.text));
	len = strlen(msg.text);
	/* How it began, and why it has not ended. */
	if (msg.value == UB_HEALTH_OFFLINE && s->phase == SERVER_LIVE &&
	    len + 3 < sizeof(msg.text)) {
		ub_backend_describe_outage(s->backend, msg.text + len + 2,
					   sizeof(msg.text) - len - 2);
		if (msg.text[len + 2])
			memcpy(msg.text + len, "; ", 2);
	}
	ub_message_send(s->visitor_fd, &msg.header, NULL, 0, MSG_DONTWAIT);
}

/* A keeper comes, and gets all that its predecessor had. */
static int visitor_adopt(struct server *s)
{
	struct ub_msg_adopted msg = { .header = { .type = UB_MSG_ADOPTED,
						  .len_bytes = sizeof(msg) } };
	const int all[UB_NR_SERVE_FDS] = { [UB_FD_STATS] = s->stats_fd,
					   [UB_FD_LISTEN] = s->listen_fd,
					   [UB_FD_ARENA] = s->arena_fd,
					   [UB_FD_STORE] = s->store_fd,
					   [UB_FD_LEDGER] = s->ledger_fd };
	int packed[UB_MESSAGE_MAX_FDS];
	unsigned nr;

	if (s->has_keeper)
		return -EBUSY;
	msg.pid = getpid();
	msg.state = s->phase == SERVER_LIVE    ? UB_ADOPTED_LIVE :
		    s->phase == SERVER_SERVING ? UB_ADOPTED_FETCHING :
						 UB_ADOPTED_STANDBY;
	/* All that speaks to the keeper, on whichever thread, goes on with the number it knows. */
	if (dup3(s->visitor_fd, UB_SERVER_SOCKET_FD, O_CLOEXEC) < 0)
		return -errno;
	atomic_store(&s->keeper_version, s->visitor_version);
	visitor_leaves(s);
	nr = ub_message_pack_fds(all, UB_NR_SERVE_FDS, s->visitor_version, packed, &msg.has_fd);
	msg.nr_links = ub_sockets_count(&s->host.sockets);
	ub_message_fit(&msg.header, s->visitor_version, UB_V3_BYTES_ADOPTED);
	if (ub_message_send(s->keeper_fd, &msg.header, packed, nr, MSG_DONTWAIT) < 0)
		return 0; /* it has gone already, and the loop will find that out */
	s->has_keeper = true;
	ub_names_set_keeper(s->keeper_fd);
	ub_loop_add(&s->loop, s->keeper_fd, s->hear_keeper, s);
	if (!s->served_rings.nr) {
		ub_loop_remove(&s->loop, s->served_pidfd);
		ub_close(&s->served_pidfd);
	}
	if (msg.state == UB_ADOPTED_STANDBY)
		ub_loop_remove(&s->loop, s->listen_fd);
	ub_server_host_set_keeper(&s->host, true);
	ub_log(UB_LOG_NOTICE, "the server (pid %d) has a keeper again", getpid());
	return 0;
}

/* Takes one message of a visitor's. False: there is none now, or the visitor is gone. */
static bool visitor_hear(struct server *s)
{
	struct ub_msg_header *header = (struct ub_msg_header *)s->inbox;
	int fds[UB_MESSAGE_MAX_FDS];
	int ret = ub_message_receive(s->visitor_fd, s->inbox, fds, MSG_DONTWAIT);

	if (ret == -EAGAIN)
		return false;
	if (ret == 0)
		ub_server_close_fds(fds);
	if (ret == 0 && header->type == UB_MSG_HELLO && !s->visitor_greeted) {
		s->visitor_greeted = true;
		s->visitor_version = ub_message_hello_version(header);
		/* It may have asked and gone already: what it asked is still to be read. */
		ub_message_send_hello(s->visitor_fd);
	} else if (ret == 0 && header->type == UB_MSG_CANCEL && s->visitor_greeted) {
		ub_log(UB_LOG_WARNING,
		       "all I/O is failed from now on: a forced detach asked for it");
		ub_server_cancel(s);
		ub_message_send_type(s->visitor_fd, UB_MSG_CANCEL);
	} else if (ret == 0 && header->type == UB_MSG_HEALTH && s->visitor_greeted) {
		visitor_tell_health(s);
	} else if (ret == 0 && header->type == UB_MSG_ADOPT && s->visitor_greeted) {
		ret = visitor_adopt(s);
		if (ret == 0)
			return false;
	} else {
		ret = -EPROTO;
	}
	if (ret)
		visitor_leaves(s);
	return ret == 0;
}

static void visitor_event(void *arg)
{
	visitor_hear(arg);
}

static void visitor_arrives(void *arg)
{
	struct server *s = arg;
	cleanup_fd int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ||
	    peer.uid != geteuid())
		return;
	/*
	 * The newest counts: a silent one must not lock others out. But what the one before said is
	 * heard.
	 */
	for (unsigned i = 0; i < VISITOR_LAST_WORDS && s->visitor_fd >= 0; i++) {
		if (!visitor_hear(s))
			break;
	}
	if (s->visitor_fd >= 0)
		visitor_leaves(s);
	s->visitor_fd = ub_steal_fd(&fd);
	s->visitor_greeted = false;
	ub_loop_add(&s->loop, s->visitor_fd, visitor_event, s);
}

void ub_visitor_listen(struct server *s)
{
	ub_loop_remove(&s->loop, s->listen_fd);
	if (s->listen_fd >= 0)
		ub_loop_add(&s->loop, s->listen_fd, visitor_arrives, s);
}
