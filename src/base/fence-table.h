/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ledger's table of ranges and its counts, as the fence's rules (fence.h) use them. Private to
 * src/base/fence*.c; arithmetic alone, under the lock of the fence's owner.
 */
#ifndef UB_BASE_FENCE_TABLE_H
#define UB_BASE_FENCE_TABLE_H

#include "base/fence.h"

#define FENCE_WAITED 0x80 /* among the flags of a range, this process's: somebody waits for it */

static inline struct ub_ledger_side *fence_side(const struct ub_fence *f)
{
	return ub_ledger_side(f->page, f->side);
}

static inline struct ub_ledger_conn *fence_conn(const struct ub_fence *f, unsigned i)
{
	return ub_ledger_conn(f->page, f->side, i);
}

static inline struct ub_ledger_range *fence_range(const struct ub_fence *f, unsigned i)
{
	return ub_ledger_range(f->page, f->side, i);
}

static inline uint32_t range_state(const struct ub_ledger_range *r)
{
	return atomic_load_explicit(&r->state, memory_order_acquire);
}

static inline void range_set_state(struct ub_ledger_range *r, uint32_t state)
{
	atomic_store_explicit(&r->state, state, memory_order_release);
}

static inline uint32_t conn_state(const struct ub_ledger_conn *c)
{
	return atomic_load_explicit(&c->state, memory_order_acquire);
}

static inline void conn_set_state(struct ub_ledger_conn *c, uint32_t state)
{
	atomic_store_explicit(&c->state, state, memory_order_release);
}

static inline bool conn_is_trusted(const struct ub_fence *f, const struct ub_ledger_conn *c)
{
	return f->trusts_close &&
	       (atomic_load_explicit(&c->flags, memory_order_acquire) & UB_CONN_CLOSED);
}

/* One that a request may come for that is in truth the same change. */
bool ub_range_is_claimable(const struct ub_ledger_range *r);
/* From the page: the way back is never wrong, and nothing of this is on an ordinary I/O's path. */
void ub_fence_count(struct ub_fence *f);
/*
 * Those that no range waits for. One of a dead process that is lost is the keeper's, until it is
 * reset.
 */
void ub_fence_sweep(struct ub_fence *f);
void ub_fence_free(struct ub_fence *f, struct ub_ledger_range *r);
void ub_fence_add(struct ub_fence *f, const struct ub_ledger_range *what);

#endif
