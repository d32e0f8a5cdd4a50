/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The standby: spawn ─(HELLO)─ CONFIG ─(LIMITS)─ SERVE ─(READY)─ and waits.
 *
 * It is there before it is needed, because while the device stands still the kernel may be waiting
 * for it to get memory: nothing is spawned or loaded then.
 */
#include "keeper/standby.h"

#include <signal.h>

#include "base/log.h"
#include "keeper/brief.h"
#include "keeper/keeper.h"
#include "keeper/note.h"

#define STANDBY_READY_MS 30000 /* to get ready */
#define STANDBY_TEND_MS	 500
#define STANDBY_DROP_MS	 2000
/* before one is tried again */
#define STANDBY_MIN_DELAY_MS 100
#define STANDBY_MAX_DELAY_MS 5000

/* It is forgotten when it is gone, and another one made. */
void ub_standby_dismiss(struct ub_keeper *k)
{
	k->standby->is_dismissed = true;
	if (k->standby->pid && !k->standby->gone)
		kill(k->standby->pid, SIGKILL);
}

static void standby_failed(struct ub_keeper *k, const char *why)
{
	struct ub_recovery *r = &k->recovery;

	ub_log(UB_LOG_WARNING, "/dev/ublkb%u: there is no standby server now: %s; retrying",
	       k->device.info.dev_id, why);
	ub_standby_dismiss(k);
	r->standby_delay_ms = r->standby_delay_ms ? 2 * r->standby_delay_ms : STANDBY_MIN_DELAY_MS;
	if (r->standby_delay_ms > STANDBY_MAX_DELAY_MS)
		r->standby_delay_ms = STANDBY_MAX_DELAY_MS;
	r->standby_not_before_ms = ub_now_ms() + r->standby_delay_ms;
}

static int standby_step(struct ub_keeper *k, struct ub_server *s, struct ub_err *err)
{
	switch (s->stage) {
	case UB_STANDBY_NEW:
		if (s->last_msg != UB_MSG_HELLO)
			return 0;
		s->stage = UB_STANDBY_OPENING;
		return ub_brief_send_config(k, s, err);
	case UB_STANDBY_OPENING:
		if (s->last_msg != UB_MSG_LIMITS)
			return 0;
		s->stage = UB_STANDBY_PREPARING;
		/* from now on it outlives this keeper, and the next one must know of it */
		ub_note(k);
		return ub_brief_send_serve(k, s, err);
	case UB_STANDBY_PREPARING:
		if (s->last_msg != UB_MSG_READY)
			return 0;
		s->stage = UB_STANDBY_READY;
		k->recovery.standby_delay_ms = 0;
		if (ub_server_must_hold_rings(k) && ub_message_send_type(s->fd, UB_MSG_HOLD) < 0)
			ub_log(UB_LOG_DEBUG, "the standby is gone already");
		ub_log(UB_LOG_DEBUG, "/dev/ublkb%u: a standby server (pid %d) is ready",
		       k->device.info.dev_id, s->pid);
		ub_note(k);
		return 0;
	default:
		return 0;
	}
}

int ub_standby_tend(struct ub_keeper *k)
{
	struct ub_server *s = k->standby;
	struct ub_err err = { 0 };
	char fate[96];
	int ret;

	if (!k->recovery.is_on)
		return -1;
	if (s->pid && s->gone) {
		ub_server_fate(s, fate, sizeof(fate));
		if (!s->is_dismissed)
			standby_failed(k, s->err.code ? s->err.text : fate);
		ub_server_forget(s);
	}
	if (!s->pid) {
		if (ub_now_ms() < k->recovery.standby_not_before_ms)
			return STANDBY_TEND_MS;
		ret = ub_server_spawn(k, s, &err);
		if (ret) {
			standby_failed(k, err.text);
			return STANDBY_TEND_MS;
		}
	}
	if (s->stage == UB_STANDBY_READY || s->is_dismissed)
		return -1;
	ret = standby_step(k, s, &err);
	if (ret)
		standby_failed(k, err.text);
	else if (ub_now_ms() - s->began_ms > STANDBY_READY_MS && !s->gone)
		standby_failed(k, "it did not get ready");
	return STANDBY_TEND_MS;
}

void ub_standby_drop(struct ub_keeper *k)
{
	if (!k->standby->pid)
		return;
	ub_message_send_type(k->standby->fd, UB_MSG_EXIT);
	ub_server_end(k->standby, STANDBY_DROP_MS);
	ub_server_forget(k->standby);
}

void ub_standby_renew(struct ub_keeper *k)
{
	/* Not one that is taking over: it has what was in force when the server died. */
	if (k->life != UB_RECOVERING)
		ub_standby_dismiss(k);
}
