/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A migration's thread: it opens a destination, and closes what is left behind. What is marked is
 * the main thread's.
 */
#include "server/move-thread.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>

#include "backend/backend.h"
#include "backend/mirror/mirror.h"
#include "base/log.h"
#include "base/size.h"
#include "base/step.h"
#include "base/text.h"
#include "server/isolate.h"
#include "server/mounts.h"
#include "server/state.h"

#define MOVE_POLL_NS (5L * 1000 * 1000)

/* ---- opening ------------------------------------------------------------- */

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
	struct ub_move *m = &s->move;
	const struct ub_limits *device = &s->backend->limits;
	struct ub_limits *l = &m->dest->limits;
	int ret = move_compare(device, l, err);

	if (ret == 0 && l->size_bytes > device->size_bytes && ub_backend_is_resizable(m->dest))
		ret = ub_backend_resize(m->dest, device->size_bytes, 0, err);
	if (ret)
		return ret;
	l->size_bytes = device->size_bytes;
	l->logical_block_bytes = device->logical_block_bytes;
	l->read_only = device->read_only;
	return 0;
}

static int move_open(struct server *s, struct ub_err *err)
{
	struct ub_move *m = &s->move;
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
		.host = &s->host.host,
	};
	int ret = ub_step("migrate-open", err);

	/* The server let go of all mounts but those that its first back end needed. */
	if (m->mounts_fd >= 0 && ub_isolate_enter_mounts(m->mounts_fd))
		ub_mounts_drop(&cfg);
	if (ret == 0)
		ret = ub_backend_open(m->dest, &cfg, err);
	if (ret == 0)
		ret = move_fit(s, err);
	if (ret == 0)
		ret = ub_backend_set_live(m->dest, err);
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
	struct ub_move *m = &s->move;
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
	struct ub_move *m = &s->move;

	prctl(PR_SET_NAME, "ublk-move");
	m->thread_result = move_open(s, &m->err);
	if (m->thread_result == 0)
		m->thread_result = move_make_mirror(s, &m->err);
	atomic_store(&m->thread_is_done, true);
	eventfd_write(m->event_fd, 1);
	return NULL;
}

/* ---- closing ------------------------------------------------------------- */

static void move_wait_until(struct server *s, bool (*is_so)(struct server *, void *), void *arg)
{
	const struct timespec pause = { .tv_nsec = MOVE_POLL_NS };

	while (!is_so(s, arg))
		nanosleep(&pause, NULL);
}

static bool move_has_left(struct server *s, void *arg)
{
	return ub_device_has_left(&s->device, arg);
}

/* Whoever has the side. */
void ub_move_pass_on_fenced(struct ub_move *m, struct ub_backend *be)
{
	uint64_t event = atomic_exchange(&m->fenced_event, 0);

	if (event && be)
		ub_backend_fenced(be, event);
}

bool ub_move_has_settled(struct server *s, struct ub_backend *be)
{
	ub_move_pass_on_fenced(&s->move, be);
	return ub_backend_has_settled(be);
}

static bool move_has_settled(struct server *s, void *arg)
{
	return ub_move_has_settled(s, arg);
}

/* Nothing in the queues' rings or mailboxes refers to them afterwards. */
static void move_leave(struct server *s, struct ub_backend_queue *bqs)
{
	for (unsigned i = 0; i < s->device.config.nr_queues; i++)
		atomic_store(&bqs[i].has_left, false);
	ub_device_leave(&s->device, bqs);
	move_wait_until(s, move_has_left, bqs);
}

static void move_close_side(struct server *s, struct ub_backend *be, struct ub_backend_queue *bqs)
{
	if (bqs)
		move_leave(s, bqs);
	if (be->ops)
		move_wait_until(s, move_has_settled, be);
	if (be->ops)
		ub_backend_stop(be);
	/* What its threads have posted until then is run by now. */
	if (bqs)
		move_leave(s, bqs);
	ub_device_free_queues(bqs, s->device.config.nr_queues);
	ub_backend_close(be);
}

static void *move_close_thread(void *arg)
{
	struct server *s = arg;
	struct ub_move *m = &s->move;

	prctl(PR_SET_NAME, "ublk-move");
	if (m->mirror_bqs) {
		move_leave(s, m->mirror_bqs);
		ub_device_free_queues(m->mirror_bqs, s->device.config.nr_queues);
	}
	ub_mirror_destroy(&m->mirror);
	m->mirror_bqs = NULL;
	move_close_side(s, m->leaving, m->leaving_bqs);
	atomic_store(&m->thread_is_done, true);
	eventfd_write(m->event_fd, 1);
	return NULL;
}

/* ---- the thread itself: the main thread's -------------------------------- */

static int move_start_thread(struct server *s, void *(*run)(void *), struct ub_err *err)
{
	struct ub_move *m = &s->move;
	int ret;

	atomic_store(&m->thread_is_done, false);
	ret = pthread_create(&m->thread, NULL, run, s);
	m->has_thread = ret == 0;
	return ret ? ub_err_errno(err, ret, "a thread for the migration") : 0;
}

int ub_move_start_opening(struct server *s, struct ub_err *err)
{
	return move_start_thread(s, move_open_thread, err);
}

int ub_move_start_closing(struct server *s, struct ub_err *err)
{
	return move_start_thread(s, move_close_thread, err);
}

bool ub_move_thread_has_ended(struct server *s)
{
	struct ub_move *m = &s->move;

	if (!m->has_thread || !atomic_load(&m->thread_is_done))
		return false;
	pthread_join(m->thread, NULL);
	m->has_thread = false;
	return true;
}
