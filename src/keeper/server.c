/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A server as the keeper sees it: a process, its messages and its end. The keeper's main thread. */
#include "keeper/server.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/process.h"
#include "base/step.h"
#include "helper/self.h"
#include "keeper/jobs.h"
#include "keeper/keeper.h"
#include "keeper/life.h"

#define SPAWN_SAY_MS 10000

static void server_say_dropped(unsigned dropped)
{
	if (dropped)
		ub_log(UB_LOG_WARNING, "%u lines of the server were dropped", dropped);
}

/*
 * A server that says the same over and over does not fill the journal. What --verbose asks for is
 * all told.
 */
static void server_log(struct ub_server *server, enum ub_log_level level, const char *text)
{
	unsigned dropped;
	bool is_first = false, pass = true;

	if (level != UB_LOG_DEBUG) {
		pass = ub_log_limit_pass(&server->log, ub_now_ms(), &dropped, &is_first);
		server_say_dropped(dropped);
	}
	if (pass)
		ub_log(level, "%.500s", text);
	if (is_first)
		ub_log(UB_LOG_WARNING,
		       "the server says more than %u lines in %u s: the others are dropped",
		       UB_LOG_LIMIT_LINES, UB_LOG_LIMIT_MS / 1000);
}

static void server_take_text(struct ub_server *server, struct ub_msg_text *msg)
{
	msg->text[sizeof(msg->text) - 1] = '\0';
	if (msg->header.type == UB_MSG_FAILED) {
		ub_err_set(&server->err, msg->value ? (int)msg->value : EIO, "%.400s", msg->text);
	} else {
		enum ub_log_level level = msg->value <= UB_LOG_DEBUG ? msg->value : UB_LOG_NOTICE;

		server_log(server, level, msg->text);
	}
}

/* The first server's are the device's; a standby's are made from the same. */
static void server_take_limits(struct ub_keeper *k, struct ub_msg_limits *msg)
{
	const char *identity = ub_message_string(&msg->header, sizeof(*msg), 0);

	if (k->side->identity || !identity)
		return;
	k->side->limits = msg->limits;
	k->side->caps = msg->caps;
	k->side->identity = strdup(identity);
}

static void server_take_yielded(struct ub_server *server, const struct ub_msg_yielded *msg)
{
	if (msg->header.len_bytes < sizeof(*msg))
		return;
	server->yielded = *msg;
	server->yielded.text[sizeof(server->yielded.text) - 1] = '\0';
}

bool ub_server_must_hold_rings(const struct ub_keeper *k)
{
	return k->device.quirks.rings_must_be_held;
}

void ub_server_hold_rings(struct ub_server *server)
{
	const struct ub_keeper *k = server->keeper;

	if (ub_server_must_hold_rings(k) &&
	    !ub_rings_hold(&server->rings, server->pid, server->pidfd, k->device.info.nr_hw_queues))
		ub_log(UB_LOG_DEBUG,
		       "%u of %u rings of server %d are held: its death may be too much for this "
		       "kernel",
		       server->rings.nr, k->device.info.nr_hw_queues, server->pid);
}

/* One that tells how far the server is. */
static void server_gets_on(struct ub_server *server, struct ub_msg_header *header)
{
	if (header->type == UB_MSG_HELLO)
		server->version = ub_message_hello_version(header);
	if (header->type == UB_MSG_LIMITS)
		server_take_limits(server->keeper, (struct ub_msg_limits *)header);
	if (header->type == UB_MSG_READY)
		ub_server_hold_rings(server);
	server->last_msg = header->type;
}

static void server_take_message(struct ub_server *server, struct ub_msg_header *header, int fds[])
{
	struct ub_keeper *k = server->keeper;

	switch (header->type) {
	case UB_MSG_LOG:
	case UB_MSG_FAILED:
		if (header->len_bytes > offsetof(struct ub_msg_text, text))
			server_take_text(server, (struct ub_msg_text *)header);
		break;
	case UB_MSG_LINK:
		server->nr_links++;
		if (header->len_bytes >= UB_V3_BYTES_LINK && fds[0] >= 0)
			ub_links_add(&k->links, server->pid, ((struct ub_msg_link *)header)->id,
				     ub_steal_fd(&fds[0]));
		break;
	case UB_MSG_UNLINK:
		if (header->len_bytes >= UB_V3_BYTES_LINK)
			ub_links_drop(&k->links, server->pid, ((struct ub_msg_link *)header)->id);
		break;
	case UB_MSG_YIELDED:
		server_take_yielded(server, (struct ub_msg_yielded *)header);
		break;
	case UB_MSG_HELLO:
	case UB_MSG_LIMITS:
	case UB_MSG_READY:
	case UB_MSG_TAKING:
	case UB_MSG_FETCHING:
	case UB_MSG_LIVE:
		server_gets_on(server, header);
		break;
	default:
		if (server == k->server)
			ub_jobs_hear(k, header);
		break;
	}
}

static void server_says(void *arg)
{
	struct ub_server *server = arg;
	struct ub_keeper *k = server->keeper;
	int fds[UB_MESSAGE_MAX_FDS];
	int ret;

	while ((ret = ub_message_receive(server->fd, k->inbox, fds, MSG_DONTWAIT)) == 0) {
		server_take_message(server, (struct ub_msg_header *)k->inbox, fds);
		for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
			ub_close(&fds[i]);
	}
	if (ret != -EAGAIN)
		ub_loop_remove(&k->loop, server->fd); /* its pidfd says the rest */
}

static void server_died(void *arg)
{
	struct ub_server *server = arg;

	if (server->is_child && waitpid(server->pid, &server->status, WNOHANG) != server->pid)
		return;
	server_says(server); /* its last words may be waiting, and connections */
	ub_links_server_died(&server->keeper->links, server->pid);
	server->gone = true;
	ub_rings_let_go(&server->rings);
	ub_loop_remove(&server->keeper->loop, server->pidfd);
	if (server == server->keeper->server)
		ub_jobs_raise(server->keeper, UB_EVENT_SERVER_DIED);
	server_say_dropped(server->log.nr_dropped);
	server->log = (struct ub_log_limit){ 0 };
}

int ub_server_watch(struct ub_server *server, pid_t pid, int fd, struct ub_err *err)
{
	server->pid = pid;
	server->fd = fd;
	server->began_ms = ub_now_ms();
	server->pidfd = pidfd_open(pid, 0);
	if (server->pidfd < 0)
		return ub_err_errno(err, errno, "the server's pidfd");
	ub_loop_add(&server->keeper->loop, server->fd, server_says, server);
	ub_loop_add(&server->keeper->loop, server->pidfd, server_died, server);
	return 0;
}

int ub_server_spawn(struct ub_keeper *k, struct ub_server *server, struct ub_err *err)
{
	/* behind its verb there is room for a longer name: title.h */
	static const char *const argv[] = { UB_SERVER_VERB, "                              ",
					    NULL };
	int pair[2], pid, ret;

	ret = ub_step("spawn", err);
	if (ret)
		return ret;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return ub_err_errno(err, errno, "a socket to the server");
	/*
	 * A daemon's server must not hold the terminal, or a pipe that somebody reads to its end.
	 */
	pid = ub_spawn_self("ublk-bridge: server", argv,
			    (const int[]){ -1, -1, k->opts->daemon ? -1 : STDERR_FILENO, pair[1] });
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return ub_err_errno(err, -pid, "cannot start the server");
	}
	*server = (struct ub_server)UB_SERVER_NONE;
	server->keeper = k;
	server->is_child = true;
	return ub_server_watch(server, pid, pair[0], err);
}

const char *ub_server_fate(const struct ub_server *server, char *buf, size_t len)
{
	if (!server->is_child)
		snprintf(buf, len, "has ended");
	else if (WIFSIGNALED(server->status))
		snprintf(buf, len, "was killed by signal %d (%s)", WTERMSIG(server->status),
			 strsignal(WTERMSIG(server->status)));
	else
		snprintf(buf, len, "ended with status %d", WEXITSTATUS(server->status));
	return buf;
}

int ub_server_await(struct ub_server *server, enum ub_message_type type, int64_t timeout_ms,
		    const char *what, struct ub_err *err)
{
	uint64_t began = ub_now_ms(), say = began + SPAWN_SAY_MS;
	struct ub_keeper *k = server->keeper;
	char fate[96];

	while (server->last_msg != type) {
		uint64_t now = ub_now_ms();

		if (server->err.code) {
			*err = server->err;
			return -ECHILD;
		}
		if (server->gone) {
			ub_err_set(err, ECHILD, "the server %s before %s",
				   ub_server_fate(server, fate, sizeof(fate)), what);
			return -ECHILD;
		}
		if (k->side->command.fate[0] && !k->side->command.restarts && !k->was_live) {
			ub_err_set(err, ECHILD, "%s %s: the device is not made",
				   k->side->command.argv[0], k->side->command.fate);
			return -ECHILD;
		}
		if (k->was_live ? ub_life_is_given_up(k) : k->signals.nr > 0) {
			ub_err_set(err, EINTR, "interrupted before %s", what);
			return -EINTR;
		}
		if (now - began >= (uint64_t)timeout_ms) {
			ub_err_set(err, ETIMEDOUT,
				   "the server did not answer: %lld s were over before %s",
				   (long long)timeout_ms / 1000, what);
			return -ETIMEDOUT;
		}
		if (now >= say) {
			ub_log(UB_LOG_NOTICE, "%s: still waiting after %llu s", what,
			       (unsigned long long)((now - began) / 1000));
			say += SPAWN_SAY_MS;
		}
		ub_loop_once(&k->loop, 200);
	}
	return 0;
}

static void server_pump_until_gone(struct ub_server *server, int64_t timeout_ms)
{
	uint64_t deadline = ub_now_ms() + (uint64_t)timeout_ms;

	while (!server->gone && ub_now_ms() < deadline)
		ub_loop_once(&server->keeper->loop, 100);
}

bool ub_server_lives(struct ub_server *server, int64_t timeout_ms)
{
	ub_loop_once(&server->keeper->loop, 0);
	if (server->gone || !ub_process_is_ending(server->pid))
		return !server->gone;
	server_pump_until_gone(server, timeout_ms);
	return false;
}

void ub_server_forget(struct ub_server *server)
{
	struct ub_keeper *k = server->keeper;

	ub_rings_let_go(&server->rings);
	ub_loop_remove(&k->loop, server->fd);
	ub_loop_remove(&k->loop, server->pidfd);
	ub_close(&server->fd);
	ub_close(&server->pidfd);
	*server = (struct ub_server)UB_SERVER_NONE;
	server->keeper = k;
}

void ub_server_end(struct ub_server *server, int64_t timeout_ms)
{
	if (!server->pid)
		return;
	server_pump_until_gone(server, timeout_ms);
	if (!server->gone) {
		ub_log(UB_LOG_WARNING, "the server (pid %d) does not end: it is killed",
		       server->pid);
		kill(server->pid, SIGKILL);
		server_pump_until_gone(server, 5000);
	}
	if (!server->gone)
		ub_log(UB_LOG_ERROR, "the server (pid %d) cannot be killed", server->pid);
	ub_rings_let_go(&server->rings);
	ub_loop_remove(&server->keeper->loop, server->fd);
	ub_loop_remove(&server->keeper->loop, server->pidfd);
	ub_close(&server->fd);
	ub_close(&server->pidfd);
}
