/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keeps SIGTERM from an NBD server until its time has come. A process of its own, with one thread.
 * See ptrace(2).
 */
#include "keeper/shield.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "base/text.h"

#define SHIELD_HOLD_SIGNAL SIGUSR1
#define SHIELD_PATIENCE_MS 1000 /* until the keeper has said whether it was told to end, too */
#define SHIELD_KEEPER_COMM "ublk-bridge"

struct shield {
	pid_t child;
	bool is_held;	   /* the keeper is going to end it */
	uint64_t until_ms; /* a SIGTERM waits so long for the keeper's word; 0: none waits */
	int signal_fd;
	/* the other end of the child's standard error; -1: it has ours, or has closed it */
	int relay_fd;
};

static bool shield_has_comm(pid_t pid, const char *comm)
{
	char path[32], text[32];

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	return pid > 0 && ub_text_read_file(path, text, sizeof(text)) > 0 &&
	       strncmp(text, comm, strlen(comm)) == 0;
}

void ub_shield_hold(pid_t pid)
{
	if (shield_has_comm(pid, UB_SHIELD_COMM))
		kill(pid, SHIELD_HOLD_SIGNAL);
}

/* ---- one signal ---------------------------------------------------------- */

/* Whether a SIGTERM that a thread of the child is about to get is to reach it. */
static bool shield_lets_pass(struct shield *s, pid_t thread)
{
	siginfo_t info = { 0 };

	if (ptrace(PTRACE_GETSIGINFO, thread, NULL, &info) < 0)
		return true;
	/* Ours: it has waited long enough. A keeper's: after the last flush. */
	if (info.si_code == SI_USER &&
	    (info.si_pid == getpid() || shield_has_comm(info.si_pid, SHIELD_KEEPER_COMM)))
		return true;
	if (!s->is_held && !s->until_ms)
		s->until_ms = ub_now_ms() + SHIELD_PATIENCE_MS;
	return false;
}

static bool shield_is_stop(int sig)
{
	return sig == SIGSTOP || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU;
}

/* A thread stands: it begins, or is about to get a signal, or was told to stop. */
static void shield_let_go(struct shield *s, pid_t thread, int status)
{
	int sig = WSTOPSIG(status), event = status >> 16;

	if (event == PTRACE_EVENT_STOP && shield_is_stop(sig)) {
		ptrace(PTRACE_LISTEN, thread, NULL, NULL); /* it stays stopped until SIGCONT */
		return;
	}
	if (event || (sig == SIGTERM && !shield_lets_pass(s, thread)))
		sig = 0;
	ptrace(PTRACE_CONT, thread, NULL, (void *)(uintptr_t)sig);
}

/* ---- what it says -------------------------------------------------------- */

/* All that is there by now. What nobody takes is lost. */
static void shield_relay(struct shield *s)
{
	char text[4096];
	ssize_t n;

	while (s->relay_fd >= 0 && (n = read(s->relay_fd, text, sizeof(text))) != -1) {
		ssize_t ignored = write(STDERR_FILENO, text, (size_t)n);

		(void)ignored;
		if (n == 0)
			ub_close(&s->relay_fd);
	}
}

/* A pipe for the child's standard error. Without one it has ours. */
static void shield_make_relay(struct shield *s, int *child_fd)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return;
	/* the child may wait for this process, which never waits for long */
	fcntl(fds[1], F_SETFL, 0);
	fcntl(STDERR_FILENO, F_SETFL, O_NONBLOCK);
	s->relay_fd = fds[0];
	*child_fd = fds[1];
}

/* ---- the child's end ----------------------------------------------------- */

static void __attribute__((noreturn)) shield_end_as(struct shield *s, int status)
{
	const struct rlimit none = { 0 };
	int sig = WTERMSIG(status);

	shield_relay(s); /* its last words */
	if (WIFEXITED(status))
		_exit(WEXITSTATUS(status));
	setrlimit(RLIMIT_CORE, &none); /* the child has left its own, if any */
	signal(sig, SIG_DFL);
	raise(sig);
	_exit(128 + sig);
}

static void shield_wait(struct shield *s)
{
	int status;
	pid_t thread;

	while ((thread = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
		if (WIFSTOPPED(status))
			shield_let_go(s, thread, status);
		else if (thread == s->child)
			shield_end_as(s, status);
	}
}

/* ---- the whole ----------------------------------------------------------- */

/*
 * Until the next event: the child's, the keeper's word, something to relay, or a SIGTERM that has
 * waited long enough.
 */
static void shield_wait_for_event(const struct shield *s)
{
	struct pollfd fds[] = { { .fd = s->signal_fd, .events = POLLIN },
				{ .fd = s->relay_fd, .events = POLLIN } };
	uint64_t now = ub_now_ms();

	poll(fds, 2, !s->until_ms ? -1 : s->until_ms > now ? (int)(s->until_ms - now) : 0);
}

static void shield_watch(struct shield *s)
{
	struct signalfd_siginfo info;

	for (;;) {
		shield_relay(s);
		shield_wait(s);
		shield_wait_for_event(s);
		while (read(s->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
			if (info.ssi_signo != SHIELD_HOLD_SIGNAL)
				continue;
			s->is_held = true;
			s->until_ms = 0;
		}
		if (s->until_ms && ub_now_ms() >= s->until_ms) {
			s->until_ms = 0;
			kill(s->child, SIGTERM); /* it was meant for the child alone */
		}
	}
}

/* Waits until the other end of the pipe is closed. */
static void shield_await_go(int fd)
{
	char byte;

	while (read(fd, &byte, 1) < 0 && errno == EINTR)
		;
	close(fd);
}

/* What a terminal or a service manager says is for the keeper. */
static void shield_be_deaf(void)
{
	static const int deaf[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGTSTP };

	for (size_t i = 0; i < sizeof(deaf) / sizeof(deaf[0]); i++)
		signal(deaf[i], SIG_IGN);
}

/* The child has them, and shall be the only one. */
static void shield_close_rest(struct shield *s)
{
	if (s->relay_fd >= 0) {
		dup2(s->relay_fd, STDIN_FILENO);
		s->relay_fd = STDIN_FILENO;
	} else {
		close(STDIN_FILENO);
	}
	close(STDOUT_FILENO);
	closefrom(STDERR_FILENO + 1);
}

void ub_shield_run(int (*child)(void *arg), void *arg, bool relays)
{
	struct shield s = { .relay_fd = -1 };
	int go[2], child_stderr = -1;
	sigset_t signals, old;

	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SHIELD_HOLD_SIGNAL);
	sigprocmask(SIG_BLOCK, &signals, &old);
	if (relays)
		shield_make_relay(&s, &child_stderr);
	if (pipe(go) < 0 || (s.child = fork()) < 0) {
		sigprocmask(SIG_SETMASK, &old, NULL);
		_exit(child(arg)); /* without a shield, then */
	}
	if (s.child == 0) {
		close(go[1]);
		shield_await_go(go[0]);
		if (child_stderr >= 0)
			dup2(child_stderr, STDERR_FILENO);
		ub_close(&s.relay_fd);
		ub_close(&child_stderr);
		sigprocmask(SIG_SETMASK, &old, NULL);
		_exit(child(arg));
	}
	shield_be_deaf();
	prctl(PR_SET_NAME, UB_SHIELD_COMM);
	close(go[0]);
	/* Any thread of the child may get the signal. If this process dies, so does the child. */
	if (ptrace(PTRACE_SEIZE, s.child, NULL,
		   (void *)(uintptr_t)(PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE)) < 0)
		fprintf(stderr,
			"ublk-bridge: a SIGTERM for all processes at once ends the NBD server "
			"before the last flush: %s\n",
			strerror(errno));
	close(go[1]);
	ub_close(&child_stderr);
	shield_close_rest(&s);
	s.signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	shield_watch(&s);
	abort();
}
