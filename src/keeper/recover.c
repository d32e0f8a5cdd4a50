/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What happens when a server dies: its standby takes the device over.
 *
 *   recovery:  the server is gone ─ START_USER_RECOVERY ─ TAKE ─(FETCHING)─
 *                     │             END_USER_RECOVERY ─ LIVE
 *                     └─ its connections are reset: links.h
 *
 * What the dead server had sent is in the ledger: the next one lets newer changes wait for it,
 * where they must, and all else goes on at once.
 *
 * The standby is there before it is needed, because while the device stands still the kernel may be
 * waiting for it to get memory: nothing is spawned, loaded or allocated then. The keeper's main
 * thread. Specification: Documentation/block/ublk.rst, "User recovery feature description".
 */
#include "keeper/recover.h"

#include <errno.h>
#include <signal.h>

#include "base/log.h"
#include "base/step.h"
#include "keeper/jobs.h"
#include "keeper/keeper.h"
#include "keeper/kernel.h"
#include "keeper/life.h"
#include "keeper/note.h"
#include "keeper/standby.h"

#define RECOVER_TEND_MS 500
/* before a standby is tried again, and before a second death is mended */
#define RECOVER_MIN_DELAY_MS 100
#define RECOVER_MAX_DELAY_MS 5000
/* a server that lived so long did not die of what killed the one before it */
#define RECOVER_STABLE_MS     1000
#define RECOVER_MAX_DEATHS    10 /* in a row */
#define RECOVER_END_DEATHS    15 /* of which the last few were not the back end's fault */
#define RECOVER_RETRY_MS      2
#define RECOVER_SLOW_RETRY_MS 50
/* for so long is asked often whether the kernel has noticed the death */
#define RECOVER_QUICK_MS	1000
#define RECOVER_STUCK_MS	40000 /* the kernel may take 30 s to notice a death */
#define RECOVER_SAY_MS		10000
#define RECOVER_CMD_MS		5000
#define RECOVER_FETCH_MS	30000
#define RECOVER_LIVE_MS		10000
#define RECOVER_V3_YIELD_MS	3000  /* more than such a server takes for what it has */
#define RECOVER_YIELD_MS	15000 /* more than one takes that can refuse */
#define RECOVER_SWITCH_PAUSE_MS 1000 /* of ordinary service, after a pause of as much for nothing */

/* ---- recovery ------------------------------------------------------------ */

/* Whether somebody wants it no more: 0, or what ub_recover() returns. */
static int recover_check(struct ub_keeper *k)
{
	struct ublksrv_ctrl_dev_info info;
	struct ub_err ignored;
	int ret;

	if (ub_life_is_given_up(k))
		return -EINTR;
	ret = ub_ctrl_get_info(&k->device.ctrl, k->device.info.dev_id, &info, &ignored);
	if (ret == -ENODEV || (ret == 0 && (info.ublksrv_flags != k->device.info.ublksrv_flags ||
					    info.state == UBLK_S_DEV_DEAD)))
		return -ENODEV;
	return 0;
}

/* Turns of the loop until the time is over. 0, -ENODEV or -EINTR. */
static int recover_pause(struct ub_keeper *k, uint64_t ms)
{
	uint64_t until = ub_now_ms() + ms, now;
	int ret = 0;

	while (ret == 0 && (now = ub_now_ms()) < until) {
		ub_loop_once(&k->loop,
			     until - now > RECOVER_TEND_MS ? RECOVER_TEND_MS : (int)(until - now));
		ret = recover_check(k);
	}
	return ret;
}

static int recover_await_standby(struct ub_keeper *k)
{
	uint64_t say = ub_now_ms() + RECOVER_SAY_MS;
	int ret = 0;

	while (ret == 0) {
		ub_standby_tend(k);
		if (k->standby->stage == UB_STANDBY_READY && !k->standby->is_dismissed &&
		    ub_server_lives(k->standby, 0))
			return 0;
		if (ub_now_ms() >= say) {
			ub_log(UB_LOG_WARNING, "/dev/ublkb%u: I/O still waits for a server",
			       k->device.info.dev_id);
			say = ub_now_ms() + RECOVER_SAY_MS;
		}
		ub_loop_once(&k->loop, RECOVER_RETRY_MS);
		ret = recover_check(k);
	}
	return ret;
}

/* The kernel has to notice the death first: Linux 6.12 may take half a minute. */
static int recover_start(struct ub_keeper *k, struct ub_err *err)
{
	uint64_t began = ub_now_ms(), say = began + RECOVER_SAY_MS;
	int ret = ub_step("start-recovery", err);

	while (ret == 0) {
		uint64_t waited;

		ret = ub_kernel_long_cmd(k, &k->recovery.start_cmd, UBLK_U_CMD_START_USER_RECOVERY,
					 0, "START_USER_RECOVERY", RECOVER_CMD_MS, NULL);
		/*
		 * Linux 6.12, when nothing was fetched since the last one: what that one did is in
		 * force still.
		 */
		if (ret == -EINVAL && k->device.quirks.start_twice_is_einval)
			ret = 0;
		if (ret != -EBUSY)
			break;
		waited = ub_now_ms() - began;
		/* It may be a standby that stands still and has the dead server's rings. */
		if (waited >= RECOVER_STUCK_MS && ub_server_must_hold_rings(k) &&
		    !k->standby->is_dismissed)
			ub_standby_dismiss(k);
		if (ub_now_ms() >= say) {
			ub_log(UB_LOG_NOTICE,
			       "/dev/ublkb%u: the kernel has not noticed its server's death for "
			       "%llu s",
			       k->device.info.dev_id, (unsigned long long)waited / 1000);
			say += RECOVER_SAY_MS;
		}
		ret = recover_pause(k, waited < RECOVER_QUICK_MS ? RECOVER_RETRY_MS :
								   RECOVER_SLOW_RETRY_MS);
		if (ret)
			return ret;
	}
	return ret ? ub_err_errno(err, -ret, "START_USER_RECOVERY") : 0;
}

/* As long as whatever was sent to this back end may be executed. */
static uint64_t recover_fence_ms(const struct ub_side *side)
{
	return side->o && side->o->nbd ? side->o->nbd->fence_timeout_ms : 0;
}

/*
 * A standby of version 3 knows no ledger, and sends whatever comes at once. So all waits, as it did
 * in its days, for what the server before it had sent.
 */
static int recover_await_fence(struct ub_keeper *k, uint64_t began_ms)
{
	uint64_t ms = recover_fence_ms(k->side),
		 other_ms = recover_fence_ms(k->other); /* its mirror begins anew */
	uint64_t until = began_ms + (ms > other_ms ? ms : other_ms), now = ub_now_ms();

	if (!k->standby->pid || k->standby->version > UB_MESSAGE_V3 || now >= until)
		return 0;
	return recover_pause(k, until - now);
}

/*
 * A server of version 3 that has yielded has finished all that it had, and then nobody is in the
 * dark about it. Not when it was killed over it, nor when it mirrored, too.
 */
static void recover_look_whether_it_left_nothing(struct ub_keeper *k)
{
	uint64_t in_flight = 0;

	for (unsigned i = 0; i < k->device.info.nr_hw_queues; i++)
		in_flight += ub_stat_read(&k->shared.stats->queues[i].in_flight);
	if (k->recovery.is_planned && k->server->version <= UB_MESSAGE_V3 &&
	    !k->server->is_dismissed && !in_flight && !ub_migrate_is_on(k))
		atomic_store(&k->shared.ledger->is_blind, 0);
}

static bool recover_must_stop_waiting(void *arg)
{
	const struct ub_server *server = arg;

	return server->gone || ub_life_is_given_up(server->keeper);
}

/*
 * When one queue was fetched and another one not, START_USER_RECOVERY of Linux 6.12 follows a null
 * pointer (ublk_queue_reinit), and whoever asks anything of the device afterwards hangs.
 */
static bool recover_is_half_fetched_fatal(const struct ub_keeper *k)
{
	return k->device.quirks.half_fetched_is_fatal && k->device.info.nr_hw_queues > 1;
}

static int recover_refuse_half_fetched(struct ub_err *err, const char *hint)
{
	return ub_err_set(err, ENOTRECOVERABLE,
			  "a server died while it fetched, and this kernel cannot mend that for "
			  "several queues%s",
			  hint);
}

int ub_recover_finish(struct ub_keeper *k, struct ub_server *server, struct ub_err *err)
{
	struct ub_ctrl_cmd *cmd = &k->recovery.end_cmd;
	int ret = ub_step("end-recovery", err);

	if (ret)
		return ret;
	*cmd = (struct ub_ctrl_cmd){ .op = UBLK_U_CMD_END_USER_RECOVERY,
				     .dev_id = k->device.info.dev_id };
	cmd->queue_id = UINT16_MAX;
	cmd->data = (uint64_t)server->pid;
	ret = ub_ctrl_send(&k->device.ctrl, cmd);
	if (ret == 0)
		ret = ub_ctrl_wait(&k->device.ctrl, cmd, &k->loop, "END_USER_RECOVERY",
				   RECOVER_FETCH_MS, recover_must_stop_waiting, server);
	if (ret)
		return ub_err_errno(err, -ret, "END_USER_RECOVERY");
	if (recover_is_half_fetched_fatal(k))
		ub_rundir_mark_taking(&k->rundir, false);
	ret = ub_step("recovered", err);
	if (ret == 0 && ub_message_send_type(server->fd, UB_MSG_LIVE) < 0)
		ub_log(UB_LOG_DEBUG, "the server is gone already");
	return ret ? ret :
		     ub_server_await(server, UB_MSG_LIVE, RECOVER_LIVE_MS,
				     "it knew that it is live", err);
}

/* The standby fetches; then what waits in the kernel comes. */
static int recover_hand_over(struct ub_keeper *k, struct ub_err *err)
{
	bool is_fatal = recover_is_half_fetched_fatal(k);
	int ret = ub_step("take", err);

	if (ret)
		return ret;
	if (is_fatal)
		ub_rundir_mark_taking(&k->rundir, true);
	if (ub_message_send_type(k->standby->fd, UB_MSG_TAKE) < 0)
		ub_log(UB_LOG_DEBUG, "the standby is gone already"); /* and that is found out now */
	ret = ub_server_await(k->standby, UB_MSG_FETCHING, RECOVER_FETCH_MS,
			      "it had fetched every tag", err);
	if (ret && k->standby->last_msg == UB_MSG_TAKING && is_fatal)
		return recover_refuse_half_fetched(err, "");
	if (is_fatal)
		ub_rundir_mark_taking(&k->rundir, false);
	return ret ? ret : ub_recover_finish(k, k->standby, err);
}

/* The standby is the server now, whether it lives or has died of it. */
static void recover_swap(struct ub_keeper *k)
{
	struct ub_server *dead = k->server;

	ub_server_forget(dead);
	k->server = k->standby;
	k->standby = dead;
}

/* Of an attempt that failed: the next one is another's. */
static void recover_end_standby(struct ub_keeper *k)
{
	ub_standby_dismiss(k);
	while (k->standby->pid && !k->standby->gone && !ub_life_is_given_up(k))
		ub_loop_once(&k->loop, RECOVER_TEND_MS);
}

/*
 * How many servers have died in a row, and what follows from that. 0, -ENOTRECOVERABLE, or as
 * recover_check().
 */
static int recover_count_death(struct ub_keeper *k, struct ub_err *err)
{
	struct ub_recovery *r = &k->recovery;
	uint64_t delay = RECOVER_MIN_DELAY_MS;

	if (r->is_planned)
		return 0;
	r->nr_deaths++;
	if (r->nr_deaths == RECOVER_MAX_DEATHS && !r->has_failed) {
		ub_log(UB_LOG_ERROR,
		       "/dev/ublkb%u: %u servers died one after the other: from now on all I/O "
		       "fails (detach the device, "
		       "and attach it anew)",
		       k->device.info.dev_id, r->nr_deaths);
		r->has_failed = true;
		ub_standby_dismiss(k); /* it is one of those */
	}
	/*
	 * As on Linux 6.12 after one that died between its mmap() and its first FETCH: nobody else
	 * may map the device.
	 */
	if (r->nr_deaths >= RECOVER_END_DEATHS) {
		ub_err_set(err, ENOTRECOVERABLE, "%u servers died one after the other",
			   r->nr_deaths);
		return -ENOTRECOVERABLE;
	}
	if (r->nr_deaths < 2)
		return 0;
	for (unsigned i = 2; i < r->nr_deaths && delay < RECOVER_MAX_DELAY_MS; i++)
		delay *= 2;
	return recover_pause(k, delay < RECOVER_MAX_DELAY_MS ? delay : RECOVER_MAX_DELAY_MS);
}

/*
 * One attempt: 0, or -errno with *err. -ENODEV, -EINTR and -ENOTRECOVERABLE: no other is to follow.
 * *has_taken: it came so far that the standby was asked to take the device.
 */
static int recover_once(struct ub_keeper *k, bool *has_taken, struct ub_err *err)
{
	uint64_t began_ms = ub_now_ms();
	int ret;

	*has_taken = false;
	ret = recover_count_death(k, err);
	if (ret == 0)
		ret = recover_start(k, err);
	if (ret == 0)
		ret = recover_await_fence(k, began_ms);
	if (ret == 0)
		ret = recover_await_standby(k);
	if (ret)
		return ret;
	*has_taken = true;
	return recover_hand_over(k, err);
}

/* A command that did not come back keeps its ring busy: there is a new one, or none for now. */
static int recover_unstick(struct ub_keeper *k)
{
	struct ub_err ignored;

	if (k->device.ctrl.stuck) {
		ub_ctrl_close(&k->device.ctrl);
		if (ub_ctrl_open(&k->device.ctrl, &ignored) != 0)
			ub_log(UB_LOG_ERROR, "%s", ignored.text);
	}
	return recover_pause(k, RECOVER_MAX_DELAY_MS);
}

/* Whether it is of any use to begin. 0, or what ub_recover() returns. */
static int recover_may_begin(struct ub_keeper *k, struct ub_err *err)
{
	int ret = recover_check(k);

	/*
	 * Of a keeper before this one that died with the standby which it had told to take the
	 * device.
	 */
	if (ret == 0 && recover_is_half_fetched_fatal(k) && ub_rundir_is_taking(&k->rundir))
		ret = recover_refuse_half_fetched(err, ": detach it with --force");
	return ret;
}

/* One attempt after the other. 0: the standby serves. */
static int recover_attempts(struct ub_keeper *k, struct ub_err *err)
{
	struct ub_recovery *r = &k->recovery;
	bool has_taken;
	int ret;

	for (;;) {
		*err = (struct ub_err){ 0 };
		ret = recover_once(k, &has_taken, err);
		if (ret == 0 || ret == -ENODEV || ret == -EINTR || ret == -ENOTRECOVERABLE)
			return ret;
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: recovery: %s; trying again",
		       k->device.info.dev_id, err->text);
		r->is_planned = false;
		if (!has_taken) {
			/* The kernel's doing, and not the standby's. */
			r->nr_deaths--;
			ret = recover_unstick(k);
			if (ret)
				return ret;
			continue;
		}
		/* The standby died of it, or is of no use after it. */
		recover_end_standby(k);
		recover_swap(k);
	}
}

int ub_recover(struct ub_keeper *k, struct ub_err *err)
{
	struct ub_recovery *r = &k->recovery;
	uint64_t began = ub_now_ms();
	char fate[96];
	int ret = recover_may_begin(k, err);

	if (ret)
		return ret;
	if (!r->is_planned)
		ub_log(UB_LOG_WARNING,
		       "/dev/ublkb%u: the server (pid %d) %s: I/O waits until the next one has "
		       "taken over",
		       k->device.info.dev_id, k->server->pid,
		       ub_server_fate(k->server, fate, sizeof(fate)));
	recover_look_whether_it_left_nothing(k);
	/* the device may be made of something else by now, which takes another standby */
	ub_jobs_raise(k, UB_EVENT_RECOVERING);
	ub_life_enter(k, UB_RECOVERING);
	/*
	 * Here, and not at each attempt: one that fails has had no server that lived, and pauses
	 * for longer than this.
	 */
	if (r->done_ms && began - r->done_ms >= RECOVER_STABLE_MS)
		r->nr_deaths = 0;
	ret = recover_attempts(k, err);
	r->is_planned = false;
	if (ret)
		return ret;
	ub_life_enter(k, UB_LIVE);
	recover_swap(k);
	ub_jobs_raise(k, UB_EVENT_SERVER_NEW);
	r->done_ms = ub_now_ms();
	r->nr_done++;
	ub_log(UB_LOG_NOTICE,
	       "/dev/ublkb%u: recovered after %llu.%03llu s: the server is pid %d now",
	       k->device.info.dev_id, (unsigned long long)(r->done_ms - began) / 1000,
	       (unsigned long long)(r->done_ms - began) % 1000, k->server->pid);
	if (k->side->command.socket_fd >= 0)
		ub_side_give_socket(k);
	ub_note(k);
	return 0;
}

/* ---- a server that lives makes place ------------------------------------- */

static int switch_send_yield(struct ub_keeper *k)
{
	struct ub_msg_yield msg = { .header = { .type = UB_MSG_YIELD, .len_bytes = sizeof(msg) } };

	ub_message_fit(&msg.header, k->server->version, UB_V3_BYTES_HELLO);
	k->server->yielded.header.len_bytes = 0;
	return ub_message_send(k->server->fd, &msg.header, NULL, 0, 0);
}

/*
 * Until it has ended (0), has refused (-EBUSY), or has not answered in time (-ETIMEDOUT).
 * *began_ms: since when no I/O comes to it.
 */
static int switch_await(struct ub_keeper *k, uint64_t *began_ms)
{
	bool is_v3 = k->server->version <= UB_MESSAGE_V3;
	uint64_t deadline = ub_now_ms() + (is_v3 ? RECOVER_V3_YIELD_MS : RECOVER_YIELD_MS);
	struct ub_msg_yielded *said = &k->server->yielded;

	*began_ms = ub_now_ms();
	while (!k->server->gone && !said->header.len_bytes && ub_now_ms() < deadline) {
		ub_loop_once(&k->loop, RECOVER_TEND_MS);
		if (!said->header.len_bytes || said->code)
			continue;
		*began_ms = ub_now_ms();
		said->header.len_bytes = 0;
	}
	if (k->server->gone)
		return 0;
	if (k->server->yielded.header.len_bytes)
		return -EBUSY;
	if (!is_v3)
		return -ETIMEDOUT;
	/* That version has no way back. */
	ub_log(UB_LOG_WARNING, "/dev/ublkb%u: the server (pid %d) does not end: it is killed",
	       k->device.info.dev_id, k->server->pid);
	k->server->is_dismissed = true; /* what it leaves nobody knows */
	kill(k->server->pid, SIGKILL);
	while (!k->server->gone && !ub_life_is_given_up(k))
		ub_loop_once(&k->loop, RECOVER_TEND_MS);
	return 0;
}

/*
 * Between two tries: ordinary service. False: there is no time for another one, or nobody wants it.
 */
static bool switch_may_try_again(struct ub_keeper *k, uint64_t until_ms)
{
	uint64_t next_ms = ub_now_ms() + RECOVER_SWITCH_PAUSE_MS, now;

	if (next_ms >= until_ms)
		return false;
	while (!k->server->gone && !k->signals.nr && (now = ub_now_ms()) < next_ms)
		ub_loop_once(&k->loop, (int)(next_ms - now));
	return !k->signals.nr;
}

/* One try: 0: the server has ended. */
static int switch_try(struct ub_keeper *k, uint64_t *began_ms, struct ub_err *err)
{
	int ret;

	ub_life_enter(k, UB_SWITCHING);
	k->recovery.is_planned = true;
	if (switch_send_yield(k) < 0)
		ub_log(UB_LOG_DEBUG, "the server is gone already");
	ret = switch_await(k, began_ms);
	if (ret == 0)
		return 0;
	k->recovery.is_planned = false;
	ub_life_enter(k, UB_LIVE);
	if (ret == -ETIMEDOUT)
		return ub_err_set(err, ETIMEDOUT,
				  "the server (pid %d) does not answer: nothing was changed",
				  k->server->pid);
	return ub_err_set(err, EBUSY,
			  "%.200s: nothing was changed, the device goes on as it was; try again, "
			  "or --wait "
			  "DURATION",
			  k->server->yielded.text);
}

int ub_recover_switch(struct ub_keeper *k, uint64_t until_ms, uint64_t *pause_ms,
		      struct ub_err *err)
{
	uint64_t began;
	int ret;

	do {
		/* It may have ended while there was time to pass. */
		ret = recover_await_standby(k);
		if (ret)
			return ret;
		*err = (struct ub_err){ 0 };
		ret = switch_try(k, &began, err);
	} while (ret == -EBUSY && switch_may_try_again(k, until_ms));
	if (ret)
		return ret;
	ret = ub_recover(k, err);
	*pause_ms = ub_now_ms() - began;
	return ret;
}
