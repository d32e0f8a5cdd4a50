/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making place for the standby. The server's main thread. */
#include "server/yield.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "server/state.h"

#define YIELD_PAUSE_MS	  1000
#define YIELD_PATIENCE_MS 8000 /* with what pauses by itself: no I/O stands still for that */
#define YIELD_FINAL_MS	  1000 /* for a last commit, or for all that version 3 gives back */

static void yield_finally(struct server *s)
{
	s->yield.is_final = true;
	s->yield.deadline_ms = ub_now_ms() + YIELD_FINAL_MS;
	ub_device_yield(&s->device);
}

/* The device is served as before. */
static void yield_refuse(struct server *s, uint64_t age_ms, const char *why)
{
	struct ub_msg_yielded msg = { .header = { .type = UB_MSG_YIELDED,
						  .len_bytes = sizeof(msg) } };

	s->yield = (struct ub_server_yield){ 0 };
	msg.code = EBUSY;
	msg.age_ms = age_ms;
	snprintf(msg.text, sizeof(msg.text), "%s", why);
	ub_message_send(s->keeper_fd, &msg.header, NULL, 0, MSG_DONTWAIT);
}

/* What pauses the queues by itself, or must not meet a pause; NULL: nothing. */
static const char *yield_obstacle(const struct server *s)
{
	if (s->is_resizing)
		return "its size is being changed";
	return ub_migration_needs_queues(s) ? "it is being moved" : NULL;
}

static void yield_pause(struct server *s)
{
	const char *obstacle = yield_obstacle(s);

	if (!obstacle) {
		s->yield.is_pausing = true;
		s->yield.deadline_ms = ub_now_ms() + s->yield.pause_ms;
		ub_device_pause(&s->device);
	} else if (ub_now_ms() >= s->yield.deadline_ms) {
		yield_refuse(s, 0, obstacle);
	}
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

void ub_yield_begin(struct server *s, const struct ub_msg_yield *msg)
{
	struct ub_server_yield *y = &s->yield;

	if (y->is_asked)
		return;
	y->is_asked = true;
	if (s->keeper_version <= UB_MESSAGE_V3) {
		yield_finally(s);
		return;
	}
	y->pause_ms = msg->wait_ms && msg->wait_ms < YIELD_PAUSE_MS ? msg->wait_ms : YIELD_PAUSE_MS;
	y->deadline_ms = ub_now_ms() + YIELD_PATIENCE_MS;
	yield_pause(s);
}

void ub_yield_step(struct server *s)
{
	struct ub_server_yield *y = &s->yield;

	if (!y->is_asked)
		return;
	if (y->is_final) {
		if (ub_now_ms() >= y->deadline_ms)
			_exit(UB_EXIT_DONE);
	} else if (!y->is_pausing) {
		yield_pause(s);
	} else if (ub_device_is_paused(&s->device)) {
		yield_finally(s);
	} else if (ub_now_ms() >= y->deadline_ms) {
		yield_unpause(s);
	}
}

int ub_yield_wait_ms(const struct server *s)
{
	uint64_t now = ub_now_ms();

	if (!s->yield.is_asked)
		return -1;
	return s->yield.deadline_ms <= now ? 0 : (int)(s->yield.deadline_ms - now);
}

void ub_yield_abandon(struct server *s)
{
	if (!s->yield.is_asked || s->yield.is_final)
		return;
	if (s->yield.is_pausing)
		ub_device_resume(&s->device);
	s->yield = (struct ub_server_yield){ 0 };
}
