/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * YIELD: the server makes place for its standby, and cuts nothing for that. The main thread.
 *
 *   YIELD ─► what uses pauses itself ends ─► flush ─► pause ─► nothing is in flight ─► flush ─┐
 *                  │ too late                            │ longer than a second                │
 *                  └────────► YIELDED ◄── resume ◄───────┘          exit ◄── the queues yield ◄┘
 *
 * A pause can be undone: what came meanwhile is held, and goes on. Once nothing is in flight and
 * the queues have yielded, the driver has all answers, and sends what is held again, to the next
 * server.
 *
 * The flushes are a service: with its connections goes what was answered and not flushed, and that
 * counts as what may be lost. The first one is for most of it, and no I/O stands still for it.
 */
#ifndef UB_SERVER_YIELD_H
#define UB_SERVER_YIELD_H

#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/message.h>

struct server;

enum ub_yield_step {
	UB_YIELD_NONE,
	UB_YIELD_OBSTACLE, /* what pauses the queues itself comes to its end */
	UB_YIELD_FLUSH,
	UB_YIELD_PAUSE,
	UB_YIELD_LAST_FLUSH, /* paused */
	UB_YIELD_FINAL,	     /* the queues have been told: there is no way back */
};

struct ub_server_yield {
	enum ub_yield_step step;
	uint32_t pause_ms;    /* the longest that I/O is held for nothing */
	uint64_t deadline_ms; /* of the present step */
	/* the last flush: one that began earlier does not cover what was answered since */
	bool has_begun;
};

/* Whether it is under way. */
static inline bool ub_yield_is_on(const struct ub_server_yield *y)
{
	return y->step != UB_YIELD_NONE;
}

/*
 * YIELD. A keeper of version 3 is not refused: what takes longer than a second goes to the next
 * server, too.
 */
void ub_yield_begin(struct server *s, const struct ub_msg_yield *msg);
/*
 * Something has happened, or the time that ub_yield_wait_ms() named is over. Does not return when
 * the process ends.
 */
void ub_yield_step(struct server *s);
int ub_yield_wait_ms(const struct server *s); /* -1: for ever */
/* The keeper is gone: nobody waits for this any more. */
void ub_yield_abandon(struct server *s);

#endif
