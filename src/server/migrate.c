/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A migration, step by step. The server's main thread, but for what is marked. */
#include "server/migrate.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <ublk-bridge/ledger.h>

#include "backend/mirror/mirror.h"
#include "backend/registry.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/size.h"
#include "base/step.h"
#include "base/text.h"
#include "server/isolate.h"
#include "server/state.h"

#define MOVE_PAUSE_MS  1000 /* longer, and the queues resume, and it is tried again */
#define MOVE_TELL_MS   100  /* until a keeper that did not read is told again */
#define MOVE_RETRY_MS  1000
#define MOVE_SETTLE_MS 100
#define MOVE_POLL_NS   (5L * 1000 * 1000)

void ub_migration_init(struct ub_server_migration *m)
{
	m->side_fd = m->mounts_fd = m->dest_fd = m->cancel_fd = m->event_fd = -1;
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		m->next_fds[i] = -1;
}

/* ---- what the keeper is told --------------------------------------------- */

static void move_tell_untold(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

	if (!m->untold ||
	    ub_message_send(s->keeper_fd, &m->untold->header, NULL, 0, MSG_DONTWAIT) == -EAGAIN)
		return;
	free(m->untold);
	m->untold = NULL;
}

static void move_tell(struct server *s, enum ub_migration_phase phase, const struct ub_err *err,
		      uint64_t pause_us)
{
	struct ub_server_migration *m = &s->migration;
	cleanup_free char *identity = NULL;
	struct ub_msg_migration *msg;
	size_t len;

	if (m->told == phase && phase != UB_MIGRATION_FAILED)
		return;
	m->told = phase;
	if (phase == UB_MIGRATION_READY && m->dest->ops->get_identity)
		identity = m->dest->ops->get_identity(m->dest);
	len = identity ? strlen(identity) + 1 : 1;
	msg = calloc(1, sizeof(*msg) + len);
	if (!msg)
		/*
		 * the keeper asks again when it wants to know: this server is in no better shape
		 * then
		 */
		return;
	msg->header.type = UB_MSG_MIGRATION;
	msg->header.len_bytes = (uint32_t)(sizeof(*msg) + len);
	msg->id = m->id;
	msg->phase = phase;
	msg->pause_us = pause_us;
	if (err) {
		msg->code = (uint32_t)err->code;
		snprintf(msg->text, sizeof(msg->text), "%s", err->text);
	}
	if (phase == UB_MIGRATION_READY) {
		msg->caps = m->dest->ops->caps;
		msg->limits = m->dest->limits;
		if (identity)
			memcpy(msg->identity, identity, len);
	}
	free(m->untold); /* this one says more */
	m->untold = msg;
	move_tell_untold(s);
}

/* ---- the thread: opening ------------------------------------------------- */

/*
 * What the device has announced cannot be taken back: everything that the destination lacks is
 * named.
 */
static int move_compare(const struct ub_limits *device, const struct ub_limits *dest,
			struct ub_err *err)
{
	struct ub_text_list d = { .len = 0 };
	char is[32], was[32];

	if (dest->size_bytes < device->size_bytes)
		ub_text_list_add(&d, "it has %s (%llu bytes) and the device %s",
				 ub_size_format(dest->size_bytes, is, sizeof(is)),
				 (unsigned long long)dest->size_bytes,
				 ub_size_format(device->size_bytes, was, sizeof(was)));
	if (dest->logical_block_bytes > device->logical_block_bytes)
		ub_text_list_add(&d, "its smallest block is %u bytes and the device's %u",
				 dest->logical_block_bytes, device->logical_block_bytes);
	if (dest->read_only)
		ub_text_list_add(&d, "it is read only");
	if (d.len)
		return ub_err_set(err, EINVAL, "the destination does not fit: %s", d.text);
	if (device->can_flush && !dest->can_flush)
		ub_log(UB_LOG_WARNING, "the destination has no flush, and the source has: what it "
				       "acknowledges may be lost when it "
				       "fails");
	return 0;
}

/* The destination is what the device is, where that is the device's to say. */
static int move_fit(struct server *s, struct ub_err *err)
{
	struct ub_server_migration *m = &s->migration;
	const struct ub_limits *device = &s->backend->limits;
	struct ub_limits *l = &m->dest->limits;
	int ret = move_compare(device, l, err);

	if (ret == 0 && l->size_bytes > device->size_bytes && m->dest->ops->resize)
		ret = m->dest->ops->resize(m->dest, device->size_bytes, 0, err);
	if (ret)
		return ret;
	l->size_bytes = device->size_bytes;
	l->logical_block_bytes = device->logical_block_bytes;
	l->read_only = device->read_only;
	return 0;
}

static int move_open(struct server *s, struct ub_err *err)
{
	struct ub_server_migration *m = &s->migration;
	unsigned side = !ub_stat_side(s->stats);
	struct ub_backend_config cfg = {
		.kind = m->kind,
		.options = m->options,
		.more_options = m->more_options,
		.size_bytes = m->size_bytes,
		.logical_block_bytes =
			strcmp(m->kind, "nbd") == 0 ? 0 : s->backend->limits.logical_block_bytes,
		.nr_queues = s->device.config.nr_queues,
		.fd = m->dest_fd,
		.cancel_fd = m->cancel_fd,
		.late_ms = m->late_ms,
	};
	int ret = ub_step("migrate-open", err);

	/* The server let go of all mounts but those that its first back end needed. */
	if (m->mounts_fd >= 0 && ub_isolate_enter_mounts(m->mounts_fd))
		ub_server_drop_mounts(&cfg);
	if (ret == 0)
		ret = ub_backend_open(m->dest, &cfg, err);
	if (ret == 0)
		ret = move_fit(s, err);
	if (ret == 0 && m->dest->ops->set_live)
		ret = m->dest->ops->set_live(m->dest, err);
	if (ret)
		return ret;
	m->dest->stats = &s->stats->backends[side];
	m->dest->ledger = s->ledger;
	m->dest->ledger_side = side;
	m->dest_bqs = ub_device_make_queues(&s->device, m->dest, side, err);
	return m->dest_bqs ? 0 : -err->code;
}

static int move_make_mirror(struct server *s, struct ub_err *err)
{
	struct ub_server_migration *m = &s->migration;
	const struct ub_mirror_config config = {
		.source = s->backend,
		.dest = m->dest,
		.source_bqs = s->device.bqs,
		.dest_bqs = m->dest_bqs,
		.nr_queues = s->device.config.nr_queues,
		.depth = s->device.config.depth,
		.late_ms = m->late_ms,
		.rate_bytes = m->rate_bytes,
		.stats = &s->stats->migration,
		.queue_stats = s->stats->queues,
		.event_fd = m->event_fd,
	};
	int ret = ub_mirror_create(&m->mirror, &config, err);

	if (ret)
		return ret;
	m->mirror_bqs = ub_device_make_queues(&s->device, &m->mirror, ub_stat_side(s->stats), err);
	return m->mirror_bqs ? 0 : -err->code;
}

static void *move_open_thread(void *arg)
{
	struct server *s = arg;
	struct ub_server_migration *m = &s->migration;

	prctl(PR_SET_NAME, "ublk-move");
	m->thread_result = move_open(s, &m->err);
	if (m->thread_result == 0)
		m->thread_result = move_make_mirror(s, &m->err);
	atomic_store(&m->thread_is_done, true);
	eventfd_write(m->event_fd, 1);
	return NULL;
}

/* ---- the thread: closing ------------------------------------------------- */

/* False: the process ends, and nothing need be taken apart. */
static bool move_wait_until(struct server *s, bool (*is_so)(struct server *, void *), void *arg)
{
	const struct timespec pause = { .tv_nsec = MOVE_POLL_NS };

	while (!is_so(s, arg)) {
		if (atomic_load(&s->migration.must_hurry))
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

static bool move_has_left(struct server *s, void *arg)
{
	return ub_device_has_left(&s->device, arg);
}

/* Whoever has the side. */
static void move_pass_on_fenced(struct ub_server_migration *m, struct ub_backend *be)
{
	uint64_t event = atomic_exchange(&m->fenced_event, 0);

	if (event && be && be->ops && be->ops->fenced)
		be->ops->fenced(be, event);
}

static bool move_has_settled(struct server *s, void *arg)
{
	struct ub_backend *be = arg;

	move_pass_on_fenced(&s->migration, be);
	return !be->ops->has_settled || be->ops->has_settled(be);
}

/* Nothing in the queues' rings or mailboxes refers to them afterwards. */
static bool move_leave(struct server *s, struct ub_backend_queue *bqs)
{
	for (unsigned i = 0; i < s->device.config.nr_queues; i++)
		atomic_store(&bqs[i].has_left, false);
	ub_device_leave(&s->device, bqs);
	return move_wait_until(s, move_has_left, bqs);
}

static bool move_close_side(struct server *s, struct ub_backend *be, struct ub_backend_queue *bqs)
{
	if (bqs && !move_leave(s, bqs))
		return false;
	if (be->ops && !move_wait_until(s, move_has_settled, be))
		return false;
	if (be->ops && be->ops->stop)
		be->ops->stop(be);
	/* What its threads have posted until then is run by now. */
	if (bqs && !move_leave(s, bqs))
		return false;
	ub_device_free_queues(bqs, s->device.config.nr_queues);
	ub_backend_close(be);
	return true;
}

static void *move_close_thread(void *arg)
{
	struct server *s = arg;
	struct ub_server_migration *m = &s->migration;
	bool is_done = true;

	prctl(PR_SET_NAME, "ublk-move");
	if (m->mirror_bqs) {
		is_done = move_leave(s, m->mirror_bqs);
		if (is_done)
			ub_device_free_queues(m->mirror_bqs, s->device.config.nr_queues);
	}
	if (is_done) {
		ub_mirror_destroy(&m->mirror);
		m->mirror_bqs = NULL;
		is_done = move_close_side(s, m->leaving, m->leaving_bqs);
	}
	m->thread_result = is_done;
	atomic_store(&m->thread_is_done, true);
	eventfd_write(m->event_fd, 1);
	return NULL;
}

static int move_start_thread(struct server *s, void *(*run)(void *), struct ub_err *err)
{
	struct ub_server_migration *m = &s->migration;
	int ret;

	atomic_store(&m->thread_is_done, false);
	ret = pthread_create(&m->thread, NULL, run, s);
	m->has_thread = ret == 0;
	return ret ? ub_err_errno(err, ret, "a thread for the migration") : 0;
}

/* ---- the end of one ------------------------------------------------------ */

static void move_free_options(struct ub_server_migration *m)
{
	free(m->options);
	free(m->more_options);
	m->options = m->more_options = NULL;
}

static void move_close_fds(struct ub_server_migration *m)
{
	ub_close(&m->side_fd);
	ub_close(&m->mounts_fd);
	ub_close(&m->dest_fd);
}

/* One side is no longer the device's. */
static void move_close(struct server *s, struct ub_backend *leaving, struct ub_backend_queue *bqs)
{
	struct ub_server_migration *m = &s->migration;
	struct ub_err err = { 0 };

	m->leaving = leaving;
	m->leaving_bqs = bqs;
	m->stage = UB_MOVE_CLOSING;
	if (move_start_thread(s, move_close_thread, &err) != 0)
		/* and no other migration begins */
		ub_log(UB_LOG_ERROR, "%s: what was left behind stays open", err.text);
}

static void move_begin_next(struct server *s)
{
	struct ub_server_migration *m = &s->migration;
	cleanup_free struct ub_msg_migrate *next = m->next;
	struct ub_err ignored;
	int fds[UB_MESSAGE_MAX_FDS];

	if (!next)
		return;
	m->next = NULL;
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		fds[i] = ub_steal_fd(&m->next_fds[i]);
	ub_migration_begin(s, next, fds, &ignored);
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		ub_close(&fds[i]);
}

static void move_closed(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

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
	move_begin_next(s);
}

/* The device is on its source, in one piece. */
static void move_fail(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

	if (!m->err.code)
		ub_err_set(&m->err, ECANCELED, "it was cancelled");
	move_tell(s, UB_MIGRATION_FAILED, &m->err, 0);
	move_close(s, m->dest, m->dest_bqs);
}

/* ---- steps --------------------------------------------------------------- */

static void move_pause(struct server *s, enum ub_server_migration_stage stage)
{
	s->migration.stage = stage;
	s->migration.paused_ns = ub_now_ns();
	s->migration.deadline_ms = ub_now_ms() + MOVE_PAUSE_MS;
	ub_device_pause(&s->device);
}

/* The queues go on, with another back end or without. */
static void move_unpause(struct server *s, enum ub_server_migration_stage stage)
{
	ub_device_resume(&s->device);
	s->migration.deadline_ms = 0;
	s->migration.stage = stage;
}

/* They go on without what the pause was for: that is tried again after a while. */
static void move_put_off(struct server *s, enum ub_server_migration_stage stage)
{
	move_unpause(s, stage);
	s->migration.not_before_ms = ub_now_ms() + MOVE_RETRY_MS;
}

static void move_stop(struct server *s)
{
	s->migration.stage = UB_MOVE_STOPPING;
	s->migration.not_before_ms = 0;
	ub_mirror_stop(&s->migration.mirror);
}

/* The thread has opened the destination, or not. */
static void move_opened(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

	if (!atomic_load(&m->thread_is_done))
		return;
	pthread_join(m->thread, NULL);
	m->has_thread = false;
	if (m->thread_result || m->is_unwanted) {
		if (m->is_unwanted)
			m->err = (struct ub_err){ 0 };
		move_fail(s);
		return;
	}
	move_pass_on_fenced(m, m->dest);
	m->stage = UB_MOVE_OPEN;
	move_tell(s, UB_MIGRATION_READY, NULL, 0);
}

static void move_put_in(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

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
	move_tell(s, UB_MIGRATION_COPYING, NULL, 0);
}

static void move_take_out(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

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
	struct ub_server_migration *m = &s->migration;
	bool is_source;
	int code = ub_mirror_error(&m->mirror, &is_source);

	ub_err_set(&m->err, code ? code : EIO, "the %s answered with an error: %s",
		   is_source ? "source" : "destination", strerror(code ? code : EIO));
	move_stop(s);
}

static void move_look_at_mirror(struct server *s)
{
	struct ub_server_migration *m = &s->migration;
	enum ub_mirror_state state = ub_mirror_state(&m->mirror);
	struct ub_err err = { 0 };

	switch (state) {
	case UB_MIRROR_FAILED:
		move_mirror_failed(s);
		return;
	case UB_MIRROR_OUT:
		if (move_has_settled(s, m->dest))
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
		move_tell(s, UB_MIGRATION_PAUSED, &err, 0);
		return;
	case UB_MIRROR_IN_STEP:
		if (!m->may_cut) {
			move_tell(s, UB_MIGRATION_IN_STEP, NULL, 0);
			return;
		}
		if (m->not_before_ms)
			return;
		/* The application would wait for what a lost connection may still do there. */
		if (!move_has_settled(s, m->dest)) {
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
			move_tell(s, UB_MIGRATION_COPYING, NULL, 0);
		return;
	}
}

/* The flush before the pause is over. */
static void move_flushed(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

	m->is_flushing = !ub_mirror_flushed(&m->mirror);
	if (m->is_flushing)
		return;
	m->stage = UB_MOVE_MIRRORING;
	/* In step it may be again since one that failed. */
	if (ub_mirror_state(&m->mirror) != UB_MIRROR_IN_STEP || ub_mirror_flushed(&m->mirror) < 0) {
		move_look_at_mirror(s);
		return;
	}
	move_tell(s, UB_MIGRATION_CUTOVER, NULL, 0);
	move_pause(s, UB_MOVE_PAUSE_CUT);
}

/*
 * Not now: I/O that is in flight, or a flush, takes too long, or the destination has fallen behind.
 */
static void move_resume(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

	move_put_off(s, UB_MOVE_MIRRORING);
	if (m->is_unwanted)
		move_stop(s);
	else
		move_look_at_mirror(s);
}

static void move_cut_paused(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

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

/* Only while somebody lives who will hear of it. */
static bool move_has_keeper(struct server *s)
{
	struct pollfd fd = { .fd = s->keeper_fd, .events = POLLRDHUP };

	return s->has_keeper && poll(&fd, 1, 0) == 0;
}

/* For the keeper, should this process die in a cutover. 0: it is over. */
static void move_note_cut(struct server *s, uint64_t cookie)
{
	if (!s->ledger) /* a keeper of an older version knows nothing of it */
		return;
	atomic_store(&s->ledger->cut_side, !ub_stat_side(s->stats));
	atomic_store(&s->ledger->cut_cookie, cookie);
}

/* From here on the destination is what counts, whoever dies. */
static int move_write_fact(struct server *s, struct ub_err *err)
{
	struct ub_server_migration *m = &s->migration;
	int ret = ub_step("migrate-cutover", err);

	move_note_cut(s, m->cookie);
	if (ret == 0 && !move_has_keeper(s))
		ret = ub_err_set(err, ECANCELED, "the keeper is gone");
	if (ret == 0 &&
	    pwrite(m->side_fd, &m->cookie, sizeof(m->cookie), 0) != (ssize_t)sizeof(m->cookie))
		ret = ub_err_errno(err, errno, "which side counts cannot be written down");
	if (ret) {
		move_note_cut(s, 0);
		return ret;
	}
	if (ub_step("migrate-cut", err))
		/* there is no way back, and the next server knows which side it is */
		_exit(UB_EXIT_FAILED);
	return 0;
}

static void move_over(struct server *s)
{
	struct ub_server_migration *m = &s->migration;
	struct ub_backend *source = s->backend;

	atomic_store(&m->dest->is_destination, false);
	atomic_store(&source->is_destination, true); /* what becomes of it is not the device's */
	if (m->dest->ops->promote)
		m->dest->ops->promote(m->dest);
	atomic_store_explicit(&s->stats->side, !ub_stat_side(s->stats), memory_order_release);
	move_note_cut(s, 0);
	s->backend = m->dest;
	ub_device_swap(&s->device, m->dest, m->dest_bqs);
	move_unpause(s, UB_MOVE_FLUSH_CUT);
	ub_close(&s->store_fd);
	s->store_fd = ub_steal_fd(&m->dest_fd);
	move_tell(s, UB_MIGRATION_MOVED, NULL, (ub_now_ns() - m->paused_ns) / 1000);
	move_close(s, source, m->source_bqs);
}

static void move_cut_flushed(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

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
	if (move_write_fact(s, &m->err) != 0) {
		move_unpause(s, UB_MOVE_MIRRORING);
		move_stop(s);
		return;
	}
	move_over(s);
}

static void move_left_behind(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

	if (!m->has_thread || !atomic_load(&m->thread_is_done))
		return;
	pthread_join(m->thread, NULL);
	m->has_thread = false;
	if (m->thread_result)
		move_closed(s);
}

/* It is to end, and this stage is one that can. */
static bool move_give_up(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

	if (!m->is_unwanted)
		return false;
	if (m->stage == UB_MOVE_OPEN || m->stage == UB_MOVE_WAIT_IN) {
		move_fail(s);
		return true;
	}
	if (m->stage != UB_MOVE_MIRRORING && m->stage != UB_MOVE_FLUSH)
		return false;
	move_stop(s);
	return true;
}

void ub_migration_step(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

	if (m->not_before_ms && ub_now_ms() >= m->not_before_ms)
		m->not_before_ms = 0;
	move_tell_untold(s);
	if (m->is_dead || move_give_up(s))
		return;
	switch (m->stage) {
	case UB_MOVE_OPENING:
		move_opened(s);
		break;
	case UB_MOVE_PAUSE_IN:
		move_put_in(s);
		break;
	case UB_MOVE_WAIT_IN:
		if (!m->not_before_ms)
			move_pause(s, UB_MOVE_PAUSE_IN);
		break;
	case UB_MOVE_MIRRORING:
		move_look_at_mirror(s);
		break;
	case UB_MOVE_FLUSH:
		move_flushed(s);
		break;
	case UB_MOVE_PAUSE_CUT:
		move_cut_paused(s);
		break;
	case UB_MOVE_FLUSH_CUT:
		move_cut_flushed(s);
		break;
	case UB_MOVE_STOPPING:
		if (ub_mirror_state(&m->mirror) == UB_MIRROR_STOPPED && !m->not_before_ms)
			move_pause(s, UB_MOVE_PAUSE_OUT);
		break;
	case UB_MOVE_PAUSE_OUT:
		move_take_out(s);
		break;
	case UB_MOVE_CLOSING:
		move_left_behind(s);
		break;
	default:
		break;
	}
}

static void move_event(void *arg)
{
	struct server *s = arg;
	eventfd_t ignored;

	eventfd_read(s->migration.event_fd, &ignored);
	ub_migration_step(s);
}

int ub_migration_wait_ms(const struct server *s)
{
	const struct ub_server_migration *m = &s->migration;
	uint64_t until = m->deadline_ms ? m->deadline_ms : m->not_before_ms, now;

	if (m->untold)
		return MOVE_TELL_MS;
	if (m->is_dead || !until || m->stage < UB_MOVE_PAUSE_IN || m->stage > UB_MOVE_PAUSE_OUT)
		return -1;
	now = ub_now_ms();
	return until <= now ? 0 : (int)(until - now);
}

/* ---- messages ------------------------------------------------------------ */

static int move_check(const struct server *s, struct ub_err *err)
{
	if (s->phase != SERVER_LIVE || s->migration.is_dead)
		return ub_err_set(err, EAGAIN, "the device is not live");
	if (s->is_resizing)
		return ub_err_set(err, EBUSY, "its size is being changed: try again");
	if (ub_yield_is_on(&s->yield) || ub_device_is_flushing(&s->device))
		return ub_err_set(err, EBUSY, "it is being upgraded: try again");
	return 0;
}

static int move_make_fds(struct server *s, struct ub_err *err)
{
	struct ub_server_migration *m = &s->migration;

	if (m->event_fd >= 0)
		return 0;
	m->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	m->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->event_fd < 0 || m->cancel_fd < 0)
		return ub_err_errno(err, errno, "event descriptors");
	ub_loop_add(&s->loop, m->event_fd, move_event, s);
	return 0;
}

static void move_tell_of_next(struct server *s, enum ub_migration_phase phase,
			      const struct ub_err *err)
{
	struct ub_server_migration *m = &s->migration;
	enum ub_migration_phase told = m->told;
	uint32_t id = m->id;

	m->id = m->next->id;
	m->told = UB_MIGRATION_NONE;
	move_tell(s, phase, err, 0);
	m->id = id;
	m->told = told;
}

/* It comes when what the last one left behind is closed. */
static int move_keep_for_later(struct server *s, const struct ub_msg_migrate *msg, int fds[],
			       struct ub_err *err)
{
	struct ub_server_migration *m = &s->migration;

	free(m->next);
	m->next = malloc(msg->header.len_bytes);
	if (!m->next)
		return ub_err_errno(err, ENOMEM, "the message");
	memcpy(m->next, msg, msg->header.len_bytes);
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++) {
		ub_close(&m->next_fds[i]);
		m->next_fds[i] = ub_steal_fd(&fds[i]);
	}
	/*
	 * Else the keeper thinks that nobody has heard it: what is closed may take its fence's
	 * time.
	 */
	move_tell_of_next(s, UB_MIGRATION_CONNECTING, NULL);
	return 0;
}

static void move_drop_next(struct ub_server_migration *m)
{
	free(m->next);
	m->next = NULL;
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		ub_close(&m->next_fds[i]);
}

/* True: it was for the one that waits. */
static bool move_control_next(struct server *s, const struct ub_msg_migrate_control *msg)
{
	const struct ub_err cancelled = { .code = ECANCELED, .text = "it was cancelled" };
	struct ub_server_migration *m = &s->migration;

	if (!m->next || msg->id != m->next->id)
		return false;
	switch (msg->what) {
	case UB_MIGRATE_CANCEL:
		move_tell_of_next(s, UB_MIGRATION_FAILED, &cancelled);
		move_drop_next(m);
		break;
	case UB_MIGRATE_COMPLETE:
		m->next->flags &= ~(uint32_t)UB_MIGRATE_WAIT;
		break;
	case UB_MIGRATE_RATE:
		m->next->rate_bytes = msg->rate_bytes;
		break;
	default:
		break;
	}
	return true;
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

int ub_migration_begin(struct server *s, struct ub_msg_migrate *msg, int fds[], struct ub_err *err)
{
	struct ub_server_migration *m = &s->migration;
	eventfd_t ignored;

	if (!ub_message_string(&msg->header, sizeof(*msg), 0) || msg->mirror_timeout_ms == 0)
		return ub_err_set(err, EPROTO, "an unexpected MIGRATE message");
	if (m->stage != UB_MOVE_NONE)
		return move_keep_for_later(s, msg, fds, err);
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
		move_tell(s, UB_MIGRATION_CONNECTING, NULL, 0);
		if (move_start_thread(s, move_open_thread, &m->err) == 0)
			return 0;
	}
	m->stage = UB_MOVE_NONE;
	move_tell(s, UB_MIGRATION_FAILED, &m->err, 0);
	move_close_fds(m);
	move_free_options(m);
	free(m->dest);
	m->dest = NULL;
	return 0;
}

static void move_cancel(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

	m->is_unwanted = true;
	if (m->cancel_fd >= 0)
		eventfd_write(m->cancel_fd, 1);
	ub_migration_step(s);
}

int ub_migration_control(struct server *s, const struct ub_msg_migrate_control *msg,
			 struct ub_err *err)
{
	struct ub_server_migration *m = &s->migration;

	if (msg->header.len_bytes < UB_V3_BYTES_MIGRATE_CONTROL)
		return ub_err_set(err, EPROTO, "an unexpected MIGRATE_CONTROL message");
	if (move_control_next(s, msg))
		return 0;
	if (msg->id != m->id || m->stage == UB_MOVE_NONE || m->stage >= UB_MOVE_STOPPING)
		return 0; /* it is over: the answer is on its way */
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
		if (m->stage >= UB_MOVE_MIRRORING)
			ub_mirror_set_rate(&m->mirror, msg->rate_bytes);
		break;
	default:
		move_cancel(s);
		return 0;
	}
	ub_migration_step(s);
	return 0;
}

void ub_migration_fenced(struct server *s, const struct ub_msg_fenced *msg)
{
	struct ub_server_migration *m = &s->migration;

	if (m->stage == UB_MOVE_NONE || !(msg->sides & 1U << !s->backend->ledger_side))
		return;
	atomic_store(&m->fenced_event, msg->event);
	/* Else the thread has the side, and looks; or has opened it soon. */
	if (!m->has_thread)
		move_pass_on_fenced(m, m->leaving ? m->leaving : m->dest);
}

void ub_migration_abandon(struct server *s)
{
	struct ub_server_migration *m = &s->migration;

	free(m->untold);
	m->untold = NULL;
	move_drop_next(m);
	if (m->stage != UB_MOVE_NONE && m->stage < UB_MOVE_STOPPING)
		move_cancel(s);
}

void ub_migration_cancelled(struct server *s)
{
	s->migration.is_dead = true;
}

bool ub_migration_needs_queues(const struct server *s)
{
	return s->migration.stage != UB_MOVE_NONE && s->migration.stage != UB_MOVE_CLOSING;
}

bool ub_migration_is_on(const struct server *s)
{
	return s->migration.stage != UB_MOVE_NONE;
}
