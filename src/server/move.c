/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A migration, step by step. The server's main thread, but for what is marked. */
#include "server/move.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "backend/backend.h"
#include "backend/mirror/mirror.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "server/move-fact.h"
#include "server/move-tell.h"
#include "server/move-thread.h"
#include "server/state.h"

#define MOVE_PAUSE_MS  1000 /* longer, and the queues resume, and it is tried again */
#define MOVE_TELL_MS   100  /* until a keeper that did not read is told again */
#define MOVE_RETRY_MS  1000
#define MOVE_SETTLE_MS 100

void ub_move_init(struct ub_move *m, void (*is_over)(struct server *s))
{
	m->is_over = is_over;
	m->side_fd = m->mounts_fd = m->dest_fd = m->cancel_fd = m->event_fd = -1;
}

/* ---- the end of one ------------------------------------------------------ */

static void move_free_options(struct ub_move *m)
{
	free(m->options);
	free(m->more_options);
	m->options = m->more_options = NULL;
}

static void move_close_fds(struct ub_move *m)
{
	ub_close(&m->side_fd);
	ub_close(&m->mounts_fd);
	ub_close(&m->dest_fd);
}

/* One side is no longer the device's. */
static void move_close(struct server *s, struct ub_backend *leaving, struct ub_backend_queue *bqs)
{
	struct ub_move *m = &s->move;
	struct ub_err err = { 0 };

	m->leaving = leaving;
	m->leaving_bqs = bqs;
	m->stage = UB_MOVE_CLOSING;
	if (ub_move_start_closing(s, &err) != 0)
		/* and no other migration begins */
		ub_log(UB_LOG_ERROR, "%s: what was left behind stays open", err.text);
}

static void move_closed(struct server *s)
{
	struct ub_move *m = &s->move;

	if (m->leaving->stats) {
		ub_stat_outage_ends(m->leaving->stats, ub_now_ns());
		ub_stat_set(&m->leaving->stats->nr_connections, 0);
	}
	if (m->leaving != &s->first_backend)
		free(m->leaving);
	m->leaving = m->dest = NULL;
	atomic_store(&m->fenced_event, 0);
	m->source_bqs = m->dest_bqs = m->leaving_bqs = NULL;
	move_close_fds(m);
	move_free_options(m);
	m->stage = UB_MOVE_NONE;
	m->is_over(s);
}

/* The device is on its source, in one piece. */
static void move_fail(struct server *s)
{
	struct ub_move *m = &s->move;

	if (!m->err.code)
		ub_err_set(&m->err, ECANCELED, "it was cancelled");
	ub_move_tell(s, UB_MIGRATION_FAILED, &m->err, 0);
	move_close(s, m->dest, m->dest_bqs);
}

/* ---- steps --------------------------------------------------------------- */

static void move_pause(struct server *s, enum ub_move_stage stage)
{
	s->move.stage = stage;
	s->move.paused_ns = ub_now_ns();
	s->move.deadline_ms = ub_now_ms() + MOVE_PAUSE_MS;
	ub_device_pause(&s->device);
}

/* The queues go on, with another back end or without. */
static void move_unpause(struct server *s, enum ub_move_stage stage)
{
	ub_device_resume(&s->device);
	s->move.deadline_ms = 0;
	s->move.stage = stage;
}

/* They go on without what the pause was for: that is tried again after a while. */
static void move_put_off(struct server *s, enum ub_move_stage stage)
{
	move_unpause(s, stage);
	s->move.not_before_ms = ub_now_ms() + MOVE_RETRY_MS;
}

static void move_stop(struct server *s)
{
	s->move.stage = UB_MOVE_STOPPING;
	s->move.not_before_ms = 0;
	ub_mirror_stop(&s->move.mirror);
}

/* The thread has opened the destination, or not. */
static void move_opened(struct server *s)
{
	struct ub_move *m = &s->move;

	if (!ub_move_thread_has_ended(s))
		return;
	if (m->thread_result || m->is_unwanted) {
		if (m->is_unwanted)
			m->err = (struct ub_err){ 0 };
		move_fail(s);
		return;
	}
	ub_move_pass_on_fenced(m, m->dest);
	m->stage = UB_MOVE_OPEN;
	ub_move_tell(s, UB_MIGRATION_READY, NULL, 0);
}

static void move_put_in(struct server *s)
{
	struct ub_move *m = &s->move;

	if (m->is_unwanted) {
		move_unpause(s, UB_MOVE_OPEN);
		move_fail(s);
		return;
	}
	if (!ub_device_is_paused(&s->device)) {
		if (ub_now_ms() >= m->deadline_ms)
			move_put_off(s, UB_MOVE_WAIT_IN);
		return;
	}
	/* it may have changed since the mirror was made */
	ub_mirror_set_rate(&m->mirror, m->rate_bytes);
	m->source_bqs = ub_device_swap(&s->device, &m->mirror, m->mirror_bqs);
	move_unpause(s, UB_MOVE_MIRRORING);
	ub_move_tell(s, UB_MIGRATION_COPYING, NULL, 0);
}

static void move_take_out(struct server *s)
{
	struct ub_move *m = &s->move;

	if (!ub_device_is_paused(&s->device)) {
		if (ub_now_ms() >= m->deadline_ms)
			move_put_off(s, UB_MOVE_STOPPING);
		return;
	}
	ub_device_swap(&s->device, s->backend, m->source_bqs);
	move_unpause(s, UB_MOVE_PAUSE_OUT);
	move_fail(s);
}

static void move_mirror_failed(struct server *s)
{
	struct ub_move *m = &s->move;
	bool is_source;
	int code = ub_mirror_error(&m->mirror, &is_source);

	ub_err_set(&m->err, code ? code : EIO, "the %s answered with an error: %s",
		   is_source ? "source" : "destination", strerror(code ? code : EIO));
	move_stop(s);
}

static void move_look_at_mirror(struct server *s)
{
	struct ub_move *m = &s->move;
	enum ub_mirror_state state = ub_mirror_state(&m->mirror);
	struct ub_err err = { 0 };

	switch (state) {
	case UB_MIRROR_FAILED:
		move_mirror_failed(s);
		return;
	case UB_MIRROR_OUT:
		if (ub_move_has_settled(s, m->dest))
			ub_err_set(&err, ENOLINK,
				   "the destination does not answer, or not within %llu ms: it "
				   "goes on when it does",
				   (unsigned long long)m->late_ms);
		else
			ub_err_set(&err, ENOLINK,
				   "a connection to the destination was lost, and what it had in "
				   "flight may still land there: it "
				   "goes on when that is over (--fence-timeout, or the verb "
				   "fenced)");
		ub_move_tell(s, UB_MIGRATION_PAUSED, &err, 0);
		return;
	case UB_MIRROR_IN_STEP:
		if (!m->may_cut) {
			ub_move_tell(s, UB_MIGRATION_IN_STEP, NULL, 0);
			return;
		}
		if (m->not_before_ms)
			return;
		/* The application would wait for what a lost connection may still do there. */
		if (!ub_move_has_settled(s, m->dest)) {
			m->not_before_ms = ub_now_ms() + MOVE_SETTLE_MS;
			return;
		}
		m->stage = UB_MOVE_FLUSH;
		m->is_flushing = true;
		ub_mirror_flush(&m->mirror);
		return;
	default:
		/* In step it stays so but for moments; the operator need not hear of each. */
		if (m->told != UB_MIGRATION_IN_STEP)
			ub_move_tell(s, UB_MIGRATION_COPYING, NULL, 0);
		return;
	}
}

/* The flush before the pause is over. */
static void move_flushed(struct server *s)
{
	struct ub_move *m = &s->move;

	m->is_flushing = !ub_mirror_flushed(&m->mirror);
	if (m->is_flushing)
		return;
	m->stage = UB_MOVE_MIRRORING;
	/* In step it may be again since one that failed. */
	if (ub_mirror_state(&m->mirror) != UB_MIRROR_IN_STEP || ub_mirror_flushed(&m->mirror) < 0) {
		move_look_at_mirror(s);
		return;
	}
	ub_move_tell(s, UB_MIGRATION_CUTOVER, NULL, 0);
	move_pause(s, UB_MOVE_PAUSE_CUT);
}

/*
 * Not now: I/O that is in flight, or a flush, takes too long, or the destination has fallen behind.
 */
static void move_resume(struct server *s)
{
	struct ub_move *m = &s->move;

	move_put_off(s, UB_MOVE_MIRRORING);
	if (m->is_unwanted)
		move_stop(s);
	else
		move_look_at_mirror(s);
}

static void move_cut_paused(struct server *s)
{
	struct ub_move *m = &s->move;

	if (!ub_device_is_paused(&s->device)) {
		if (ub_now_ms() >= m->deadline_ms)
			move_resume(s);
		return;
	}
	if (ub_mirror_state(&m->mirror) != UB_MIRROR_IN_STEP || m->is_unwanted) {
		move_resume(s);
		return;
	}
	m->stage = UB_MOVE_FLUSH_CUT;
	m->is_flushing = true;
	ub_mirror_flush(&m->mirror);
}

static void move_over(struct server *s)
{
	struct ub_move *m = &s->move;
	struct ub_backend *source = s->backend;

	atomic_store(&m->dest->is_destination, false);
	atomic_store(&source->is_destination, true); /* what becomes of it is not the device's */
	ub_backend_promote(m->dest);
	atomic_store_explicit(&s->stats->side, !ub_stat_side(s->stats), memory_order_release);
	ub_move_note_cut(s, 0);
	s->backend = m->dest;
	ub_device_swap(&s->device, m->dest, m->dest_bqs);
	move_unpause(s, UB_MOVE_FLUSH_CUT);
	ub_close(&s->store_fd);
	s->store_fd = ub_steal_fd(&m->dest_fd);
	ub_move_tell(s, UB_MIGRATION_MOVED, NULL, (ub_now_ns() - m->paused_ns) / 1000);
	move_close(s, source, m->source_bqs);
}

static void move_cut_flushed(struct server *s)
{
	struct ub_move *m = &s->move;

	m->is_flushing = !ub_mirror_flushed(&m->mirror);
	if (m->is_flushing) {
		if (ub_now_ms() < m->deadline_ms)
			return;
		/* The flush goes on, and is waited for before the next one. */
		move_put_off(s, UB_MOVE_FLUSH);
		return;
	}
	if (ub_mirror_state(&m->mirror) != UB_MIRROR_IN_STEP || ub_mirror_flushed(&m->mirror) < 0 ||
	    m->is_unwanted) {
		move_resume(s);
		return;
	}
	if (ub_move_write_fact(s, &m->err) != 0) {
		move_unpause(s, UB_MOVE_MIRRORING);
		move_stop(s);
		return;
	}
	move_over(s);
}

static void move_left_behind(struct server *s)
{
	if (ub_move_thread_has_ended(s))
		move_closed(s);
}

static void move_wait_in(struct server *s)
{
	if (!s->move.not_before_ms)
		move_pause(s, UB_MOVE_PAUSE_IN);
}

static void move_stopping(struct server *s)
{
	struct ub_move *m = &s->move;

	if (ub_mirror_state(&m->mirror) == UB_MIRROR_STOPPED && !m->not_before_ms)
		move_pause(s, UB_MOVE_PAUSE_OUT);
}

/* ---- the stages ---------------------------------------------------------- */

/* What becomes of a migration that is cancelled, or has lost its keeper. */
enum move_unwanted {
	MOVE_LATER, /* its step sees to that, or there is nothing to be done */
	MOVE_FAIL,  /* nothing is in the queues yet */
	MOVE_STOP,  /* the mirror has to come out first */
};

static const struct move_stage {
	void (*step)(struct server *s); /* something has happened; NULL: it waits for a message */
	enum move_unwanted on_unwanted;
	bool has_deadline; /* or a time before which it is not tried again */
	bool has_mirror;   /* in the queues, and at work */
	bool is_over;	   /* nothing can be asked of it any more */
} move_stages[UB_NR_MOVE_STAGES] = {
	[UB_MOVE_NONE] = { .is_over = true },
	[UB_MOVE_OPENING] = { move_opened },
	[UB_MOVE_OPEN] = { NULL, MOVE_FAIL },
	[UB_MOVE_PAUSE_IN] = { move_put_in, .has_deadline = true },
	[UB_MOVE_WAIT_IN] = { move_wait_in, MOVE_FAIL, .has_deadline = true },
	[UB_MOVE_MIRRORING] = { move_look_at_mirror, MOVE_STOP, .has_deadline = true,
				.has_mirror = true },
	[UB_MOVE_FLUSH] = { move_flushed, MOVE_STOP, .has_deadline = true, .has_mirror = true },
	[UB_MOVE_PAUSE_CUT] = { move_cut_paused, .has_deadline = true, .has_mirror = true },
	[UB_MOVE_FLUSH_CUT] = { move_cut_flushed, .has_deadline = true, .has_mirror = true },
	[UB_MOVE_STOPPING] = { move_stopping, .has_deadline = true, .is_over = true },
	[UB_MOVE_PAUSE_OUT] = { move_take_out, .has_deadline = true, .is_over = true },
	[UB_MOVE_CLOSING] = { move_left_behind, .is_over = true },
};

/* It is to end, and this stage is one that can. */
static bool move_give_up(struct server *s)
{
	if (!s->move.is_unwanted)
		return false;
	switch (move_stages[s->move.stage].on_unwanted) {
	case MOVE_FAIL:
		move_fail(s);
		return true;
	case MOVE_STOP:
		move_stop(s);
		return true;
	default:
		return false;
	}
}

void ub_move_step(struct server *s)
{
	struct ub_move *m = &s->move;

	if (m->not_before_ms && ub_now_ms() >= m->not_before_ms)
		m->not_before_ms = 0;
	ub_move_tell_untold(s);
	if (m->is_dead || move_give_up(s))
		return;
	if (move_stages[m->stage].step)
		move_stages[m->stage].step(s);
}

static void move_event(void *arg)
{
	struct server *s = arg;
	eventfd_t ignored;

	eventfd_read(s->move.event_fd, &ignored);
	ub_move_step(s);
}

int ub_move_wait_ms(const struct server *s)
{
	const struct ub_move *m = &s->move;
	uint64_t until = m->deadline_ms ? m->deadline_ms : m->not_before_ms, now;

	if (m->untold)
		return MOVE_TELL_MS;
	if (m->is_dead || !until || !move_stages[m->stage].has_deadline)
		return -1;
	now = ub_now_ms();
	return until <= now ? 0 : (int)(until - now);
}

/* ---- messages ------------------------------------------------------------ */

static int move_check(const struct server *s, struct ub_err *err)
{
	if (s->phase != SERVER_LIVE || s->move.is_dead)
		return ub_err_set(err, EAGAIN, "the device is not live");
	if (s->is_resizing)
		return ub_err_set(err, EBUSY, "its size is being changed: try again");
	if (ub_yield_is_on(&s->yield) || ub_device_is_flushing(&s->device))
		return ub_err_set(err, EBUSY, "it is being upgraded: try again");
	return 0;
}

static int move_make_fds(struct server *s, struct ub_err *err)
{
	struct ub_move *m = &s->move;

	if (m->event_fd >= 0)
		return 0;
	m->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	m->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->event_fd < 0 || m->cancel_fd < 0)
		return ub_err_errno(err, errno, "event descriptors");
	ub_loop_add(&s->loop, m->event_fd, move_event, s);
	return 0;
}

/* NULL: there are none, or they are none. */
static char *move_read_more_options(const struct ub_msg_migrate *msg)
{
	const char *extras = ub_message_string(&msg->header, sizeof(*msg), 1);
	json_t *json = extras ? json_loads(extras, 0, NULL) : NULL;
	const json_t *options = json_object_get(json, "options");
	char *text = options ? json_dumps(options, JSON_COMPACT) : NULL;

	json_decref(json);
	return text;
}

void ub_move_begin(struct server *s, struct ub_msg_migrate *msg, int fds[])
{
	struct ub_move *m = &s->move;
	eventfd_t ignored;

	ub_message_unpack_fds(fds, msg->has_fd);
	msg->kind[sizeof(msg->kind) - 1] = '\0';
	m->id = msg->id;
	m->told = UB_MIGRATION_NONE;
	m->err = (struct ub_err){ 0 };
	m->is_unwanted = false;
	m->may_cut = !(msg->flags & UB_MIGRATE_WAIT);
	m->cookie = msg->cookie;
	m->rate_bytes = msg->rate_bytes;
	m->late_ms = msg->mirror_timeout_ms;
	m->size_bytes = msg->size_bytes;
	m->not_before_ms = m->deadline_ms = 0;
	snprintf(m->kind, sizeof(m->kind), "%s", msg->kind);
	m->options = strdup(msg->options);
	m->more_options = move_read_more_options(msg);
	m->dest = calloc(1, sizeof(*m->dest));
	m->side_fd = ub_steal_fd(&fds[UB_FD_SIDE]);
	m->mounts_fd = ub_steal_fd(&fds[UB_FD_MOUNTS]);
	m->dest_fd = ub_steal_fd(&fds[UB_FD_DESTINATION]);
	if (!m->options || !m->dest)
		ub_err_errno(&m->err, ENOMEM, "a migration");
	if (!m->err.code && move_check(s, &m->err) == 0 && move_make_fds(s, &m->err) == 0) {
		eventfd_read(m->cancel_fd, &ignored);
		m->stage = UB_MOVE_OPENING;
		ub_move_tell(s, UB_MIGRATION_CONNECTING, NULL, 0);
		if (ub_move_start_opening(s, &m->err) == 0)
			return;
	}
	m->stage = UB_MOVE_NONE;
	ub_move_tell(s, UB_MIGRATION_FAILED, &m->err, 0);
	move_close_fds(m);
	move_free_options(m);
	free(m->dest);
	m->dest = NULL;
}

static void move_cancel(struct server *s)
{
	struct ub_move *m = &s->move;

	m->is_unwanted = true;
	if (m->cancel_fd >= 0)
		eventfd_write(m->cancel_fd, 1);
	ub_move_step(s);
}

void ub_move_control(struct server *s, const struct ub_msg_migrate_control *msg)
{
	struct ub_move *m = &s->move;

	if (msg->id != m->id || move_stages[m->stage].is_over)
		return; /* it is over: the answer is on its way */
	switch (msg->what) {
	case UB_MIGRATE_GO:
		if (m->stage == UB_MOVE_OPEN)
			move_pause(s, UB_MOVE_PAUSE_IN);
		break;
	case UB_MIGRATE_COMPLETE:
		m->may_cut = true;
		break;
	case UB_MIGRATE_RATE:
		m->rate_bytes = msg->rate_bytes;
		if (move_stages[m->stage].has_mirror)
			ub_mirror_set_rate(&m->mirror, msg->rate_bytes);
		break;
	default:
		move_cancel(s);
		return;
	}
	ub_move_step(s);
}

void ub_move_fenced(struct server *s, const struct ub_msg_fenced *msg)
{
	struct ub_move *m = &s->move;

	if (m->stage == UB_MOVE_NONE || !(msg->sides & 1U << !s->backend->ledger_side))
		return;
	atomic_store(&m->fenced_event, msg->event);
	/* Else the thread has the side, and looks; or has opened it soon. */
	if (!m->has_thread)
		ub_move_pass_on_fenced(m, m->leaving ? m->leaving : m->dest);
}

void ub_move_abandon(struct server *s)
{
	struct ub_move *m = &s->move;

	ub_move_forget_untold(m);
	if (!move_stages[m->stage].is_over)
		move_cancel(s);
}

bool ub_move_needs_queues(const struct server *s)
{
	return s->move.stage != UB_MOVE_NONE && s->move.stage != UB_MOVE_CLOSING;
}

bool ub_move_is_on(const struct server *s)
{
	return s->move.stage != UB_MOVE_NONE;
}
