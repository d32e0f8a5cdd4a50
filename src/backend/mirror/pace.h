/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How fast a copier may go: alone, beside an application that is at work, and under a rate. It
 * knows the time and the pieces that begin and end, and does no I/O of its own. One thread's; times
 * in nanoseconds of one monotonic clock.
 *
 * Alone, a window of pieces is in flight. It grows while they come back as fast as a single one
 * would, and is halved when they wait for each other, as in LEDBAT (RFC 6817): what an application
 * asks for next waits behind all of it.
 *
 * Beside an application, a piece occupies somebody for its trip, less the network's latency; of the
 * time, that may be one part in UB_PACE_SHARE. A trip counts up to UB_PACE_MAX_TRIP times the
 * shortest one: a longer one has waited behind the application's I/O, and would stop the copy where
 * everything is at its limit. A distant server's latency is made up for by several pieces in
 * flight.
 */
#ifndef UB_BACKEND_PACE_H
#define UB_BACKEND_PACE_H

#include <stdbool.h>
#include <stdint.h>

#define UB_PACE_SHARE	   4
#define UB_PACE_MAX_TRIP   3   /* times the shortest one */
#define UB_PACE_MIN_COST   128 /* as a part of the trip, for a latency that is shorter by now */
#define UB_PACE_MIN_WINDOW 2   /* one is read while the other one is written */
/* so long may pieces wait for each other; less would take a latency that varies for it */
#define UB_PACE_TARGET_NS 50000000ULL
/* a trip counts as the shortest one for one to two of these; then the window begins anew */
#define UB_PACE_EPOCH_NS    5000000000ULL
#define UB_PACE_MAX_WAIT_NS 500000000ULL /* beside an application, whatever a piece took */
#define UB_PACE_SAVED_NS    100000000ULL /* what a rate allowed so long ago may still be used */

/* The shortest trip of this epoch and of the one before; 0: none. */
struct ub_pace_trips {
	uint64_t ns[2], epoch_ns;
};

struct ub_pace {
	unsigned max_window, window;
	unsigned nr_since;   /* pieces that came back in time since the window grew */
	bool is_steady;	     /* it comes near its limit: it grows slowly from now on */
	uint64_t changed_ns; /* when it was made smaller: what began before says nothing new */
	struct ub_pace_trips alone;

	struct ub_pace_trips beside;
	uint64_t cost_ns; /* of a piece beside an application; 0: not known */
	uint64_t way_ns;  /* no piece before that */
	uint64_t latency_ns;

	uint64_t rate_bytes; /* a second; 0: none */
	uint64_t rate_ns;    /* it allows the next piece then */
};

void ub_pace_init(struct ub_pace *p, unsigned max_window);
/* A piece's latency on both sides that occupies nobody. */
void ub_pace_set_latency(struct ub_pace *p, uint64_t latency_ns);
/* Whether another piece may begin. False: ask again after *wait_ns; 0: when one has ended. */
bool ub_pace_may_begin(struct ub_pace *p, uint64_t now_ns, unsigned nr_in_flight, bool is_busy,
		       uint64_t *wait_ns);
/* bytes: of the rate. */
void ub_pace_begin(struct ub_pace *p, uint64_t now_ns, bool is_busy, uint32_t bytes);
/* is_whole: it was as large as pieces are, and its trip can be compared. */
void ub_pace_end(struct ub_pace *p, uint64_t began_ns, uint64_t now_ns, bool is_busy,
		 bool is_whole);
/* What has begun turned out to cost so much of the rate. */
void ub_pace_pay(struct ub_pace *p, uint32_t bytes);
void ub_pace_set_rate(struct ub_pace *p, uint64_t now_ns, uint64_t rate_bytes);

#endif
