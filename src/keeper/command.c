/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting an NBD server, watching it, starting it again, ending it. The keeper's main thread. */
#include "keeper/command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "helper/helper.h"
#include "helper/self.h"
#include "keeper/main.h"
#include "keeper/shield.h"
#include "run/rundir.h"
#include "run/socket-path.h"

#define COMMAND_BACKLOG	     128
#define COMMAND_LISTEN_FD    3 /* sd_listen_fds(3): SD_LISTEN_FDS_START */
#define COMMAND_MIN_DELAY_MS 100
#define COMMAND_MAX_DELAY_MS 5000
#define COMMAND_STABLE_MS    10000 /* one that ran so long begins with the shortest delay again */
#define COMMAND_END_MS	     5000
/* what shells end with, too */
#define COMMAND_NOT_EXECUTED 126
#define COMMAND_NOT_FOUND    127
#define COMMAND_RELAY	     "relay" /* its standard error by way of its shield */

/* ---- the child ----------------------------------------------------------- */

struct command_child {
	char **argv; /* UB_COMMAND_VERB's */
	bool is_listening;
};

static int command_execute(void *arg)
{
	const struct command_child *child = arg;
	char **argv = child->argv, pid[16];

	unsetenv("LISTEN_FDNAMES");
	if (child->is_listening) {
		snprintf(pid, sizeof(pid), "%d", getpid());
		setenv("LISTEN_PID", pid, 1);
		setenv("LISTEN_FDS", "1", 1);
	}
	if (chdir(argv[3]) < 0) {
		fprintf(stderr, "%s: its directory %s: %s\n", argv[4], argv[3], strerror(errno));
		return COMMAND_NOT_EXECUTED;
	}
	execvp(argv[4], argv + 4);
	if (errno == ENOENT)
		return COMMAND_NOT_FOUND;
	fprintf(stderr, "%s: cannot be executed: %s\n", argv[4], strerror(errno));
	return COMMAND_NOT_EXECUTED;
}

int ub_command_main(int argc, char **argv)
{
	struct command_child child = {
		.argv = argv,
		/* before it is anything of ours */
		.is_listening = fcntl(COMMAND_LISTEN_FD, F_GETFD) >= 0,
	};
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (argc < 5)
		return UB_EXIT_USAGE;
	/*
	 * It stays an I/O flusher, as the keeper is: what it allocates must not wait for its own
	 * device.
	 */
	setsid();
	if (fd < 0 || write(fd, argv[1], strlen(argv[1])) < 0)
		fprintf(stderr, "ublk-bridge: %s keeps the keeper's OOM score: %s\n", argv[4],
			strerror(errno));
	ub_close(&fd);
	ub_shield_run(command_execute, &child, strcmp(argv[2], COMMAND_RELAY) == 0);
}

/* ---- the keeper's side --------------------------------------------------- */

/* At c->path, where the server's requests come. */
static int command_listen(struct ub_command *c, struct ub_err *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	mode_t mask;
	int ret;

	unlink(c->path);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", c->path);
	c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	mask = umask(0177);
	ret = c->listen_fd < 0 || bind(c->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	      listen(c->listen_fd, COMMAND_BACKLOG) < 0;
	umask(mask);
	return ret ? ub_err_errno(err, errno, "the socket for %s, %s", c->argv[0], c->path) : 0;
}

static void command_died(void *arg);

static void command_output(void *arg)
{
	struct ub_command *c = arg;

	if (ub_output_read(&c->output, c->err_fd))
		return;
	ub_output_end(&c->output);
	ub_loop_remove(c->loop, c->err_fd);
	ub_close(&c->err_fd);
}

/* A pipe for what it prints; the end that is its own. -1: it prints to nobody. */
static int command_make_output(struct ub_command *c)
{
	const char *name = strrchr(c->argv[0], '/');
	int fds[2];

	if (c->err_fd >= 0) { /* of the one before */
		ub_loop_remove(c->loop, c->err_fd);
		ub_close(&c->err_fd);
	}
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -1;
	snprintf(c->output.who, sizeof(c->output.who), "%s", name ? name + 1 : c->argv[0]);
	c->output.len = 0;
	c->err_fd = fds[0];
	ub_loop_add(c->loop, c->err_fd, command_output, c);
	return fds[1];
}

static int command_spawn(struct ub_command *c)
{
	cleanup_fd int output = c->is_daemon ? command_make_output(c) : -1;
	int error = c->is_daemon ? output : STDERR_FILENO;
	int fds[4] = { -1, error, error, c->listen_fd };
	const char **words;
	char score[16];
	int pair[2] = { -1, -1 }, nr = 0;

	if (c->is_connected) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
			return -errno;
		fds[0] = fds[1] = pair[1];
	}
	while (c->argv[nr])
		nr++;
	words = calloc((size_t)nr + 5, sizeof(*words));
	if (!words)
		return -ENOMEM;
	snprintf(score, sizeof(score), "%d", c->oom_score);
	words[0] = UB_COMMAND_VERB;
	words[1] = score;
	words[2] = c->is_daemon ? COMMAND_RELAY : "direct";
	words[3] = c->dir;
	memcpy(words + 4, c->argv, (size_t)nr * sizeof(*words));
	c->pid = ub_spawn_self("ublk-bridge: command", words, fds);
	free(words);
	ub_close(&pair[1]);
	if (c->pid < 0) {
		nr = c->pid;
		c->pid = 0;
		ub_close(&pair[0]);
		return nr;
	}
	ub_close(&c->socket_fd);
	c->socket_fd = pair[0];
	c->is_adopted = false;
	c->started_ms = ub_now_ms();
	c->pid_fd = pidfd_open(c->pid, 0);
	if (c->pid_fd < 0)
		return -errno;
	ub_loop_add(c->loop, c->pid_fd, command_died, c);
	return 0;
}

static void command_restart(void *arg)
{
	struct ub_command *c = arg;
	struct ub_err err;
	uint64_t ignored;
	int ret;

	if (read(c->timer_fd, &ignored, sizeof(ignored)) < 0)
		return;
	/* The socket of the keeper before went with that one, and with the command. */
	ret = !c->is_connected && c->listen_fd < 0 ? command_listen(c, &err) : 0;
	if (ret == 0)
		ret = command_spawn(c);
	if (ret)
		ub_log(UB_LOG_ERROR, "%s cannot be started again: %s", c->argv[0], strerror(-ret));
	else if (c->is_connected)
		c->reconnected(c->arg);
}

static void command_schedule(struct ub_command *c)
{
	struct itimerspec when = { 0 };

	if (!c->delay_ms || ub_now_ms() - c->started_ms >= COMMAND_STABLE_MS)
		c->delay_ms = COMMAND_MIN_DELAY_MS;
	when.it_value.tv_sec = c->delay_ms / 1000;
	when.it_value.tv_nsec = (long)(c->delay_ms % 1000) * 1000000;
	timerfd_settime(c->timer_fd, 0, &when, NULL);
	c->delay_ms *= 2;
	if (c->delay_ms > COMMAND_MAX_DELAY_MS)
		c->delay_ms = COMMAND_MAX_DELAY_MS;
}

static void command_died(void *arg)
{
	struct ub_command *c = arg;
	enum ub_log_level level = UB_LOG_WARNING;
	int status = -1;

	if (!c->is_adopted && waitpid(c->pid, &status, WNOHANG) != c->pid)
		return;
	if (c->is_adopted)
		snprintf(c->fate, sizeof(c->fate), "has ended");
	else if (WIFSIGNALED(status))
		snprintf(c->fate, sizeof(c->fate), "was killed by signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status) == COMMAND_NOT_FOUND)
		snprintf(c->fate, sizeof(c->fate), "cannot be started: there is no such program");
	else if (WEXITSTATUS(status) == COMMAND_NOT_EXECUTED)
		snprintf(c->fate, sizeof(c->fate), "cannot be started");
	else
		snprintf(c->fate, sizeof(c->fate), "ended with status %d", WEXITSTATUS(status));
	c->pid = 0;
	ub_loop_remove(c->loop, c->pid_fd);
	ub_close(&c->pid_fd);
	if (c->is_ending || (c->is_connected && WIFEXITED(status) && WEXITSTATUS(status) == 0))
		level = UB_LOG_DEBUG; /* its connection was closed, and it ended as it should */
	if (c->err_fd >= 0)
		command_output(c);
	/* Before the device is live, whoever waits for that says how it ended. */
	if (!c->is_in_use && !c->restarts)
		level = UB_LOG_DEBUG;
	ub_log(level, "%s %s%s", c->argv[0], c->fate,
	       c->restarts ? ": it is started again" :
			     ": it is not started again (--restart-command would)");
	if (c->restarts)
		command_schedule(c);
	else
		ub_close(&c->listen_fd); /* nobody answers there any more */
}

int ub_command_start(struct ub_command *c, struct ub_err *err)
{
	int ret;

	if (!c->argv)
		return 0;
	c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (c->timer_fd < 0)
		return ub_err_errno(err, errno, "a timer");
	ub_loop_add(c->loop, c->timer_fd, command_restart, c);
	if (!c->is_connected) {
		ret = ub_rundir_socket_path(c->path, sizeof(c->path), err);
		if (ret == 0)
			ret = command_listen(c, err);
		if (ret)
			return ret;
	}
	ret = command_spawn(c);
	return ret ? ub_err_errno(err, -ret, "cannot start %s", c->argv[0]) : 0;
}

int ub_command_adopt(struct ub_command *c, struct ub_loop *loop, pid_t pid, struct ub_err *err)
{
	if (!c->argv)
		return 0;
	c->loop = loop;
	c->is_in_use = true;
	c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (c->timer_fd < 0)
		return ub_err_errno(err, errno, "a timer");
	ub_loop_add(c->loop, c->timer_fd, command_restart, c);
	c->pid_fd = pid > 1 ? pidfd_open(pid, 0) : -1;
	if (c->pid_fd >= 0) {
		c->pid = pid;
		c->is_adopted = true;
		ub_loop_add(c->loop, c->pid_fd, command_died, c);
	} else if (c->restarts) {
		command_schedule(c);
	}
	return 0;
}

static void command_await_end(struct ub_command *c)
{
	uint64_t deadline = ub_now_ms() + COMMAND_END_MS;

	while (c->pid && ub_now_ms() < deadline)
		ub_loop_once(c->loop, 100);
}

void ub_command_hold(struct ub_command *c)
{
	if (c->argv && c->pid)
		ub_shield_hold(c->pid);
}

void ub_command_begin_end(struct ub_command *c)
{
	if (!c->argv)
		return;
	c->restarts = false;
	if (c->timer_fd >= 0)
		ub_loop_remove(c->loop, c->timer_fd);
	ub_close(&c->timer_fd);
	ub_close(&c->socket_fd); /* --command: its stdin ends */
	if (c->pid) {
		c->is_ending = true;
		kill(-c->pid, SIGTERM);
	}
}

void ub_command_end(struct ub_command *c)
{
	if (!c->argv)
		return;
	ub_command_begin_end(c);
	command_await_end(c);
	if (c->pid) {
		kill(-c->pid, SIGKILL);
		command_await_end(c);
	}
	if (c->err_fd >= 0) {
		command_output(c);
		ub_loop_remove(c->loop, c->err_fd);
		ub_close(&c->err_fd);
	}
	ub_close(&c->listen_fd);
	if (c->path[0])
		unlink(c->path);
	c->path[0] = '\0';
}
