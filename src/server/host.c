/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the server is for its back ends. Their threads call in here, seldom; nothing waits for long.
 */
#include "server/host.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <ublk-bridge/message.h>

#include "backend/backend.h"
#include "backend/sockets.h"
#include "base/log.h"
#include "base/text.h"
#include "server/server.h"
#include "server/state.h"

#define HOST_LINK_MS 1000 /* for a keeper that does not read what it is told */

static int host_log_fd = -1;
static struct ub_stats_page *_Atomic host_stats; /* once it is mapped */
static struct server *_Atomic host_server;	 /* for the back end's threads */

/* The log's sink: a datagram that is never waited for. Any thread. */
static bool host_log(enum ub_log_level level, const char *line)
{
	struct ub_msg_text msg = { .header = { .type = UB_MSG_LOG }, .value = level };

	snprintf(msg.text, sizeof(msg.text), "%s", line);
	msg.header.len_bytes =
		(uint32_t)(offsetof(struct ub_msg_text, text) + strlen(msg.text) + 1);
	return ub_message_send(host_log_fd, &msg.header, NULL, 0, MSG_DONTWAIT) == 0;
}

/*
 * What the back end said of itself last. Its threads write it, seldom, and the main thread reads
 * it.
 */
static struct host_health {
	pthread_mutex_t lock;
	enum ub_health value;
	char why[200];
	int event_fd;
} host_health = { .lock = PTHREAD_MUTEX_INITIALIZER, .event_fd = -1 };

static void host_report(enum ub_health health, const char *why)
{
	ub_log(health == UB_HEALTH_ONLINE ? UB_LOG_NOTICE : UB_LOG_WARNING, "%s", why);
	pthread_mutex_lock(&host_health.lock);
	host_health.value = health;
	snprintf(host_health.why, sizeof(host_health.why), "%s", why);
	ub_text_clean(host_health.why);
	pthread_mutex_unlock(&host_health.lock);
	eventfd_write(host_health.event_fd, 1);
}

enum ub_health ub_host_health(char *why, size_t len)
{
	enum ub_health value;

	pthread_mutex_lock(&host_health.lock);
	value = host_health.value;
	snprintf(why, len, "%s", host_health.why);
	pthread_mutex_unlock(&host_health.lock);
	return value;
}

/* Before the device is live nothing waits for a back end that went away: the attach fails. */
static void host_health_changed(void *arg)
{
	struct server *s = arg;
	struct ub_err err = { .code = EIO };
	eventfd_t ignored;

	eventfd_read(host_health.event_fd, &ignored);
	if (ub_host_health(err.text, sizeof(err.text)) == UB_HEALTH_FAILED && !s->served_pid &&
	    s->phase > SERVER_NEW && s->phase < SERVER_LIVE)
		ub_server_fail(s, &err);
}

/* A connection that was made, or (-1) closed. Any thread; the keeper resets it when we are gone. */
static void host_tell_socket(uint32_t id, int fd, bool is_destination)
{
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
		if (fd >= 0 && host_stats)
			atomic_store(&host_stats->lost_links, 1);
		break;
	}
}

/* Any thread. */
static void host_tell_grown(void)
{
	struct ub_msg_header header = { .type = UB_MSG_GROWN, .len_bytes = sizeof(header) };

	ub_message_send(UB_SERVER_SOCKET_FD, &header, NULL, 0, MSG_DONTWAIT);
}

/* Any thread. A keeper that has no room for it looks again by itself. */
static void host_tell_ranges(void)
{
	struct ub_msg_header header = { .type = UB_MSG_RANGES, .len_bytes = sizeof(header) };

	if (atomic_load(&host_server->keeper_version) > UB_MESSAGE_V3)
		ub_message_send(UB_SERVER_SOCKET_FD, &header, NULL, 0, MSG_DONTWAIT);
}

void ub_host_init(struct server *s)
{
	host_server = s;
	host_log_fd = s->keeper_fd;
	ub_log_to_sink(host_log);
	ub_backend_set_reporter(host_report);
	ub_backend_set_grown_reporter(host_tell_grown);
	ub_backend_set_ranges_reporter(host_tell_ranges);
	ub_host_set_keeper(true);
	host_health.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

int ub_host_watch(struct server *s, struct ub_err *err)
{
	if (host_health.event_fd < 0)
		return ub_err_errno(err, errno, "an event descriptor");
	ub_loop_add(&s->loop, host_health.event_fd, host_health_changed, s);
	return 0;
}

void ub_host_set_keeper(bool has_keeper)
{
	ub_sockets_set_listener(has_keeper ? host_tell_socket : NULL);
}

void ub_host_set_stats(struct ub_stats_page *stats)
{
	host_stats = stats;
}
