/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the server is for its back ends. Their threads call in here, seldom; nothing waits for long.
 */
#include "server/host.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <ublk-bridge/message.h>
#include <ublk-bridge/page.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "server/server.h"
#include "server/state.h"

#define HOST_LINK_MS 1000 /* for a keeper that does not read what it is told */

/* ---- the log: the process's, which has one ------------------------------- */

/* The log's sink: a datagram that is never waited for. Any thread. */
static bool host_log(enum ub_log_level level, const char *line)
{
	struct ub_msg_text msg = { .header = { .type = UB_MSG_LOG }, .value = level };

	snprintf(msg.text, sizeof(msg.text), "%s", line);
	msg.header.len_bytes =
		(uint32_t)(offsetof(struct ub_msg_text, text) + strlen(msg.text) + 1);
	return ub_message_send(UB_SERVER_SOCKET_FD, &msg.header, NULL, 0, MSG_DONTWAIT) == 0;
}

/* ---- what back ends report: any thread ----------------------------------- */

static struct server_host *host_of(struct ub_host *host)
{
	return ub_container_of(host, struct server_host, host);
}

static void host_report(struct ub_host *host, struct ub_backend *be, enum ub_health health,
			const char *why)
{
	struct server_host *h = host_of(host);

	(void)be;
	ub_log(health == UB_HEALTH_ONLINE ? UB_LOG_NOTICE : UB_LOG_WARNING, "%s", why);
	pthread_mutex_lock(&h->lock);
	h->health = health;
	snprintf(h->why, sizeof(h->why), "%s", why);
	ub_text_clean(h->why);
	pthread_mutex_unlock(&h->lock);
	eventfd_write(h->event_fd, 1);
}

static void host_grown(struct ub_host *host, struct ub_backend *be)
{
	struct ub_msg_header header = { .type = UB_MSG_GROWN, .len_bytes = sizeof(header) };

	(void)host;
	(void)be;
	ub_message_send(UB_SERVER_SOCKET_FD, &header, NULL, 0, MSG_DONTWAIT);
}

/* A keeper that has no room for it looks again by itself. */
static void host_ranges(struct ub_host *host, struct ub_backend *be)
{
	struct ub_msg_header header = { .type = UB_MSG_RANGES, .len_bytes = sizeof(header) };

	(void)be;
	if (atomic_load(&host_of(host)->server->keeper_version) > UB_MESSAGE_V3)
		ub_message_send(UB_SERVER_SOCKET_FD, &header, NULL, 0, MSG_DONTWAIT);
}

static uint32_t host_hold(struct ub_host *host, const struct ub_backend *be, int fd)
{
	return ub_sockets_hold(&host_of(host)->sockets, be, fd);
}

static void host_drop(struct ub_host *host, uint32_t id)
{
	ub_sockets_drop(&host_of(host)->sockets, id);
}

static void host_forget(struct ub_host *host, const struct ub_backend *be)
{
	ub_sockets_forget(&host_of(host)->sockets, be);
}

static bool host_has_keeper(struct ub_host *host)
{
	return ub_sockets_have_listener(&host_of(host)->sockets);
}

/* A connection that was made, or (-1) closed. The keeper resets it when we are gone. */
static void host_tell_socket(void *arg, uint32_t id, int fd, bool is_destination)
{
	struct server_host *h = arg;
	struct ub_stats_page *stats = atomic_load(&h->stats);
	struct ub_msg_link msg = { .header = { .len_bytes = sizeof(msg) },
				   .id = id,
				   .is_destination = is_destination };

	msg.header.type = fd >= 0 ? UB_MSG_LINK : UB_MSG_UNLINK;
	while (ub_message_send(UB_SERVER_SOCKET_FD, &msg.header, &fd, fd >= 0, MSG_DONTWAIT) ==
	       -EAGAIN) {
		if (poll(&(struct pollfd){ .fd = UB_SERVER_SOCKET_FD, .events = POLLOUT }, 1,
			 HOST_LINK_MS) > 0)
			continue;
		/* At its last close it is reset all the same: keepers of version 3 wait instead. */
		if (fd >= 0 && stats)
			atomic_store(&stats->lost_links, 1);
		break;
	}
}

/* ---- the main thread's --------------------------------------------------- */

enum ub_health ub_server_host_health(struct server_host *h, char *why, size_t len)
{
	enum ub_health health;

	pthread_mutex_lock(&h->lock);
	health = h->health;
	snprintf(why, len, "%s", h->why);
	pthread_mutex_unlock(&h->lock);
	return health;
}

/* Before the device is live nothing waits for a back end that went away: the attach fails. */
static void host_health_changed(void *arg)
{
	struct server_host *h = arg;
	struct server *s = h->server;
	struct ub_err err = { .code = EIO };
	eventfd_t ignored;

	eventfd_read(h->event_fd, &ignored);
	if (ub_server_host_health(h, err.text, sizeof(err.text)) == UB_HEALTH_FAILED &&
	    !s->served_pid && s->phase > SERVER_NEW && s->phase < SERVER_LIVE)
		ub_server_fail(s, &err);
}

void ub_server_host_init(struct server_host *h, struct server *s)
{
	h->server = s;
	h->host = (struct ub_host){
		.report = host_report,
		.grown = host_grown,
		.ranges = host_ranges,
		.hold = host_hold,
		.drop = host_drop,
		.forget = host_forget,
		.has_keeper = host_has_keeper,
	};
	pthread_mutex_init(&h->lock, NULL);
	ub_sockets_init(&h->sockets);
	ub_server_host_set_keeper(h, true);
	ub_log_to_sink(host_log);
	h->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

int ub_server_host_watch(struct server_host *h, struct ub_err *err)
{
	if (h->event_fd < 0)
		return ub_err_errno(err, errno, "an event descriptor");
	ub_loop_add(&h->server->loop, h->event_fd, host_health_changed, h);
	return 0;
}

void ub_server_host_set_keeper(struct server_host *h, bool has_keeper)
{
	ub_sockets_set_listener(&h->sockets, has_keeper ? host_tell_socket : NULL, h);
}
