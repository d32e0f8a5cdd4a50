/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The keeper: makes a device, watches over its server, and takes both away again. Its main thread;
 * it never opens /dev/ublkbN or /dev/ublkcN, and allocates nothing while the device is live, but to
 * start a helper.
 */
#include "keeper/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/store.h"
#include "backend/limits.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/size.h"
#include "base/step.h"
#include "keeper/helper.h"
#include "keeper/keeper.h"
#include "keeper/upgrade.h"
#include "keeper/verbs.h"
#include "ublk/params.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define HELLO_TIMEOUT_MS     10000
#define SETTLE_TIMEOUT_MS    30000
#define RETRY_RELEASE_MS     1000
#define STANDBY_MAKES_WAY_MS 5000 /* longer than until the next try */
#define SETTLE_MIN_REQUESTS  4	  /* fewer the block layer does not allow */

/* ---- signals ------------------------------------------------------------- */

static void keeper_signal(void *arg)
{
	struct ub_keeper *k = arg;
	struct signalfd_siginfo info;

	if (read(k->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	k->nr_signals++;
	ub_command_hold(k->command);
	ub_command_hold(k->next_command);
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
	k->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (k->signal_fd < 0)
		return ub_err_errno(err, errno, "a signal descriptor");
	ub_loop_add(&k->loop, k->signal_fd, keeper_signal, k);
	return 0;
}

/* ---- attaching ----------------------------------------------------------- */

/* What a process that recovers devices owes the machine. Failures are no reason not to serve. */
static void keeper_harden(struct ub_keeper *k)
{
	cleanup_fd int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
	char score[16] = "";

	/* What the command gets back. */
	if (fd >= 0 && read(fd, score, sizeof(score) - 1) > 0)
		k->oom_score = k->command->oom_score = atoi(score);
	if (fd < 0 || write(fd, "-1000", 5) < 0)
		ub_log(UB_LOG_DEBUG, "cannot keep the OOM killer away: %s", strerror(errno));
	if (mlockall(MCL_CURRENT) < 0)
		ub_log(UB_LOG_DEBUG, "cannot lock the keeper's memory: %s", strerror(errno));
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	if (!getcwd(k->command->dir, sizeof(k->command->dir)))
		snprintf(k->command->dir, sizeof(k->command->dir), "/");
	if (chdir("/") < 0)
		ub_log(UB_LOG_DEBUG, "cannot leave the working directory: %s", strerror(errno));
}

/* The message that says what is to be served. *msg is the caller's to free(). */
static int keeper_make_config(struct ub_keeper *k, bool is_standby, struct ub_msg_config **msg,
			      struct ub_err *err)
{
	const struct ub_attach_options *o = k->opts;
	cleanup_free char *json = o->nbd ? nbd_options_to_json(o->nbd) : NULL;
	const char *options = json ? json : o->options;
	const char *identity = is_standby && k->identity ? k->identity : "";
	const char *kind = k->recovery.has_failed ? "error" : o->kind;
	size_t options_bytes = strlen(options) + 1, identity_bytes = strlen(identity) + 1;
	size_t len = sizeof(**msg) + options_bytes + identity_bytes;

	if ((o->nbd && !json) || !(*msg = calloc(1, len)))
		return ub_err_errno(err, ENOMEM, "the message to the server");
	if (len > UB_MESSAGE_MAX_BYTES)
		return ub_err_set(err, E2BIG, "the options of the back end are too long");
	(*msg)->header.type = UB_MSG_CONFIG;
	(*msg)->header.len_bytes = (uint32_t)len;
	(*msg)->size_bytes = is_standby ? k->limits.size_bytes : o->size_bytes;
	(*msg)->logical_block_bytes =
		is_standby ? k->limits.logical_block_bytes : o->logical_block_bytes;
	(*msg)->nr_queues = o->nr_queues ? o->nr_queues : 1;
	(*msg)->read_only = o->read_only;
	(*msg)->has_fd = k->store_fd >= 0;
	(*msg)->core_dump = o->core_dump;
	(*msg)->log_level = (uint8_t)ub_log_get_level();
	(*msg)->options_bytes = (uint32_t)options_bytes;
	snprintf((*msg)->kind, sizeof((*msg)->kind), "%s", kind);
	memcpy((*msg)->options, options, options_bytes);
	memcpy((*msg)->options + options_bytes, identity, identity_bytes);
	return 0;
}

int ub_keeper_send_config(struct ub_keeper *k, struct ub_server *server, struct ub_err *err)
{
	cleanup_free struct ub_msg_config *msg = NULL;
	int ret = keeper_make_config(k, server == k->standby, &msg, err);

	if (ret)
		return ret;
	ret = ub_message_send(server->fd, &msg->header, &k->store_fd, k->store_fd >= 0, 0);
	return ret ? ub_err_errno(err, -ret, "the server cannot be reached") : 0;
}

static int keeper_configure_server(struct ub_keeper *k, struct ub_err *err)
{
	const struct ub_attach_options *o = k->opts;
	int64_t limit_ms = (int64_t)o->timeout_s * 1000 + (o->nbd ? (int64_t)o->nbd->wait_ms : 0);
	int ret = ub_keeper_await(k->server, UB_MSG_HELLO, HELLO_TIMEOUT_MS, "it said hello", err);

	if (ret == 0)
		ret = ub_keeper_send_config(k, k->server, err);
	if (ret)
		return ret;
	if (o->nbd)
		/* the server's alone: its end is to be seen at the other side */
		ub_close(&k->store_fd);
	ret = ub_keeper_await(k->server, UB_MSG_LIMITS, limit_ms, "it had opened the back end",
			      err);
	if (ret == 0 && !k->identity)
		ret = ub_err_set(err, EPROTO, "the server did not say what it has opened");
	return ret ? ret : ub_limits_check(&k->limits, err);
}

/* ---- [ COMMAND ] --------------------------------------------------------- */

/* --command was started again: its new socket is the server's. */
void ub_keeper_hand_over_socket(void *arg)
{
	struct ub_keeper *k = arg;
	struct ub_msg_header header = { .type = UB_MSG_SOCKET, .len_bytes = sizeof(header) };

	/* While there is no server it waits for the next one. */
	if (k->server->fd < 0 || k->server->gone || k->recovery.is_running ||
	    k->command->socket_fd < 0)
		return;
	ub_message_send(k->server->fd, &header, &k->command->socket_fd, 1, MSG_DONTWAIT);
	ub_close(&k->command->socket_fd);
}

static int keeper_start_command(struct ub_keeper *k, struct ub_err *err)
{
	const struct ub_attach_options *o = k->opts;
	struct ub_command *c = k->command;
	int ret = ub_step("command", err);

	if (ret || !o->command)
		return ret;
	c->argv = o->command;
	c->is_connected = o->command_is_connected;
	c->restarts = o->restart_command;
	c->is_daemon = o->daemon;
	c->loop = &k->loop;
	c->reconnected = ub_keeper_hand_over_socket;
	c->arg = k;
	ret = ub_command_start(c, err);
	if (ret)
		return ret;
	if (c->is_connected) {
		k->store_fd = ub_steal_fd(&c->socket_fd);
		return 0;
	}
	o->nbd->path = strdup(c->path);
	return o->nbd->path ? 0 : ub_err_errno(err, ENOMEM, "the command's socket");
}

static int keeper_make_store(struct ub_keeper *k, struct ub_err *err)
{
	int fd, ret = ub_step("store", err);

	if (ret || strcmp(k->opts->kind, "mem") != 0)
		return ret;
	fd = ub_store_create(k->opts->size_bytes, k->opts->prealloc, err);
	if (fd < 0)
		return fd;
	k->store_fd = fd;
	return 0;
}

static bool keeper_interrupted(void *arg)
{
	const struct ub_keeper *k = arg;

	return k->nr_signals > 0 || k->server->gone || k->server->err.code;
}

/* After START: the node opens, partitions are there, the scheduler is set. */
static int keeper_settle(struct ub_keeper *k, struct ub_err *err)
{
	char id[16], requests[16] = "0", said[256], fate[96];
	/* its queues' threads may not administrate: the driver does not scan */
	bool may_add = k->recovery.is_on;
	const char *args[] = { "settle",
			       id,
			       k->opts->scheduler,
			       k->info.flags & UBLK_F_NO_AUTO_PART_SCAN ? UB_HELPER_SCAN :
			       may_add					? UB_HELPER_ADD :
									  UB_HELPER_NO_SCAN,
			       requests,
			       NULL };
	int ret = ub_step("settle", err);

	if (ret)
		return ret;
	snprintf(id, sizeof(id), "%u", k->info.dev_id);
	/* Drivers that let go of each tag by itself notice a death by themselves, too. */
	if (k->recovery.is_on && !(k->features & UBLK_F_PER_IO_DAEMON) &&
	    k->info.queue_depth > SETTLE_MIN_REQUESTS)
		snprintf(requests, sizeof(requests), "%u", k->info.queue_depth - 1U);
	ret = ub_helper_run(&k->loop, args, "the first look at the device", said, sizeof(said),
			    SETTLE_TIMEOUT_MS, keeper_interrupted, k);
	if (k->server->err.code) {
		*err = k->server->err;
		return -ECHILD;
	}
	if (k->server->gone)
		return ub_err_set(err, ECHILD, "the server %s while the device settled",
				  ub_keeper_server_fate(k->server, fate, sizeof(fate)));
	if (ret == -EINTR)
		return ub_err_set(err, EINTR, "interrupted while the device settled");
	if (ret < 0)
		return ub_err_errno(err, -ret, "the device did not settle");
	if (ret != UB_EXIT_DONE)
		return ub_err_set(err, EIO, "%.400s", said);
	if (said[0])
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: %s", k->info.dev_id, said);
	return 0;
}

static int keeper_attach(struct ub_keeper *k, struct ub_err *err)
{
	int ret = ub_ctrl_open(&k->ctrl, err);

	if (ret == 0)
		ret = ub_step("features", err);
	if (ret == 0)
		ret = ub_ctrl_get_features(&k->ctrl, &k->features, err);
	if (ret == 0)
		ret = ub_resize_check_options(k, err);
	if (ret == 0 && k->opts->name)
		ret = ub_keeper_check_name(k, k->opts->name, err);
	if (ret == 0)
		ret = keeper_make_store(k, err);
	if (ret == 0)
		ret = keeper_start_command(k, err);
	if (ret == 0)
		ret = ub_keeper_spawn(k, k->server, err);
	if (ret == 0)
		ret = keeper_configure_server(k, err);
	if (ret == 0)
		ret = ub_keeper_add(k, err);
	if (ret == 0)
		ret = ub_keeper_serve(k, err);
	if (ret == 0)
		ret = ub_keeper_start(k, err);
	if (ret == 0)
		ret = keeper_settle(k, err);
	/* Until here an outage fails the attach, and a server without a keeper ends. */
	if (ret == 0 && ub_message_send_type(k->server->fd, UB_MSG_LIVE) < 0)
		ub_log(UB_LOG_DEBUG, "the server is gone already"); /* and that is found out now */
	return ret ? ret :
		     ub_keeper_await(k->server, UB_MSG_LIVE, HELLO_TIMEOUT_MS,
				     "it knew that it is live", err);
}

/* ---- serving ------------------------------------------------------------- */

static bool keeper_insisted(void *arg)
{
	const struct ub_keeper *k = arg;

	return k->nr_signals > 1 || k->detach.is_forced || k->server->gone;
}

/* There is nothing to be written back any more, or somebody does not care. */
static bool keeper_must_go(const struct ub_keeper *k)
{
	/* A server that can be replaced is, for whoever insists, too: what is dirty needs one. */
	return k->server->gone ? !k->recovery.is_on : k->nr_signals > 1 || k->detach.is_forced;
}

/* What lost connections may still write: whoever uses the export next must not find it on top. */
static enum ub_ranges_wait_state keeper_look_at_ranges(struct ub_keeper *k, char *said, size_t len)
{
	enum ub_ranges_wait_state state;
	struct ub_ranges r;
	char what[80];

	ub_ranges_read(k->opts->nbd ? k->ledger : NULL, ub_stat_side(k->stats),
		       k->limits.size_bytes, ub_now_ms(), &r);
	state = ub_ranges_wait(&k->detach.wait, &r, ub_now_ms());
	if (state == UB_RANGES_OVER) {
		ub_ranges_read_other(k->ledger, !ub_stat_side(k->stats), k->limits.size_bytes,
				     ub_now_ms(), &r);
		state = ub_ranges_wait_other(&k->detach.other_wait, &r, ub_now_ms(),
					     k->info.dev_id);
	}
	if (state == UB_RANGES_WAIT)
		ub_ranges_describe_wait(&r, said, len);
	if (state == UB_RANGES_TOO_LONG)
		snprintf(said, len,
			 "%s may still be written by lost connections: 'ublk-bridge fenced %u' "
			 "when that server "
			 "can write no more",
			 ub_ranges_describe(&r, what, sizeof(what)), k->info.dev_id);
	return state;
}

/*
 * All is written back. Whether the device stays for its ranges; *ret: for whoever asks, if too
 * long.
 */
static bool keeper_awaits_ranges(struct ub_keeper *k, int *ret, char *said, size_t len)
{
	enum ub_ranges_wait_state state = keeper_look_at_ranges(k, said, len);

	if (state == UB_RANGES_WAIT && !k->detach.awaits_ranges)
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: it goes when that is over: %s", k->info.dev_id,
		       said);
	k->detach.awaits_ranges = state == UB_RANGES_WAIT;
	if (state == UB_RANGES_TOO_LONG)
		*ret = UB_EXIT_BUSY;
	return k->detach.awaits_ranges;
}

/*
 * A signal, or a client of control.sock, asks for the end. True when the device may go: nobody
 * holds it and all is written back, or somebody insists.
 */
static bool keeper_may_go(struct ub_keeper *k, char *told, size_t told_len)
{
	struct ub_err err = { 0 };
	char id[16], said[512];
	int ret;

	if (k->detach.awaits_ranges && !k->nr_signals && !ub_verb_detach_is_awaited(k)) {
		k->detach.awaits_ranges =
			false; /* whoever asked has gone, and does not expect it any more */
		return keeper_must_go(k);
	}
	if (k->detach.awaits_ranges &&
	    keeper_look_at_ranges(k, said, sizeof(said)) == UB_RANGES_WAIT)
		return keeper_must_go(k);
	snprintf(id, sizeof(id), "%u", k->info.dev_id);
	if (ub_rundir_is_offline(k->rundir.name, said, sizeof(said)))
		ret = UB_EXIT_FAILED;
	else
		ret = ub_helper_run(&k->loop, (const char *const[]){ "release", id, NULL },
				    "writing back before the device goes", said, sizeof(said), -1,
				    keeper_insisted, k);
	if (!keeper_must_go(k) && ret == UB_EXIT_DONE &&
	    keeper_awaits_ranges(k, &ret, said, sizeof(said)))
		return false;
	if (keeper_must_go(k) || (ret == UB_EXIT_DONE && ub_keeper_try_stop(k)))
		return true;
	if (k->server->gone)
		return false; /* which is another story */
	/*
	 * The descriptors that the helper lacks are the standby's, which is of no use to a device
	 * that goes.
	 */
	if (ret == -EMFILE || ret == -ENFILE) {
		ub_keeper_drop_standby(k);
		k->recovery.standby_not_before_ms = ub_now_ms() + STANDBY_MAKES_WAY_MS;
	}
	if (ret == UB_EXIT_DONE)
		snprintf(said, sizeof(said), "somebody has it open");
	if (ret < 0)
		snprintf(said, sizeof(said), "%s", strerror(-ret));
	/* Who asks by the socket is told, and asks again; a signal is remembered. */
	ub_err_set(&err, ret == UB_EXIT_DONE || ret == UB_EXIT_BUSY ? EBUSY : EIO,
		   "/dev/ublkb%u stays: %.400s", k->info.dev_id, said);
	ub_verb_detach_answer(k, &err);
	k->detach.awaits_ranges = false;
	if (!k->nr_signals)
		k->detach.wait = k->detach.other_wait =
			(struct ub_ranges_wait){ 0 }; /* whoever asks next has the same patience */
	if (k->nr_signals && strcmp(said, told) != 0) {
		ub_log(UB_LOG_WARNING,
		       "/dev/ublkb%u stays: %s; it goes when it is free (signal again to take it "
		       "away now)",
		       k->info.dev_id, said);
		snprintf(told, told_len, "%s", said);
	}
	return false;
}

/* Of two times to wait, in ms; -1: for ever. */
static int keeper_sooner(int a, int b)
{
	return a < 0 || (b >= 0 && b < a) ? b : a;
}

/* Returns when the device is to be taken away, or its server is gone for good. */
static void keeper_watch(struct ub_keeper *k)
{
	struct ub_err err = { 0 };
	char told[512] = "";
	int wait_ms, ret;

	for (;;) {
		if (k->server->gone) {
			ret = k->recovery.is_on ? ub_keeper_recover(k, &err) : -ENODEV;
			if (ret && ret != -ENODEV && err.code)
				ub_log(UB_LOG_ERROR, "/dev/ublkb%u cannot be recovered: %s",
				       k->info.dev_id, err.text);
			if (ret)
				return;
		}
		wait_ms = keeper_sooner(ub_migrate_tend(k), ub_resize_tend(k));
		wait_ms = keeper_sooner(wait_ms, ub_keeper_tend_standby(k));
		wait_ms = keeper_sooner(wait_ms, ub_fenced_tend(k));
		if (k->handover.is_asked) {
			k->is_let_go = ub_keeper_hand_over(k);
			if (k->is_let_go)
				return;
			wait_ms = 0; /* it is back, and has no standby */
		}
		if (k->nr_signals || k->detach.nr_callers || k->detach.is_forced) {
			if (keeper_must_go(k) || ub_migrate_give_up(k))
				k->detach.is_going = keeper_may_go(k, told, sizeof(told));
			if (k->detach.is_going)
				return;
			if (k->nr_signals || k->detach.awaits_ranges)
				wait_ms = RETRY_RELEASE_MS;
		}
		if (!k->server->gone)
			ub_loop_once(&k->loop, wait_ms);
	}
}

static void keeper_announce(const struct ub_keeper *k)
{
	char size[32];

	ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: %s of %s, %u queue%s of depth %u, data path %s%s",
	       k->info.dev_id, ub_size_format(k->limits.size_bytes, size, sizeof(size)),
	       k->opts->kind, k->info.nr_hw_queues, k->info.nr_hw_queues == 1 ? "" : "s",
	       k->info.queue_depth, ub_data_path_name(k->data_path),
	       k->limits.read_only ? ", read only" : "");
	printf("/dev/ublkb%u\n", k->info.dev_id);
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

/* Whoever insisted did not wait for it. */
static void keeper_say_rest(struct ub_keeper *k)
{
	char rest[120];

	if (!k->stats)
		return;
	ub_ranges_describe_rest(k->ledger, k->limits.size_bytes, rest, sizeof(rest));
	if (rest[0])
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: %s", k->info.dev_id, rest);
}

static int keeper_finish(struct ub_keeper *k)
{
	bool died = k->server->gone && k->server->status != 0;
	char fate[96];

	if (died)
		ub_log(UB_LOG_ERROR, "/dev/ublkb%u: the server %s: the device is taken away",
		       k->info.dev_id, ub_keeper_server_fate(k->server, fate, sizeof(fate)));
	else if (k->server->gone && !k->nr_signals && !k->detach.is_going)
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u was stopped by somebody else", k->info.dev_id);
	ub_fenced_let_go(k);
	keeper_say_rest(k);
	ub_keeper_teardown(k, k->nr_signals > 1 || k->detach.is_forced);
	return died ? UB_EXIT_FAILED : UB_EXIT_DONE;
}

/* Serves until the end, once the device is live. An exit status. */
static int keeper_serve_on(struct ub_keeper *k, bool is_adopted, int ready_fd)
{
	int ret;

	k->was_live = true;
	k->command->is_in_use = true;
	keeper_announce(k);
	if (ready_fd >= 0 && !keeper_detach_terminal(ready_fd) && !is_adopted) {
		ub_log(UB_LOG_NOTICE,
		       "whoever started this daemon was interrupted: the device goes");
		k->nr_signals++;
	}
	keeper_watch(k);
	ret = k->is_let_go ? UB_EXIT_DONE : keeper_finish(k);
	ub_log_flush();
	return ret;
}

/* Of a device that has no keeper, or whose keeper is asked to hand it over. */
static int keeper_take_over(struct ub_keeper *k, const char *name, bool is_upgrade,
			    struct ub_err *err)
{
	int ret = is_upgrade && ub_rundir_is_held(name) ? ub_upgrade_ask(k, name, err) : 0;

	if (ret == 0)
		ret = ub_keeper_adopt(k, name, err);
	if (ret == 0 && is_upgrade) {
		ret = ub_upgrade_finish(k, err);
		if (ret && !k->server->gone && k->standby->stage != UB_STANDBY_READY)
			/* one that is ready holds the memory until the old keeper has it again */
			ub_keeper_drop_standby(k);
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

	*k = (struct ub_keeper){ .opts = opts,
				 .rundir = UB_RUNDIR_NONE,
				 .control = UB_CONTROL_NONE };
	k->server = &k->servers[0];
	k->standby = &k->servers[1];
	*k->server = *k->standby = (struct ub_server)UB_SERVER_NONE;
	k->server->keeper = k->standby->keeper = k;
	k->commands[0] = k->commands[1] = (struct ub_command)UB_COMMAND_NONE_YET;
	k->command = &k->commands[0];
	k->next_command = &k->commands[1];
	k->migration = (struct ub_keeper_migration)UB_KEEPER_MIGRATION_NONE;
	k->links = (struct ub_links)UB_LINKS_NONE;
	k->store_fd = opts->fd;
	k->stats_fd = k->arena_fd = k->ledger_fd = k->signal_fd = k->handover.old_fd = -1;
	k->handover.wait_ms = opts->upgrade_wait_ms;
	ub_loop_init(&k->loop);
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
		ret = name ? keeper_take_over(k, name, opts->upgrade, &err) :
			     keeper_attach(k, &err);
	if (ret == 0)
		return keeper_serve_on(k, name != NULL, ready_fd);
	if (name)
		ub_keeper_let_go(k);
	else
		ub_keeper_teardown(k, true);
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
	keeper_close_others(opts->fd);
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
