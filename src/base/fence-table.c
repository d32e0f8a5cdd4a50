/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of ranges: counted, ordered, and never full. */
#include "base/fence-table.h"

#include <assert.h>
#include <string.h>

/* ---- counting ------------------------------------------------------------ */

bool ub_range_is_claimable(const struct ub_ledger_range *r)
{
	return range_state(r) == UB_RANGE && (r->flags & UB_RANGE_INHERITED) &&
	       !(r->flags & (UB_RANGE_MERGED | UB_RANGE_BLIND));
}

void ub_fence_count(struct ub_fence *f)
{
	unsigned live = 0, claimable = 0, unproven = 0, end = 0;

	f->nr_unknown = 0;
	for (unsigned i = 0; i < f->end_ranges; i++) {
		const struct ub_ledger_range *r = fence_range(f, i);

		if (range_state(r) == UB_RANGE_FREE)
			continue;
		live++;
		end = i + 1;
		claimable += ub_range_is_claimable(r);
		f->nr_unknown += r->conn == UB_LEDGER_NO_CONN && !r->clock_ms;
	}
	for (unsigned i = 0; i < f->nr_conns; i++)
		unproven += conn_state(fence_conn(f, i)) == UB_CONN_RESET;
	/* with no connection left to wait for, the next sign of life starts those */
	unproven += f->nr_unknown;
	f->end_ranges = end;
	atomic_store_explicit(&f->nr_claimable, claimable, memory_order_release);
	atomic_store_explicit(&f->nr_unproven, unproven, memory_order_release);
	atomic_store_explicit(&f->nr_live, live, memory_order_release);
	if (f->is_writer)
		atomic_store_explicit(&fence_side(f)->nr_live, live, memory_order_release);
}

/* One that waits for every clock waits for this connection's, too. */
static bool fence_conn_has_ranges(const struct ub_fence *f, unsigned conn)
{
	for (unsigned i = 0; i < f->end_ranges; i++) {
		const struct ub_ledger_range *r = fence_range(f, i);

		if (range_state(r) != UB_RANGE_FREE &&
		    (r->conn == conn || (r->conn == UB_LEDGER_NO_CONN && !r->clock_ms)))
			return true;
	}
	return false;
}

void ub_fence_sweep(struct ub_fence *f)
{
	for (unsigned i = 0; i < f->nr_conns; i++) {
		struct ub_ledger_conn *c = fence_conn(f, i);

		if (conn_state(c) == UB_CONN_RESET && !fence_conn_has_ranges(f, i))
			conn_set_state(c, UB_CONN_FREE);
	}
}

/* ---- the table of ranges ------------------------------------------------- */

static uint64_t range_gap(const struct ub_ledger_range *a, const struct ub_ledger_range *b)
{
	if (a->end < b->start)
		return b->start - a->end;
	return b->end < a->start ? a->start - b->end : 0;
}

/* Of one request, which was sent again, and given up again. */
static bool range_is_same_change(const struct ub_ledger_range *a, const struct ub_ledger_range *b)
{
	return a->owner && a->owner == b->owner && a->start == b->start && a->end == b->end &&
	       a->op == b->op && a->flags == b->flags && range_state(a) == UB_RANGE &&
	       range_state(b) == UB_RANGE;
}

/* Grows a range so that it stands for another one, too. At no moment it says less than before. */
static void range_absorb(struct ub_ledger_range *r, const struct ub_ledger_range *other)
{
	bool is_same = range_is_same_change(r, other);

	if (!is_same) {
		r->flags |= UB_RANGE_MERGED | (other->flags & FENCE_WAITED);
		r->owner = 0;
	}
	if (is_same && r->clock_ms && !other->clock_ms) {
		/* The older clock runs already: that of the later connection is the later one. */
		r->clock_ms = 0;
		r->conn = other->conn;
	} else if (other->conn != r->conn ||
		   (r->conn == UB_LEDGER_NO_CONN && (!r->clock_ms || !other->clock_ms))) {
		/* The later clock of two, of which one at least does not run yet: when all do. */
		r->clock_ms = 0;
		r->conn = UB_LEDGER_NO_CONN;
	} else if (other->clock_ms > r->clock_ms) {
		r->clock_ms = other->clock_ms;
	}
	if (other->event > r->event)
		r->event = other->event;
	if (other->start < r->start)
		r->start = other->start;
	if (other->end > r->end)
		r->end = other->end;
}

static unsigned fence_nr_ranges(const struct ub_fence *f)
{
	return f->page->nr_ranges < UB_LEDGER_MAX_RANGES ? f->page->nr_ranges :
							   UB_LEDGER_MAX_RANGES;
}

void ub_fence_free(struct ub_fence *f, struct ub_ledger_range *r)
{
	range_set_state(r, UB_RANGE_FREE);
	f->nr_order = 0;
}

/* The range of the same change, which was given up before and sent again; NULL: there is none. */
static struct ub_ledger_range *fence_find_same(const struct ub_fence *f,
					       const struct ub_ledger_range *what)
{
	for (unsigned i = 0; what->owner && i < f->end_ranges; i++) {
		if (range_is_same_change(fence_range(f, i), what))
			return fence_range(f, i);
	}
	return NULL;
}

/* Where in the order a range that begins there belongs: behind those that begin no later. */
static unsigned fence_order_of(const struct ub_fence *f, uint64_t start)
{
	unsigned low = 0, high = f->nr_order;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (fence_range(f, f->order[middle])->start <= start)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void fence_order_add(struct ub_fence *f, unsigned i)
{
	unsigned at = fence_order_of(f, fence_range(f, i)->start);

	memmove(&f->order[at + 1], &f->order[at], (f->nr_order - at) * sizeof(f->order[0]));
	f->order[at] = (uint16_t)i;
	f->nr_order++;
}

static void fence_order_remove(struct ub_fence *f, unsigned at)
{
	f->nr_order--;
	memmove(&f->order[at], &f->order[at + 1], (f->nr_order - at) * sizeof(f->order[0]));
}

/* The table is full: the two nearest become one. The place that is free then. */
static unsigned fence_make_room(struct ub_fence *f)
{
	unsigned far = 0, first = 0, second = 1;
	uint64_t best = UINT64_MAX;

	if (!f->nr_order) {
		for (unsigned i = 0; i < fence_nr_ranges(f); i++)
			fence_order_add(f, i);
	}
	/* far: the range before this place that reaches farthest, which need not be the last. */
	for (unsigned at = 1; at < f->nr_order && best; at++) {
		uint64_t gap =
			range_gap(fence_range(f, f->order[far]), fence_range(f, f->order[at]));

		if (gap < best) {
			best = gap;
			first = far;
			second = at;
		}
		if (fence_range(f, f->order[at])->end > fence_range(f, f->order[far])->end)
			far = at;
	}
	range_absorb(fence_range(f, f->order[first]), fence_range(f, f->order[second]));
	far = f->order[second];
	range_set_state(fence_range(f, far), UB_RANGE_FREE);
	fence_order_remove(f, second);
	return far;
}

static unsigned fence_find_free(struct ub_fence *f)
{
	unsigned nr = fence_nr_ranges(f);

	for (unsigned i = f->nr_order ? nr : 0; i < nr; i++) {
		if (range_state(fence_range(f, i)) == UB_RANGE_FREE)
			return i;
	}
	return fence_make_room(f);
}

void ub_fence_add(struct ub_fence *f, const struct ub_ledger_range *what)
{
	struct ub_ledger_range *r = fence_find_same(f, what);
	unsigned i;

	if (r) {
		range_absorb(r, what);
		return;
	}
	i = fence_find_free(f);
	r = fence_range(f, i);
	r->start = what->start;
	r->end = what->end;
	r->clock_ms = what->clock_ms;
	r->event = what->event;
	r->owner = what->owner;
	r->conn = what->conn;
	r->op = what->op;
	r->flags = what->flags;
	range_set_state(r, UB_RANGE);
	if (i >= f->end_ranges)
		f->end_ranges = i + 1;
	if (f->nr_order)
		fence_order_add(f, i);
}
