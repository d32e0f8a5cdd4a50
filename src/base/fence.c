/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fence's arithmetic: the rules are in the header. Any thread, under the caller's lock. */
#include "base/fence.h"

#include <assert.h>
#include <string.h>

#include "base/fence-table.h"

/* ---- beginning ----------------------------------------------------------- */

void ub_fence_init(struct ub_fence *f, struct ub_ledger *page, unsigned side, uint32_t block_bytes,
		   int32_t pid)
{
	memset(f, 0, sizeof(*f));
	f->page = page;
	f->side = side;
	f->block_bytes =
		block_bytes > UB_FENCE_MIN_BLOCK_BYTES ? block_bytes : UB_FENCE_MIN_BLOCK_BYTES;
	f->pid = pid;
	f->nr_conns = page->nr_conns < UB_LEDGER_CONNS ? page->nr_conns : UB_LEDGER_CONNS;
	f->end_ranges = page->nr_ranges;
	ub_fence_count(f);
}

void ub_fence_set_timeout(struct ub_fence *f, uint64_t timeout_ms)
{
	f->timeout_ms = timeout_ms;
	atomic_store_explicit(&fence_side(f)->timeout_ms, timeout_ms, memory_order_release);
}

static int fence_find_conn(const struct ub_fence *f)
{
	for (unsigned i = 0; i < f->nr_conns; i++) {
		if (conn_state(fence_conn(f, i)) == UB_CONN_FREE)
			return (int)i;
	}
	return -1;
}

static uint64_t fence_count_event(struct ub_fence *f)
{
	struct ub_ledger_side *side = fence_side(f);
	uint64_t event = atomic_load_explicit(&side->events, memory_order_relaxed) + 1;

	atomic_store_explicit(&side->events, event, memory_order_release);
	return event;
}

/*
 * Nobody knows what was sent, nor over which connections: the time counts from the first sign of
 * life.
 */
static void fence_add_blind(struct ub_fence *f, uint64_t event, uint64_t now_ms)
{
	struct ub_ledger_range all = { .end = UINT64_MAX,
				       .event = event,
				       .conn = UB_LEDGER_NO_CONN };
	int conn = ub_fence_open(f, UB_CONN_OTHER, 0);

	all.flags = UB_RANGE_BLIND | UB_RANGE_INHERITED;
	if (conn >= 0)
		all.conn = (uint16_t)conn;
	ub_fence_add(f, &all);
	if (conn >= 0)
		ub_fence_reset(f, conn, now_ms);
}

/*
 * Connections of processes that are dead, and that no keeper has reset: the last close of their
 * socket did.
 */
static void fence_inherit_conns(struct ub_fence *f, uint64_t now_ms)
{
	for (unsigned i = 0; i < f->nr_conns; i++) {
		struct ub_ledger_conn *c = fence_conn(f, i);

		f->conn_seq[i] = 0;
		if (conn_state(c) == UB_CONN_OPEN ||
		    (conn_state(c) == UB_CONN_LOST && c->pid == f->pid)) {
			atomic_store_explicit(&c->reset_ms, now_ms, memory_order_relaxed);
			conn_set_state(c, UB_CONN_RESET);
		}
	}
}

/* Whether a clock can come from it. A later program may have had more connections than we know. */
static bool fence_has_conn(const struct ub_fence *f, unsigned conn)
{
	return conn < f->nr_conns && conn_state(fence_conn(f, conn)) != UB_CONN_FREE;
}

/*
 * What a dead process, or a back end before this one, has left of ranges. Only the former's
 * requests come again.
 */
static void fence_inherit_range(struct ub_fence *f, struct ub_ledger_range *r, bool comes_again)
{
	if (range_state(r) == UB_RANGE_FREE)
		return;
	r->owner = 0;
	r->flags = (uint8_t)((r->flags & ~FENCE_WAITED) | UB_RANGE_INHERITED);
	if (!r->clock_ms && !fence_has_conn(f, r->conn))
		r->conn = UB_LEDGER_NO_CONN;
	if (r->conn < f->nr_conns && conn_is_trusted(f, fence_conn(f, r->conn)))
		ub_fence_free(f, r);
	else if (!comes_again)
		range_set_state(r, UB_RANGE_DONE);
}

static void fence_inherit_sent(struct ub_fence *f, struct ub_ledger_sent *rec, uint64_t event)
{
	struct ub_ledger_range r = { .start = rec->start,
				     .end = rec->end,
				     .event = event,
				     .conn = rec->conn,
				     .op = rec->op,
				     .flags = UB_RANGE_INHERITED };

	if (!fence_has_conn(f, rec->conn))
		r.conn = UB_LEDGER_NO_CONN;
	if (r.conn == UB_LEDGER_NO_CONN || !conn_is_trusted(f, fence_conn(f, r.conn)))
		ub_fence_add(f, &r);
	ub_fence_answer(rec);
}

static void fence_inherit_side(struct ub_fence *f, bool is_blind, bool comes_again, uint64_t now_ms)
{
	const struct ub_ledger *page = f->page;
	uint64_t event = 0;

	f->is_writer = true;
	/* a standby has looked long before its predecessor made some */
	f->end_ranges = page->nr_ranges;
	fence_inherit_conns(f, now_ms);
	for (unsigned q = 0; q < page->nr_queues; q++) {
		for (unsigned s = 0; s < page->nr_slots; s++) {
			struct ub_ledger_sent *rec = ub_ledger_sent(f->page, f->side, q, s);

			if (atomic_load_explicit(&rec->state, memory_order_acquire) != UB_SENT)
				continue;
			event = event ? event : fence_count_event(f);
			fence_inherit_sent(f, rec, event);
		}
	}
	if (is_blind)
		fence_add_blind(f, event ? event : fence_count_event(f), now_ms);
	for (unsigned i = 0; i < f->end_ranges; i++)
		fence_inherit_range(f, fence_range(f, i), comes_again);
	ub_fence_sweep(f);
	ub_fence_count(f);
}

void ub_fence_inherit(struct ub_fence *f, bool comes_again, uint64_t now_ms)
{
	bool is_blind = atomic_load_explicit(&f->page->is_blind, memory_order_acquire);
	struct ub_fence other;

	if (is_blind) {
		ub_fence_init(&other, f->page, !f->side, 0, f->pid);
		fence_inherit_side(&other, true, false, now_ms);
	}
	fence_inherit_side(f, is_blind, comes_again, now_ms);
	atomic_store_explicit(&f->page->is_blind, 0, memory_order_release);
	ub_fence_look(f, now_ms, NULL);
}

/* ---- connections --------------------------------------------------------- */

int ub_fence_open(struct ub_fence *f, enum ub_ledger_conn_kind kind, uint32_t id)
{
	int i = fence_find_conn(f);
	struct ub_ledger_conn *c;

	if (i < 0)
		return -1;
	c = fence_conn(f, (unsigned)i);
	c->kind = kind;
	c->pid = f->pid;
	c->id = id;
	atomic_store_explicit(&c->flags, 0, memory_order_relaxed);
	atomic_store_explicit(&c->reset_ms, 0, memory_order_relaxed);
	atomic_store_explicit(&c->unflushed_bytes, 0, memory_order_relaxed);
	f->conn_seq[i] = 0;
	conn_set_state(c, UB_CONN_OPEN);
	return i;
}

void ub_fence_close(struct ub_fence *f, int conn)
{
	if (conn >= 0)
		conn_set_state(fence_conn(f, (unsigned)conn), UB_CONN_FREE);
}

void ub_fence_lose(struct ub_fence *f, int conn, bool is_closed)
{
	struct ub_ledger_conn *c = fence_conn(f, (unsigned)conn);

	assert(conn_state(c) == UB_CONN_OPEN);
	if (is_closed)
		atomic_fetch_or_explicit(&c->flags, UB_CONN_CLOSED, memory_order_relaxed);
	conn_set_state(c, UB_CONN_LOST);
	fence_count_event(f);
}

void ub_fence_reset(struct ub_fence *f, int conn, uint64_t now_ms)
{
	struct ub_ledger_conn *c = fence_conn(f, (unsigned)conn);

	if (conn_state(c) != UB_CONN_LOST && conn_state(c) != UB_CONN_OPEN)
		return;
	atomic_store_explicit(&c->reset_ms, now_ms, memory_order_relaxed);
	f->conn_seq[conn] = atomic_fetch_add_explicit(&f->seq, 1, memory_order_acq_rel) + 1;
	conn_set_state(c, UB_CONN_RESET);
	ub_fence_sweep(f);
	ub_fence_count(f);
}

void ub_fence_reset_orphans(struct ub_fence *f, uint64_t now_ms)
{
	for (unsigned i = 0; i < f->nr_conns; i++) {
		struct ub_ledger_conn *c = fence_conn(f, i);

		if (conn_state(c) == UB_CONN_LOST && c->pid != f->pid)
			ub_fence_reset(f, (int)i, now_ms);
	}
}

bool ub_fence_is_lost(const struct ub_fence *f, int conn)
{
	return conn >= 0 && (unsigned)conn < f->nr_conns &&
	       conn_state(fence_conn(f, (unsigned)conn)) == UB_CONN_LOST;
}

/* Those that wait for every clock: is there one that does not run? */
static void fence_start_unknown(struct ub_fence *f, uint64_t now_ms)
{
	for (unsigned i = 0; i < f->nr_conns; i++) {
		uint32_t state = conn_state(fence_conn(f, i));

		if (state == UB_CONN_LOST || state == UB_CONN_RESET)
			return;
	}
	for (unsigned i = 0; i < f->end_ranges; i++) {
		struct ub_ledger_range *r = fence_range(f, i);

		if (range_state(r) != UB_RANGE_FREE && r->conn == UB_LEDGER_NO_CONN && !r->clock_ms)
			r->clock_ms = now_ms;
	}
}

void ub_fence_prove(struct ub_fence *f, uint32_t seq, uint64_t now_ms)
{
	bool has_changed = false;

	for (unsigned c = 0; c < f->nr_conns; c++) {
		struct ub_ledger_conn *conn = fence_conn(f, c);

		if (conn_state(conn) != UB_CONN_RESET || !f->conn_seq[c] || f->conn_seq[c] > seq)
			continue;
		for (unsigned i = 0; i < f->end_ranges; i++) {
			struct ub_ledger_range *r = fence_range(f, i);

			if (r->conn != c || range_state(r) == UB_RANGE_FREE)
				continue;
			/* before the connection goes: else nobody would start it */
			r->clock_ms = now_ms;
			r->conn = UB_LEDGER_NO_CONN;
		}
		conn_set_state(conn, UB_CONN_FREE);
		has_changed = true;
	}
	if (!has_changed && !f->nr_unknown)
		return;
	fence_start_unknown(f, now_ms);
	ub_fence_count(f);
}

/* ---- changes ------------------------------------------------------------- */

void ub_fence_give_up(struct ub_fence *f, struct ub_ledger_sent *rec, uint32_t owner)
{
	struct ub_ledger_range r = { .start = rec->start,
				     .end = rec->end,
				     .conn = rec->conn,
				     .op = rec->op,
				     .owner = owner,
				     .state = UB_RANGE };

	assert(owner != 0);
	/* Once it is reset, and without ranges, its entry is somebody else's. */
	assert(ub_fence_is_lost(f, rec->conn));
	if (f->timeout_ms && !conn_is_trusted(f, fence_conn(f, rec->conn))) {
		r.event = atomic_load_explicit(&fence_side(f)->events, memory_order_relaxed);
		ub_fence_add(f, &r);
		ub_fence_count(f);
	}
	ub_fence_answer(rec);
}

bool ub_fence_claim(struct ub_fence *f, uint32_t owner, uint8_t op, uint64_t start,
		    uint64_t len_bytes)
{
	uint64_t end = start + len_bytes;
	bool has_claimed = false, has_changed = false;

	for (unsigned i = 0; i < f->end_ranges; i++) {
		struct ub_ledger_range *r = fence_range(f, i);

		if (!ub_range_is_claimable(r) || r->owner == owner || r->start < start ||
		    r->end > end)
			continue;
		has_changed = true;
		if (r->owner || r->op != op) {
			/* Whose it is, nobody knows: after a death of ours it is nobody's. */
			r->flags |= UB_RANGE_MERGED;
			continue;
		}
		r->owner = owner;
		has_claimed = true;
	}
	if (has_changed)
		ub_fence_count(f);
	return has_claimed;
}

/*
 * Whether a request changes, of the blocks that the range counts for, nothing but bytes of the
 * range itself. Else the old copy, which may have read those blocks before the request and writes
 * them after it, would undo the rest of it.
 */
static bool range_covers_its_share(const struct ub_fence *f, const struct ub_ledger_range *r,
				   uint64_t start, uint64_t end)
{
	return (start >= r->start || r->start % f->block_bytes == 0) &&
	       (end <= r->end || r->end % f->block_bytes == 0);
}

/* Whether the request may be sent as far as this range goes. */
static bool range_lets_pass(const struct ub_fence *f, const struct ub_ledger_range *r,
			    uint32_t owner, bool is_again, uint64_t start, uint64_t end)
{
	uint64_t block = f->block_bytes, first = r->start - r->start % block;

	if (end <= first || (r->end <= start && (r->end + block - 1) / block * block <= start))
		return true;
	if (!range_covers_its_share(f, r, start, end))
		return false;
	if (range_state(r) == UB_RANGE && owner && r->owner == owner)
		return true;
	return is_again && !(r->flags & (UB_RANGE_MERGED | UB_RANGE_BLIND));
}

bool ub_fence_may_pass(struct ub_fence *f, uint32_t owner, bool is_again, uint64_t start,
		       uint64_t len_bytes)
{
	for (unsigned i = 0; i < f->end_ranges; i++) {
		struct ub_ledger_range *r = fence_range(f, i);

		if (range_state(r) == UB_RANGE_FREE ||
		    range_lets_pass(f, r, owner, is_again, start, start + len_bytes))
			continue;
		r->flags |= FENCE_WAITED;
		return false;
	}
	return true;
}

void ub_fence_done(struct ub_fence *f, uint32_t owner)
{
	for (unsigned i = 0; i < f->end_ranges; i++) {
		struct ub_ledger_range *r = fence_range(f, i);

		if (!owner || r->owner != owner || range_state(r) != UB_RANGE)
			continue;
		range_set_state(r, UB_RANGE_DONE);
		r->owner = 0;
	}
}

/* ---- the end ------------------------------------------------------------- */

static bool range_is_over(const struct ub_fence *f, const struct ub_ledger_range *r,
			  uint64_t now_ms)
{
	return !f->timeout_ms ||
	       (r->clock_ms && now_ms >= r->clock_ms && now_ms - r->clock_ms >= f->timeout_ms);
}

/* The keeper has reset some. */
static void fence_look_at_conns(struct ub_fence *f)
{
	bool has_changed = false;

	for (unsigned i = 0; i < f->nr_conns; i++) {
		if (conn_state(fence_conn(f, i)) != UB_CONN_RESET || f->conn_seq[i])
			continue;
		f->conn_seq[i] = atomic_fetch_add_explicit(&f->seq, 1, memory_order_acq_rel) + 1;
		has_changed = true;
	}
	if (!has_changed)
		return;
	ub_fence_sweep(f);
	ub_fence_count(f);
}

static unsigned fence_ended(struct ub_fence *f, unsigned nr)
{
	if (nr) {
		ub_fence_sweep(f);
		ub_fence_count(f);
	}
	return nr;
}

unsigned ub_fence_look(struct ub_fence *f, uint64_t now_ms, struct ub_fence_late *late)
{
	unsigned nr = 0;

	if (late)
		*late = (struct ub_fence_late){ .nr = 0 };
	fence_look_at_conns(f);
	for (unsigned i = 0; i < f->end_ranges; i++) {
		struct ub_ledger_range *r = fence_range(f, i);

		if (range_state(r) == UB_RANGE_FREE || !range_is_over(f, r, now_ms))
			continue;
		if (late && (r->flags & FENCE_WAITED) && f->timeout_ms && late->nr++ == 0) {
			late->start = r->start;
			late->end = r->end;
			late->is_blind = r->flags & UB_RANGE_BLIND;
		}
		ub_fence_free(f, r);
		nr++;
	}
	return fence_ended(f, nr);
}

uint64_t ub_fence_next_ms(const struct ub_fence *f, uint64_t now_ms)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < f->end_ranges; i++) {
		const struct ub_ledger_range *r = fence_range(f, i);
		uint64_t over = r->clock_ms + f->timeout_ms;

		if (range_state(r) == UB_RANGE_FREE || !r->clock_ms || over < f->timeout_ms)
			continue;
		over = over > now_ms ? over - now_ms : 0;
		next = over < next ? over : next;
	}
	for (unsigned i = 0; i < f->nr_conns && next > UB_FENCE_POLL_MS; i++) {
		if (conn_state(fence_conn(f, i)) == UB_CONN_LOST)
			next = UB_FENCE_POLL_MS;
	}
	return next;
}

unsigned ub_fence_word(struct ub_fence *f, uint64_t event)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < f->end_ranges; i++) {
		struct ub_ledger_range *r = fence_range(f, i);

		if (range_state(r) == UB_RANGE_FREE || r->event > event)
			continue;
		ub_fence_free(f, r);
		nr++;
	}
	return fence_ended(f, nr);
}
