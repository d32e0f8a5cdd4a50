/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The word that an old server can write no more, and who gives it. The keeper's main thread. */
#include "keeper/job/fenced.h"

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
#include "base/step.h"
#include "helper/helper.h"
#include "helper/self.h"
#include "keeper/job/verbs.h"
#include "keeper/keeper.h"
#include "run/ranges.h"

#define FENCED_COMMAND_MS   60000
#define FENCED_MIN_DELAY_MS 1000
#define FENCED_MAX_DELAY_MS 60000
#define FENCED_SOON_MS	    200	 /* while it is not certain which side is which */
#define FENCED_LOOK_MS	    2000 /* a server that finds no room for RANGES says it once */

static uint64_t fenced_events(const struct ub_keeper *k, unsigned side)
{
	return atomic_load_explicit(&ub_ledger_side(k->shared.ledger, side)->events,
				    memory_order_acquire);
}

static bool fenced_has_ranges(const struct ub_keeper *k, unsigned side)
{
	return atomic_load_explicit(&ub_ledger_side(k->shared.ledger, side)->nr_live,
				    memory_order_acquire) > 0;
}

/* ---- the server is told -------------------------------------------------- */

static int fenced_send(struct ub_keeper *k, unsigned side, uint64_t event)
{
	struct ub_msg_fenced msg = { .header = { .type = UB_MSG_FENCED,
						 .len_bytes = sizeof(msg) } };

	msg.sides = 1U << side;
	msg.event = event;
	return ub_message_send(k->server->fd, &msg.header, NULL, 0, MSG_DONTWAIT);
}

/* Also a server that has come since: the one before it may have died before it heard of it. */
static void fenced_pass_on(struct ub_keeper *k)
{
	struct ub_keeper_fenced *f = &k->job.fenced;

	if (f->told_pid == k->server->pid || k->server->version <= UB_MESSAGE_V3)
		return;
	for (unsigned side = 0; side < UB_LEDGER_SIDES; side++) {
		if (f->event_said[side] && fenced_has_ranges(k, side) &&
		    fenced_send(k, side, f->event_said[side]) < 0)
			return; /* the next time */
	}
	f->told_pid = k->server->pid;
}

/* ---- the command --------------------------------------------------------- */

static void fenced_output(void *arg)
{
	struct ub_keeper *k = arg;

	/* All who had it as their output have gone; that the command has ended, its pidfd says. */
	if (!ub_output_read(&k->job.fenced.output, k->job.fenced.out_fd))
		ub_loop_remove(&k->loop, k->job.fenced.out_fd);
}

static void fenced_forget_command(struct ub_keeper *k)
{
	struct ub_keeper_fenced *f = &k->job.fenced;

	ub_loop_remove(&k->loop, f->pidfd);
	ub_loop_remove(&k->loop, f->out_fd);
	ub_close(&f->pidfd);
	ub_close(&f->out_fd);
	f->pid = 0;
}

static void fenced_failed(struct ub_keeper *k, const char *how)
{
	struct ub_keeper_fenced *f = &k->job.fenced;

	f->delay_ms = f->delay_ms ? 2 * f->delay_ms : FENCED_MIN_DELAY_MS;
	if (f->delay_ms > FENCED_MAX_DELAY_MS)
		f->delay_ms = FENCED_MAX_DELAY_MS;
	f->not_before_ms = ub_now_ms() + f->delay_ms;
	ub_log(UB_LOG_WARNING,
	       "/dev/ublkb%u: the fence command %s: it says nothing of the old server, and is run "
	       "again in %llu s if that is still waited for",
	       k->device.info.dev_id, how, (unsigned long long)f->delay_ms / 1000);
}

static void fenced_succeeded(struct ub_keeper *k)
{
	struct ub_keeper_fenced *f = &k->job.fenced;

	ub_log(UB_LOG_NOTICE,
	       "/dev/ublkb%u: the fence command says that the old server can write no more: "
	       "nothing "
	       "waits for it any longer",
	       k->device.info.dev_id);
	f->delay_ms = f->not_before_ms = 0;
	if (f->event > f->event_said[f->side])
		f->event_said[f->side] = f->event;
	f->told_pid = 0;
	if (!k->server->gone)
		fenced_pass_on(k);
}

static void fenced_ended(void *arg)
{
	struct ub_keeper *k = arg;
	struct ub_keeper_fenced *f = &k->job.fenced;
	int status = 0;
	char how[96];

	if (waitpid(f->pid, &status, WNOHANG) != f->pid)
		return;
	fenced_output(k);
	ub_output_end(&f->output);
	fenced_forget_command(k);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		fenced_succeeded(k);
		return;
	}
	if (f->was_killed)
		snprintf(how, sizeof(how), "took longer than %d s and was killed",
			 FENCED_COMMAND_MS / 1000);
	else if (WIFSIGNALED(status))
		snprintf(how, sizeof(how), "was killed by signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	else
		snprintf(how, sizeof(how), "ended with status %d", WEXITSTATUS(status));
	fenced_failed(k, how);
}

/* A process that becomes a shell: helper.h. 0 or -errno. */
static int fenced_spawn(struct ub_keeper *k, const struct nbd_options *o)
{
	struct ub_keeper_fenced *f = &k->job.fenced;
	char id[16], score[16], server[512], host[256], port[32];
	const char *args[] = { UB_HELPER_VERB, "fence", id,    k->rundir.name,	 server,
			       host,	       port,	score, o->fence_command, NULL };
	int pipe_fds[2], ret;

	snprintf(id, sizeof(id), "%u", k->device.info.dev_id);
	snprintf(score, sizeof(score), "%d", k->oom_score);
	nbd_options_describe(o, server, sizeof(server));
	if (!nbd_options_get_address(o, host, sizeof(host), port, sizeof(port)))
		host[0] = port[0] = '\0';
	if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	ret = ub_spawn_self("ublk-bridge: fence", args,
			    (const int[]){ -1, pipe_fds[1], pipe_fds[1], -1 });
	close(pipe_fds[1]);
	f->out_fd = pipe_fds[0];
	if (ret < 0) {
		ub_close(&f->out_fd);
		return ret;
	}
	f->pid = ret;
	f->pidfd = pidfd_open(f->pid, 0);
	if (f->pidfd < 0) {
		ret = -errno;
		kill(f->pid, SIGKILL);
		waitpid(f->pid, NULL, 0); /* it has not opened anything yet */
		ub_close(&f->out_fd);
		f->pid = 0;
		return ret;
	}
	ub_loop_add(&k->loop, f->pidfd, fenced_ended, k);
	ub_loop_add(&k->loop, f->out_fd, fenced_output, k);
	return 0;
}

static void fenced_start(struct ub_keeper *k, unsigned side, const struct nbd_options *o)
{
	struct ub_keeper_fenced *f = &k->job.fenced;
	char server[256], how[96];
	struct ub_err err = { 0 };
	int ret;

	f->side = side;
	f->event = fenced_events(k, side); /* before it looks at anything */
	f->was_killed = false;
	f->output.len = 0;
	snprintf(f->output.who, sizeof(f->output.who), "/dev/ublkb%u: fence command",
		 k->device.info.dev_id);
	f->deadline_ms = ub_now_ms() + FENCED_COMMAND_MS;
	ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: %s: the fence command is run", k->device.info.dev_id,
	       nbd_options_describe(o, server, sizeof(server)));
	ret = ub_step("fence-command", &err);
	if (ret == 0)
		ret = fenced_spawn(k, o);
	if (ret) {
		snprintf(how, sizeof(how), "cannot be started (%s)", strerror(-ret));
		fenced_failed(k, how);
	}
}

/* ---- when ---------------------------------------------------------------- */

/* What stands behind a side, while `present` is the device's. NULL: nothing of NBD's. */
static const struct nbd_options *fenced_options(const struct ub_keeper *k, unsigned side,
						unsigned present)
{
	const struct ub_side_options *o = side == present ? k->side->o : k->other->o;

	return o ? o->nbd : NULL;
}

/*
 * The device may be on the destination by now, which this keeper is still to be told: then its two
 * sides are not what they are in the page, and the wrong server would be stopped. NAME/side is
 * written before the page is.
 */
static bool fenced_is_in_cutover(const struct ub_keeper *k)
{
	return ub_migrate_is_on(k) && ub_rundir_read_side(&k->rundir) == k->job.migration.cookie;
}

/* Whether there is a command for this side; *is_wanted: and something to ask it about. */
static bool fenced_look_at(const struct ub_keeper *k, unsigned side, const struct nbd_options *o,
			   bool *is_wanted)
{
	*is_wanted = false;
	if (!o || !o->fence_command)
		return false;
	*is_wanted = fenced_has_ranges(k, side) &&
		     fenced_events(k, side) > k->job.fenced.event_said[side];
	return true;
}

static int fenced_run(struct ub_keeper *k)
{
	struct ub_keeper_fenced *f = &k->job.fenced;
	unsigned present = ub_stat_side(k->shared.stats);
	bool has_command = false, is_wanted;
	uint64_t now = ub_now_ms();

	if (fenced_is_in_cutover(k))
		return FENCED_SOON_MS;
	for (unsigned i = 0; i < UB_LEDGER_SIDES; i++) {
		unsigned side = i ? !present : present;
		const struct nbd_options *o = fenced_options(k, side, present);

		has_command |= fenced_look_at(k, side, o, &is_wanted);
		if (!is_wanted)
			continue;
		if (now < f->not_before_ms)
			return (int)(f->not_before_ms - now);
		fenced_start(k, side, o);
		return f->pid ? FENCED_COMMAND_MS : (int)f->delay_ms;
	}
	f->delay_ms = f->not_before_ms = 0; /* it is over without it */
	return has_command ? FENCED_LOOK_MS : -1;
}

/*
 * Runs the command if there is something that it has not been asked about, passes on the word, and
 * ends a command that takes too long.
 */
static int fenced_tend(struct ub_keeper *k)
{
	struct ub_keeper_fenced *f = &k->job.fenced;
	uint64_t now = ub_now_ms();

	if (f->pid && now >= f->deadline_ms && !f->was_killed) {
		f->was_killed = true;
		kill(-f->pid, SIGKILL);
		kill(f->pid, SIGKILL); /* one that has no group of its own yet */
	}
	if (!k->was_live || k->server->gone || !k->shared.ledger || !k->shared.stats ||
	    k->recovery.has_failed)
		return -1;
	fenced_pass_on(k);
	if (!f->pid)
		return fenced_run(k);
	return f->was_killed ? FENCED_LOOK_MS : (int)(f->deadline_ms - now);
}

/* A command that runs is killed, not waited for. */
static void fenced_let_go(struct ub_keeper *k)
{
	struct ub_keeper_fenced *f = &k->job.fenced;

	if (!f->pid)
		return;
	kill(-f->pid, SIGKILL);
	kill(f->pid, SIGKILL);
}

/* ---- the verb ------------------------------------------------------------ */

static int fenced_check(const struct ub_keeper *k, struct ub_err *err)
{
	const struct ub_side_options *other = k->other->o;

	if (!k->was_live || k->server->gone || k->server->fd < 0 || !k->shared.ledger)
		return ub_err_set(err, EAGAIN, "the device is not live now: try again");
	if (!k->side->o->nbd && !(other && other->nbd))
		return ub_err_set(err, EOPNOTSUPP, "'fenced' is for NBD devices: this one is of %s",
				  k->side->o->kind);
	if (k->server->version <= UB_MESSAGE_V3)
		return ub_err_set(err, EOPNOTSUPP,
				  "the device's server is of a version that cannot be told: "
				  "upgrade the "
				  "device");
	return 0;
}

int ub_verb_fenced(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
		   json_t *reply, struct ub_err *err)
{
	uint64_t bytes = 0;
	unsigned nr = 0;
	int ret = fenced_check(k, err);

	(void)caller;
	(void)args;
	for (unsigned side = 0; side < UB_LEDGER_SIDES && ret == 0; side++) {
		struct ub_ranges r;

		ub_ranges_read(k->shared.ledger, side, k->side->limits.size_bytes, ub_now_ms(), &r);
		ret = fenced_send(k, side, r.event);
		if (ret)
			return ub_err_errno(err, -ret, "the server cannot be told");
		k->job.fenced.event_said[side] = r.event;
		nr += r.nr;
		bytes += r.bytes;
	}
	if (ret)
		return ret;
	k->job.fenced.told_pid = k->server->pid;
	ub_log(UB_LOG_NOTICE,
	       "/dev/ublkb%u: somebody says that the old server can write no more: %u ranges are "
	       "not "
	       "waited for any longer",
	       k->device.info.dev_id, nr);
	json_object_set_new(reply, "ranges", json_integer(nr));
	json_object_set_new(reply, "bytes", json_integer((json_int_t)bytes));
	return 0;
}

/* ---- the job ------------------------------------------------------------- */

static bool fenced_hear(struct ub_keeper *k, struct ub_msg_header *msg)
{
	(void)k;
	return msg->type == UB_MSG_RANGES; /* which is said so that fenced_tend() looks */
}

static void fenced_event(struct ub_keeper *k, enum ub_event event)
{
	if (event == UB_EVENT_LET_GO || event == UB_EVENT_GOING)
		fenced_let_go(k);
}

const struct ub_job ub_job_fenced = { "fenced", fenced_tend, fenced_event, fenced_hear };
