/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The keeper as a process: signals, what it owes the machine, and how it becomes a daemon. */
#include "keeper/main.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/size.h"
#include "keeper/adopt.h"
#include "keeper/attach.h"
#include "keeper/keeper.h"
#include "keeper/standby.h"
#include "keeper/tables.h"
#include "keeper/upgrade.h"
#include "keeper/watch.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

/* ---- signals ------------------------------------------------------------- */

static void keeper_signal(void *arg)
{
	struct ub_keeper *k = arg;
	struct signalfd_siginfo info;

	if (read(k->signals.fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	k->signals.nr++;
	ub_command_hold(&k->side->command);
	ub_command_hold(&k->other->command);
}

static int keeper_take_signals(struct ub_keeper *k, struct ub_err *err)
{
	struct sigaction hangup;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	/* nohup: the terminal's end is not to be the device's */
	if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN)
		sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	/* ignored by whoever started us: then nobody could be waited for */
	signal(SIGCHLD, SIG_DFL);
	k->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (k->signals.fd < 0)
		return ub_err_errno(err, errno, "a signal descriptor");
	ub_loop_add(&k->loop, k->signals.fd, keeper_signal, k);
	return 0;
}

/* ---- what it owes the machine -------------------------------------------- */

/* What a process that recovers devices owes the machine. Failures are no reason not to serve. */
static void keeper_harden(struct ub_keeper *k)
{
	cleanup_fd int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
	char score[16] = "";

	/* What the command gets back. */
	if (fd >= 0 && read(fd, score, sizeof(score) - 1) > 0)
		k->oom_score = k->side->command.oom_score = atoi(score);
	if (fd < 0 || write(fd, "-1000", 5) < 0)
		ub_log(UB_LOG_DEBUG, "cannot keep the OOM killer away: %s", strerror(errno));
	if (mlockall(MCL_CURRENT) < 0)
		ub_log(UB_LOG_DEBUG, "cannot lock the keeper's memory: %s", strerror(errno));
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	if (!getcwd(k->side->command.dir, sizeof(k->side->command.dir)))
		snprintf(k->side->command.dir, sizeof(k->side->command.dir), "/");
	if (chdir("/") < 0)
		ub_log(UB_LOG_DEBUG, "cannot leave the working directory: %s", strerror(errno));
}

/* ---- serving ------------------------------------------------------------- */

static void keeper_announce(const struct ub_keeper *k)
{
	char size[32];

	ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: %s of %s, %u queue%s of depth %u, data path %s%s",
	       k->device.info.dev_id,
	       ub_size_format(k->side->limits.size_bytes, size, sizeof(size)), k->side->o->kind,
	       k->device.info.nr_hw_queues, k->device.info.nr_hw_queues == 1 ? "" : "s",
	       k->device.info.queue_depth, ub_data_path_name(k->device.data_path),
	       k->side->limits.read_only ? ", read only" : "");
	printf("/dev/ublkb%u\n", k->device.info.dev_id);
	fflush(stdout);
}

/*
 * A daemon lets go of the terminal, and then of whoever waits for it; false: nobody does any more.
 */
static bool keeper_detach_terminal(int ready_fd)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	bool is_awaited;

	ub_log_flush();
	ub_log_to_syslog();
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		close(null);
	}
	is_awaited = write(ready_fd, "", 1) == 1;
	close(ready_fd);
	return is_awaited;
}

/* Serves until the end, once the device is live. An exit status. */
static int keeper_serve_on(struct ub_keeper *k, bool is_adopted, int ready_fd)
{
	int ret;

	if (!is_adopted)
		ub_life_enter(k, UB_LIVE);
	k->side->command.is_in_use = true;
	keeper_announce(k);
	if (ready_fd >= 0 && !keeper_detach_terminal(ready_fd) && !is_adopted) {
		ub_log(UB_LOG_NOTICE,
		       "whoever started this daemon was interrupted: the device goes");
		k->signals.nr++;
	}
	ret = ub_watch(k);
	ub_log_flush();
	return ret;
}

/* Of a device that has no keeper, or whose keeper is asked to hand it over. */
static int keeper_take_over(struct ub_keeper *k, const char *name, bool is_upgrade,
			    struct ub_err *err)
{
	int ret = is_upgrade && ub_rundir_is_held(name) ? ub_upgrade_ask(k, name, err) : 0;

	if (ret == 0)
		ret = ub_adopt(k, name, err);
	if (ret == 0 && is_upgrade) {
		ret = ub_upgrade_finish(k, err);
		if (ret && !k->server->gone && k->standby->stage != UB_STANDBY_READY)
			/* one that is ready holds the memory until the old keeper has it again */
			ub_standby_drop(k);
	}
	return ret;
}

/* name: of the device that is recovered; NULL: a new one is made. */
static int keeper_main(const struct ub_attach_options *opts, const char *name, int ready_fd)
{
	static struct ub_keeper keeper;
	struct ub_keeper *k = &keeper;
	struct ub_err err = { 0 };
	int ret;

	ub_keeper_init(k, opts, ub_keeper_jobs, ub_keeper_verbs);
	if (name)
		ub_life_enter(k, UB_ADOPTING);
	ret = keeper_take_signals(k, &err);
	if (ret == 0)
		ret = ub_links_open(&k->links, &k->loop, &err);
	if (ret == 0) {
		ub_log_to_journal();
		ret = ub_log_start_thread();
		if (ret)
			ub_err_errno(&err, -ret, "the log's thread");
	}
	keeper_harden(k);
	if (ret == 0)
		ret = name ? keeper_take_over(k, name, opts->upgrade, &err) : ub_attach(k, &err);
	if (ret == 0)
		return keeper_serve_on(k, name != NULL, ready_fd);
	if (name)
		ub_adopt_let_go(k);
	else
		ub_watch_teardown(k, true);
	ub_log(UB_LOG_ERROR, "%s", err.text);
	ub_log_flush();
	return err.code == EBUSY ? UB_EXIT_BUSY : UB_EXIT_FAILED;
}

/* The parent of a daemon: ends when the child is ready or gone. */
static int keeper_await_daemon(int ready_fd, pid_t pid)
{
	char byte;
	ssize_t n;
	int status;

	do {
		n = read(ready_fd, &byte, 1);
	} while (n < 0 && errno == EINTR);
	if (n == 1)
		return UB_EXIT_DONE;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	ub_log(UB_LOG_ERROR, "the daemon was killed by signal %d (%s) before its device took I/O",
	       WTERMSIG(status), strsignal(WTERMSIG(status)));
	return UB_EXIT_FAILED;
}

/* Everything but stdin, stdout, stderr and one more, or none. */
static void keeper_close_others(int keep)
{
	if (keep <= STDERR_FILENO) {
		close_range(STDERR_FILENO + 1, ~0U, 0);
		return;
	}
	if (keep > STDERR_FILENO + 1)
		close_range(STDERR_FILENO + 1, (unsigned)keep - 1, 0);
	close_range((unsigned)keep + 1, ~0U, 0);
}

int ub_attach_run(const struct ub_attach_options *opts, const char *name)
{
	int ready[2];
	pid_t pid;

	if (!opts->daemon)
		return keeper_main(opts, name, -1);
	/*
	 * A daemon outlives whoever started it: their locks, pipes and files must not live on in
	 * it.
	 */
	keeper_close_others(opts->side.fd);
	if (pipe2(ready, O_CLOEXEC) < 0) {
		ub_log(UB_LOG_ERROR, "cannot become a daemon: %s", strerror(errno));
		return UB_EXIT_FAILED;
	}
	/* Before anything of the device is opened: the driver remembers the process. */
	pid = fork();
	if (pid < 0) {
		ub_log(UB_LOG_ERROR, "cannot become a daemon: %s", strerror(errno));
		return UB_EXIT_FAILED;
	}
	if (pid > 0) {
		close(ready[1]);
		return keeper_await_daemon(ready[0], pid);
	}
	close(ready[0]);
	setsid();
	/* exit() and not a return: whoever called may have more to do, and that is the parent's. */
	exit(keeper_main(opts, name, ready[1]));
}
