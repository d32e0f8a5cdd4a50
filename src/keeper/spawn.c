/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The server as the keeper sees it: a process, its messages and its end. The keeper's main thread. */
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
#include "base/step.h"
#include "base/text.h"
#include "keeper/helper.h"
#include "keeper/keeper.h"
#include "server/server.h"

#define SPAWN_SAY_MS	   10000
#define SPAWN_STAT_BYTES   512
#define SPAWN_FLAG_EXITING 0x4 /* of the flags in /proc/PID/stat: it is in do_exit() */

static void keeper_say_dropped(unsigned dropped)
{
	if (dropped)
		ub_log(UB_LOG_WARNING, "%u lines of the server were dropped", dropped);
}

/* A server that says the same over and over does not fill the journal. What --verbose asks for is all told. */
static void keeper_log(struct ub_keeper *k, enum ub_log_level level, const char *text)
{
	unsigned dropped;
	bool is_first = false, pass = true;

	if (level != UB_LOG_DEBUG) {
		pass = ub_log_limit_pass(&k->server_log, ub_now_ms(), &dropped, &is_first);
		keeper_say_dropped(dropped);
	}
	if (pass)
		ub_log(level, "%.500s", text);
	if (is_first)
		ub_log(UB_LOG_WARNING, "the server says more than %u lines in %u s: the others are dropped",
		       UB_LOG_LIMIT_LINES, UB_LOG_LIMIT_MS / 1000);
}

static void keeper_take_text(struct ub_keeper *k, struct ub_msg_text *msg)
{
	msg->text[sizeof(msg->text) - 1] = '\0';
	if (msg->header.type == UB_MSG_FAILED) {
		ub_err_set(&k->server_err, msg->value ? (int)msg->value : EIO, "%.400s", msg->text);
	} else {
		enum ub_log_level level = msg->value <= UB_LOG_DEBUG ? msg->value : UB_LOG_NOTICE;

		keeper_log(k, level, msg->text);
	}
}

static void keeper_take_message(struct ub_keeper *k, struct ub_msg_header *header)
{
	if (header->type == UB_MSG_LOG || header->type == UB_MSG_FAILED)
		keeper_take_text(k, (struct ub_msg_text *)header);
	if (header->type == UB_MSG_LIMITS && header->len_bytes == sizeof(struct ub_msg_limits)) {
		k->limits = ((struct ub_msg_limits *)header)->limits;
		k->caps = ((struct ub_msg_limits *)header)->caps;
	}
	if (header->type == UB_MSG_SET && header->len_bytes == sizeof(struct ub_msg_text))
		ub_settings_answered(k, (struct ub_msg_text *)header);
	if (header->type != UB_MSG_LOG && header->type != UB_MSG_SET)
		k->last_msg = header->type;
}

static void keeper_server_says(void *arg)
{
	struct ub_keeper *k = arg;
	int fds[UB_MESSAGE_MAX_FDS];
	int ret;

	while ((ret = ub_message_receive(k->server_fd, k->inbox, fds, MSG_DONTWAIT)) == 0) {
		for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
			ub_close(&fds[i]);
		keeper_take_message(k, (struct ub_msg_header *)k->inbox);
	}
	if (ret != -EAGAIN)
		ub_loop_remove(&k->loop, k->server_fd); /* its pidfd says the rest */
}

static void keeper_server_died(void *arg)
{
	struct ub_keeper *k = arg;

	if (waitpid(k->server_pid, &k->server_status, WNOHANG) != k->server_pid)
		return;
	keeper_server_says(k); /* its last words may be waiting */
	k->server_gone = true;
	ub_loop_remove(&k->loop, k->server_pidfd);
	ub_settings_server_gone(k);
	keeper_say_dropped(k->server_log.nr_dropped);
	k->server_log = (struct ub_log_limit){ 0 };
}

int ub_keeper_spawn_server(struct ub_keeper *k, struct ub_err *err)
{
	static const char *const argv[] = { UB_SERVER_VERB, NULL };
	int pair[2], pid, ret;

	ret = ub_step("spawn", err);
	if (ret)
		return ret;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return ub_err_errno(err, errno, "a socket to the server");
	/* A daemon's server must not hold the terminal, or a pipe that somebody reads to its end. */
	pid = ub_spawn_self("ublk-bridge: server", argv,
			    (const int[]){ -1, -1, k->opts->daemon ? -1 : STDERR_FILENO, pair[1] });
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return ub_err_errno(err, -pid, "cannot start the server");
	}
	k->server_pid = pid;
	k->server_fd = pair[0];
	k->server_pidfd = pidfd_open(pid, 0);
	if (k->server_pidfd < 0)
		return ub_err_errno(err, errno, "the server's pidfd");
	ub_loop_add(&k->loop, k->server_fd, keeper_server_says, k);
	ub_loop_add(&k->loop, k->server_pidfd, keeper_server_died, k);
	return 0;
}

const char *ub_keeper_server_fate(const struct ub_keeper *k, char *buf, size_t len)
{
	if (WIFSIGNALED(k->server_status))
		snprintf(buf, len, "was killed by signal %d (%s)", WTERMSIG(k->server_status),
			 strsignal(WTERMSIG(k->server_status)));
	else
		snprintf(buf, len, "ended with status %d", WEXITSTATUS(k->server_status));
	return buf;
}

int ub_keeper_await(struct ub_keeper *k, enum ub_message_type type, int64_t timeout_ms, const char *what,
		    struct ub_err *err)
{
	uint64_t began = ub_now_ms(), say = began + SPAWN_SAY_MS;
	char fate[96];

	while (k->last_msg != type) {
		uint64_t now = ub_now_ms();

		if (k->server_err.code) {
			*err = k->server_err;
			return -ECHILD;
		}
		if (k->server_gone) {
			ub_err_set(err, ECHILD, "the server %s before %s",
				   ub_keeper_server_fate(k, fate, sizeof(fate)), what);
			return -ECHILD;
		}
		if (k->command.fate[0] && !k->command.restarts) {
			ub_err_set(err, ECHILD, "%s %s before %s", k->command.argv[0], k->command.fate, what);
			return -ECHILD;
		}
		if (k->nr_signals) {
			ub_err_set(err, EINTR, "interrupted before %s", what);
			return -EINTR;
		}
		if (now - began >= (uint64_t)timeout_ms) {
			ub_err_set(err, ETIMEDOUT, "the server did not answer: %lld s were over before %s",
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

static void keeper_pump_until_gone(struct ub_keeper *k, int64_t timeout_ms)
{
	uint64_t deadline = ub_now_ms() + (uint64_t)timeout_ms;

	while (!k->server_gone && ub_now_ms() < deadline)
		ub_loop_once(&k->loop, 100);
}

/* Whether the server's main thread has begun to end: its pidfd tells only when the last thread has ended. */
static bool keeper_server_is_ending(const struct ub_keeper *k)
{
	char path[32], text[SPAWN_STAT_BYTES], state = '\0';
	const char *name_end;
	unsigned flags = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", k->server_pid);
	if (ub_text_read_file(path, text, sizeof(text)) <= 0)
		return false;
	/* proc_pid_stat(5): the name may have parentheses; then state, five numbers, and the kernel's flags */
	name_end = strrchr(text, ')');
	if (!name_end || sscanf(name_end, ") %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
		return false;
	return state == 'Z' || state == 'X' || (flags & SPAWN_FLAG_EXITING);
}

bool ub_keeper_server_lives(struct ub_keeper *k, int64_t timeout_ms)
{
	ub_loop_once(&k->loop, 0);
	if (k->server_gone || !keeper_server_is_ending(k))
		return !k->server_gone;
	keeper_pump_until_gone(k, timeout_ms);
	return false;
}

void ub_keeper_end_server(struct ub_keeper *k, int64_t timeout_ms)
{
	if (!k->server_pid)
		return;
	keeper_pump_until_gone(k, timeout_ms);
	if (!k->server_gone) {
		ub_log(UB_LOG_WARNING, "the server (pid %d) does not end: it is killed", k->server_pid);
		kill(k->server_pid, SIGKILL);
		keeper_pump_until_gone(k, 5000);
	}
	if (!k->server_gone)
		ub_log(UB_LOG_ERROR, "the server (pid %d) cannot be killed", k->server_pid);
	ub_loop_remove(&k->loop, k->server_fd);
	ub_loop_remove(&k->loop, k->server_pidfd);
	ub_close(&k->server_fd);
	ub_close(&k->server_pidfd);
}
