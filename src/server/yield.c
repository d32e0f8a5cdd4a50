/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making place for the standby. The server's main thread. */
#include "server/yield.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "server/state.h"

#define YIELD_PAUSE_MS	  1000
#define YIELD_PATIENCE_MS 8000 /* with what pauses by itself: no I/O stands still for that */
#define YIELD_FLUSH_MS	  3000 /* likewise: what is not flushed then counts as a loss */
#define YIELD_FINAL_MS	  1000 /* for a last commit, or for all that version 3 gives back */

static void yield_step(struct server *s, enum ub_yield_step step, uint64_t ms)
{
	s->yield.step = step;
	s->yield.deadline_ms = ub_now_ms() + ms;
}

static void yield_finally(struct server *s)
{
	yield_step(s, UB_YIELD_FINAL, YIELD_FINAL_MS);
	ub_device_yield(&s->device);
}

static void yield_tell(struct server *s, uint32_t code, uint64_t age_ms, const char *why)
{
	struct ub_msg_yielded msg = { .header = { .type = UB_MSG_YIELDED,
						  .len_bytes = sizeof(msg) } };

	msg.code = code;
	msg.age_ms = age_ms;
	snprintf(msg.text, sizeof(msg.text), "%s", why);
	ub_message_send(s->keeper_fd, &msg.header, NULL, 0, MSG_DONTWAIT);
}

/* The device is served as before. */
static void yield_refuse(struct server *s, uint64_t age_ms, const char *why)
{
	s->yield = (struct ub_server_yield){ 0 };
	yield_tell(s, EBUSY, age_ms, why);
}

/* What pauses the queues by itself, or must not meet a pause; NULL: nothing. */
static const char *yield_obstacle(const struct server *s)
{
	if (s->is_resizing)
		return "its size is being changed";
	return ub_move_needs_queues(s) ? "it is being migrated" : NULL;
}

static void yield_look_at_obstacle(struct server *s)
{
	const char *obstacle = yield_obstacle(s);

	if (!obstacle) {
		yield_step(s, UB_YIELD_FLUSH, YIELD_FLUSH_MS);
		ub_device_flush(&s->device);
	} else if (ub_now_ms() >= s->yield.deadline_ms) {
		yield_refuse(s, 0, obstacle);
	}
}

static void yield_pause(struct server *s)
{
	yield_tell(s, 0, 0, "");
	yield_step(s, UB_YIELD_PAUSE, s->yield.pause_ms);
	ub_device_pause(&s->device);
}

static void yield_unpause(struct server *s)
{
	uint64_t oldest_ns = ub_device_oldest_ns(&s->device), now_ns = ub_now_ns(), age_ms = 0;
	char why[80] = "requests are in flight";

	ub_device_resume(&s->device);
	if (oldest_ns && oldest_ns < now_ns) {
		age_ms = (now_ns - oldest_ns) / 1000000;
		snprintf(why, sizeof(why), "requests are in flight since %.1f s",
			 (double)age_ms / 1000);
	}
	yield_refuse(s, age_ms, why);
}

static void yield_refuse_flush(struct server *s)
{
	char why[160];

	snprintf(why, sizeof(why),
		 "a flush failed: %s: the next fsync or sync of the device gets that error",
		 strerror(-ub_device_flush_result(&s->device)));
	yield_refuse(s, 0, why);
}

/*
 * The last flush before the end. A server says once that something could not be written: this
 * process stays, and the application's next flush hears of it.
 */
static void yield_last_flush(struct server *s, bool is_late)
{
	bool is_flushing = ub_device_is_flushing(&s->device);

	if (is_flushing && !is_late)
		return;
	if (!is_flushing && !s->yield.has_begun) {
		s->yield.has_begun = true;
		ub_device_flush(&s->device);
		return;
	}
	if (!is_flushing && ub_device_flush_result(&s->device) == 0) {
		yield_finally(s);
		return;
	}
	ub_device_resume(&s->device);
	if (is_flushing)
		yield_refuse(s, 0, "a flush takes longer than a second");
	else
		yield_refuse_flush(s);
}

void ub_yield_begin(struct server *s, const struct ub_msg_yield *msg)
{
	struct ub_server_yield *y = &s->yield;

	if (ub_yield_is_on(y))
		return;
	if (s->keeper_version <= UB_MESSAGE_V3) {
		yield_finally(s);
		return;
	}
	y->pause_ms = YIELD_PAUSE_MS;
	if (msg->wait_ms && msg->wait_ms < YIELD_PAUSE_MS)
		y->pause_ms = msg->wait_ms;
	yield_step(s, UB_YIELD_OBSTACLE, YIELD_PATIENCE_MS);
	ub_yield_step(s);
}

void ub_yield_step(struct server *s)
{
	struct ub_server_yield *y = &s->yield;
	bool is_late = ub_now_ms() >= y->deadline_ms;

	switch (y->step) {
	case UB_YIELD_OBSTACLE:
		yield_look_at_obstacle(s);
		break;
	case UB_YIELD_FLUSH:
		if (!ub_device_is_flushing(&s->device) && ub_device_flush_result(&s->device))
			yield_refuse_flush(s);
		else if (!ub_device_is_flushing(&s->device) || is_late)
			yield_pause(s);
		break;
	case UB_YIELD_PAUSE:
		if (ub_device_is_paused(&s->device)) {
			y->step = UB_YIELD_LAST_FLUSH; /* within the same second */
			yield_last_flush(s, false);
		} else if (is_late) {
			yield_unpause(s);
		}
		break;
	case UB_YIELD_LAST_FLUSH:
		yield_last_flush(s, is_late);
		break;
	case UB_YIELD_FINAL:
		if (is_late)
			_exit(UB_EXIT_DONE);
		break;
	default:
		break;
	}
}

int ub_yield_wait_ms(const struct server *s)
{
	uint64_t now = ub_now_ms();

	if (!ub_yield_is_on(&s->yield))
		return -1;
	return s->yield.deadline_ms <= now ? 0 : (int)(s->yield.deadline_ms - now);
}

void ub_yield_abandon(struct server *s)
{
	enum ub_yield_step step = s->yield.step;

	if (step == UB_YIELD_FINAL)
		return;
	if (step == UB_YIELD_PAUSE || step == UB_YIELD_LAST_FLUSH)
		ub_device_resume(&s->device);
	s->yield = (struct ub_server_yield){ 0 };
}
