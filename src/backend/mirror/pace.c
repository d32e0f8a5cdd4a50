/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "backend/mirror/pace.h"

/* Alone, with a small window, which grows fast. */
static void pace_start_anew(struct ub_pace *p)
{
	p->window = p->max_window < UB_PACE_MIN_WINDOW ? p->max_window : UB_PACE_MIN_WINDOW;
	p->is_steady = false;
	p->nr_since = 0;
}

void ub_pace_init(struct ub_pace *p, unsigned max_window)
{
	*p = (struct ub_pace){ .max_window = max_window };
	pace_start_anew(p);
}

/* ---- beside an application ----------------------------------------------- */

void ub_pace_set_latency(struct ub_pace *p, uint64_t latency_ns)
{
	p->latency_ns = latency_ns;
}

static unsigned pace_busy_window(const struct ub_pace *p)
{
	uint64_t nr = p->cost_ns ? 1 + p->latency_ns / (p->cost_ns * UB_PACE_SHARE) : 1;

	return nr < p->max_window ? (unsigned)nr : p->max_window;
}

static void pace_put_off(struct ub_pace *p, uint64_t until_ns)
{
	if (until_ns > p->way_ns)
		p->way_ns = until_ns;
}

/* True: another epoch has begun. */
static bool pace_look_at_epoch(struct ub_pace_trips *t, uint64_t now_ns)
{
	if (now_ns - t->epoch_ns < UB_PACE_EPOCH_NS)
		return false;
	t->epoch_ns = now_ns;
	t->ns[1] = t->ns[0];
	t->ns[0] = 0;
	return true;
}

static uint64_t pace_shortest(struct ub_pace_trips *t, uint64_t trip)
{
	uint64_t *ns = t->ns;

	if (!ns[0] || trip < ns[0])
		ns[0] = trip;
	return ns[1] && ns[1] < ns[0] ? ns[1] : ns[0];
}

/* What is not whole, such as zeroes, costs what it took, but no more than what is. */
static void pace_end_beside(struct ub_pace *p, uint64_t began_ns, uint64_t now_ns, bool is_whole)
{
	uint64_t trip = now_ns - began_ns, cost;

	pace_look_at_epoch(&p->beside, now_ns);
	if (is_whole) {
		uint64_t shortest = pace_shortest(&p->beside, trip);

		trip = trip < shortest * UB_PACE_MAX_TRIP ? trip : shortest * UB_PACE_MAX_TRIP;
	}
	cost = trip > p->latency_ns ? trip - p->latency_ns : 0;
	if (cost < trip / UB_PACE_MIN_COST + 1)
		cost = trip / UB_PACE_MIN_COST + 1;
	if (cost > UB_PACE_MAX_WAIT_NS / UB_PACE_SHARE)
		cost = UB_PACE_MAX_WAIT_NS / UB_PACE_SHARE;
	if (is_whole)
		p->cost_ns = cost;
	else if (p->cost_ns && cost > p->cost_ns)
		cost = p->cost_ns;
	pace_put_off(p, began_ns + cost * UB_PACE_SHARE);
}

/* ---- alone --------------------------------------------------------------- */

static void pace_end_alone(struct ub_pace *p, uint64_t began_ns, uint64_t now_ns)
{
	uint64_t trip = now_ns - began_ns, most;

	/*
	 * What the shortest trip is without a queue is only seen with a small window, now and then.
	 */
	if (pace_look_at_epoch(&p->alone, now_ns)) {
		pace_start_anew(p);
		p->changed_ns = now_ns;
	}
	if (began_ns < p->changed_ns)
		return;
	most = pace_shortest(&p->alone, trip);
	most += most / 2 + UB_PACE_TARGET_NS;
	/* what is on its way yet will have waited longer */
	p->is_steady |= trip > most - UB_PACE_TARGET_NS / 2;
	if (trip > most) {
		if (p->window <= UB_PACE_MIN_WINDOW)
			return;
		p->window = p->window / 2 < UB_PACE_MIN_WINDOW ? UB_PACE_MIN_WINDOW : p->window / 2;
		p->changed_ns = now_ns;
		p->nr_since = 0;
	} else if (p->window < p->max_window && (!p->is_steady || ++p->nr_since >= p->window)) {
		p->window++;
		p->nr_since = 0;
	}
}

/* ---- both ---------------------------------------------------------------- */

bool ub_pace_may_begin(struct ub_pace *p, uint64_t now_ns, unsigned nr_in_flight, bool is_busy,
		       uint64_t *wait_ns)
{
	unsigned window = is_busy ? pace_busy_window(p) : p->window;
	uint64_t until_ns = is_busy && p->way_ns > p->rate_ns ? p->way_ns : p->rate_ns;

	*wait_ns = 0;
	if (nr_in_flight >= window)
		return false;
	if (until_ns > now_ns)
		*wait_ns = until_ns - now_ns;
	return *wait_ns == 0;
}

void ub_pace_begin(struct ub_pace *p, uint64_t now_ns, bool is_busy, uint32_t bytes)
{
	if (p->rate_bytes && p->rate_ns + UB_PACE_SAVED_NS < now_ns)
		p->rate_ns = now_ns - UB_PACE_SAVED_NS;
	ub_pace_pay(p, bytes);
	if (!is_busy)
		return;
	pace_put_off(p, now_ns + p->cost_ns * UB_PACE_SHARE);
	pace_start_anew(p); /* when it is alone again */
}

void ub_pace_end(struct ub_pace *p, uint64_t began_ns, uint64_t now_ns, bool is_busy, bool is_whole)
{
	if (is_busy)
		pace_end_beside(p, began_ns, now_ns, is_whole);
	else if (is_whole)
		pace_end_alone(p, began_ns, now_ns);
}

void ub_pace_pay(struct ub_pace *p, uint32_t bytes)
{
	if (p->rate_bytes)
		p->rate_ns += (uint64_t)bytes * 1000000000 / p->rate_bytes;
}

void ub_pace_set_rate(struct ub_pace *p, uint64_t now_ns, uint64_t rate_bytes)
{
	if (rate_bytes == p->rate_bytes)
		return;
	p->rate_bytes = rate_bytes;
	p->rate_ns = rate_bytes ? now_ns : 0;
}
