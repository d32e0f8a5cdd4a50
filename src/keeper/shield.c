/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Keeps SIGTERM from an NBD server until its time has come. A process of its own, with one thread. See ptrace(2). */
#include "keeper/shield.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/text.h"

#define SHIELD_HOLD_SIGNAL SIGUSR1
#define SHIELD_PATIENCE_MS 1000 /* until the keeper has said whether it was told to end, too */
#define SHIELD_KEEPER_COMM "ublk-bridge"

struct shield {
	pid_t child;
	bool is_held;	   /* the keeper is going to end it */
	uint64_t until_ms; /* a SIGTERM waits so long for the keeper's word; 0: none waits */
};

static bool shield_has_comm(pid_t pid, const char *comm)
{
	char path[32], text[32];

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	return pid > 0 && ub_text_read_file(path, text, sizeof(text)) > 0 && strncmp(text, comm, strlen(comm)) == 0;
}

void ub_shield_hold(pid_t pid)
{
	if (shield_has_comm(pid, UB_SHIELD_COMM))
		kill(pid, SHIELD_HOLD_SIGNAL);
}

/* ---- one signal ------------------------------------------------------------------------------------------------- */

/* Whether a SIGTERM that a thread of the child is about to get is to reach it. */
static bool shield_lets_pass(struct shield *s, pid_t thread)
{
	siginfo_t info = { 0 };

	if (ptrace(PTRACE_GETSIGINFO, thread, NULL, &info) < 0)
		return true;
	/* Ours: it has waited long enough. A keeper's: after the last flush. */
	if (info.si_code == SI_USER && (info.si_pid == getpid() || shield_has_comm(info.si_pid, SHIELD_KEEPER_COMM)))
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

/* ---- the child's end ------------------------------------------------------------------------------------------------ */

static void __attribute__((noreturn)) shield_end_as(int status)
{
	const struct rlimit none = { 0 };
	int sig = WTERMSIG(status);

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
			shield_end_as(status);
	}
}

/* ---- the whole ---------------------------------------------------------------------------------------------------- */

static void shield_watch(struct shield *s, const sigset_t *signals)
{
	for (;;) {
		struct timespec time = { 0 };
		uint64_t now;
		int sig;

		shield_wait(s);
		now = ub_now_ms();
		if (s->until_ms > now) {
			time.tv_sec = (time_t)((s->until_ms - now) / 1000);
			time.tv_nsec = (long)((s->until_ms - now) % 1000) * 1000000;
		}
		sig = sigtimedwait(signals, NULL, s->until_ms ? &time : NULL);
		if (sig == SHIELD_HOLD_SIGNAL) {
			s->is_held = true;
			s->until_ms = 0;
		} else if (sig < 0 && s->until_ms && ub_now_ms() >= s->until_ms) {
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

void ub_shield_run(int (*child)(void *arg), void *arg)
{
	struct shield s = { 0 };
	sigset_t signals, old;
	int go[2];

	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SHIELD_HOLD_SIGNAL);
	sigprocmask(SIG_BLOCK, &signals, &old);
	if (pipe(go) < 0 || (s.child = fork()) < 0) {
		sigprocmask(SIG_SETMASK, &old, NULL);
		_exit(child(arg)); /* without a shield, then */
	}
	if (s.child == 0) {
		close(go[1]);
		shield_await_go(go[0]);
		sigprocmask(SIG_SETMASK, &old, NULL);
		_exit(child(arg));
	}
	shield_be_deaf();
	prctl(PR_SET_NAME, UB_SHIELD_COMM);
	close(go[0]);
	/* Any thread of the child may get the signal. If this process dies, so does the child. */
	if (ptrace(PTRACE_SEIZE, s.child, NULL, (void *)(uintptr_t)(PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE)) < 0)
		fprintf(stderr, "ublk-bridge: a SIGTERM for all processes at once ends the NBD server before the last flush: %s\n",
			strerror(errno));
	close(go[1]);
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	closefrom(STDERR_FILENO + 1);
	shield_watch(&s, &signals);
	abort();
}
