/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fence: which changes have to wait for what an old connection may still do. Arithmetic over
 * one side of the ledger (ublk-bridge/ledger.h), without I/O, clock or lock of its own.
 *
 * Closing a connection revokes nothing: until a server has answered a change, has died, or can be
 * proven to have dropped it, it may execute it. The danger is one: an old copy of a change lands on
 * a newer change of the same blocks. To send the same change again is harmless. So:
 *
 *  - A change is in flight on one connection only. When that is given up, the change becomes a
 *    *range*, and is sent again.
 *  - A newer change that overlaps a range waits until the range ends. Servers read, change and
 *    write whole blocks, so a range counts from block to block.
 *  - A change that is sent again passes its own ranges, and others that it overlaps byte for byte:
 *    it was in flight beside those, and nothing says which of them comes last. But of the blocks of
 *    a range that it passes it must change nothing else than bytes of that range, because two lives
 *    of a server share no lock around their reading and writing of a block: the old copy would
 *    write the rest as it was before. So it waits for what it meets only by rounding, or overlaps
 *    in a part of a block.
 *  - A range ends by time, by a close of the other end's own (where that is trusted), or by the
 *    word of somebody who knows. Its time counts from the latest of two: its connection was reset,
 *    so that nothing more of it can arrive, and the other end has been seen to live since then, so
 *    that what it had in hand is being executed, and not frozen.
 *  - The process that comes after a death of ours gets the same requests again from the kernel,
 *    perhaps merged. One that covers an inherited range of the same operation passes it, once: in
 *    truth it is the same change, or was asked for before that was given back. Before that request
 *    is given back to the kernel, in whatever way, the range is *done*: nobody may claim it any
 *    more. A second request that covers it may be the true one, and may end first: then nobody may
 *    claim it after the next death.
 *
 * What is called with a `now` takes the monotonic clock in milliseconds. The caller has one lock
 * around all calls, but for those that are marked: they are for the thread that sends, and are the
 * only ones that an ordinary I/O costs.
 */
#ifndef UB_BASE_FENCE_H
#define UB_BASE_FENCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/ledger.h>

#define UB_FENCE_MIN_BLOCK_BYTES 4096
/* how often is looked whether the other end has read what lies in its queue */
#define UB_FENCE_POLL_MS 50

struct ub_fence {
	struct ub_ledger *page;
	unsigned side;
	uint32_t block_bytes;
	uint64_t timeout_ms; /* 0: there are no ranges */
	bool trusts_close;
	/* ub_fence_inherit() was called: until then the page is another process's */
	bool is_writer;
	int32_t pid;
	unsigned nr_conns;
	unsigned end_ranges; /* those behind are free */
	/*
	 * While the table is full: the ranges by their beginnings, so that a loss of many changes
	 * does not compare each with each. Good until one ends.
	 */
	uint16_t order[UB_LEDGER_MAX_RANGES];
	unsigned nr_order; /* 0: it is not known */
	/* ranges whose time begins when no connection is to be waited for any more */
	unsigned nr_unknown;

	/* Any thread may read these, without the lock: 0, and there is nothing to be asked. */
	_Atomic unsigned nr_live;      /* ranges */
	_Atomic unsigned nr_claimable; /* of these, inherited: in truth a request may be the same */
	/*
	 * Clocks that wait for a sign of life. While it is not 0 and a change waits, the caller
	 * sees to it that something is in flight that began after the last reset (a read does):
	 * where all that is left are changes that wait for each other, nothing else would ever
	 * start the clocks.
	 */
	_Atomic unsigned nr_unproven;
	/*
	 * Counts resets. What is sent (or begun: a connection) takes the number along; an answer
	 * proves that the other end lives since every reset that has this number or a lower one.
	 */
	_Atomic uint32_t seq;
	/* of each connection's reset; 0: this process knows of none */
	uint32_t conn_seq[UB_LEDGER_CONNS];
};

/* A range that ended by time alone while somebody waited for it. */
struct ub_fence_late {
	unsigned nr;
	uint64_t start, end; /* of the first one */
	bool is_blind;	     /* it is all that a process before this one may have sent */
};

/*
 * Takes one side of a ledger. block_bytes: what the server reads and writes at once, as it says; 0:
 * it does not say.
 */
void ub_fence_init(struct ub_fence *f, struct ub_ledger *page, unsigned side, uint32_t block_bytes,
		   int32_t pid);
/* In force for the ranges that there are, too. Set before ub_fence_inherit(), like trusts_close. */
void ub_fence_set_timeout(struct ub_fence *f, uint64_t timeout_ms);

/*
 * Once, before the back end of this side sends anything: all that a dead process has left becomes
 * ranges. Where nobody knows what was sent, the whole device is one, on both sides. comes_again:
 * the device was made of this side when that process died, so that the kernel sends again what it
 * held; else nobody may claim a range. What is left as UB_CONN_LOST by another process is the
 * keeper's to reset: also when it has no descriptor of it, because an earlier keeper had.
 */
void ub_fence_inherit(struct ub_fence *f, bool comes_again, uint64_t now_ms);

/* ---- connections --------------------------------------------------------- */

/* One was made. id: the keeper's name for it. Its index; -1: there are too many. */
int ub_fence_open(struct ub_fence *f, enum ub_ledger_conn_kind kind, uint32_t id);
/* It has ended, and nothing of it is unanswered. */
void ub_fence_close(struct ub_fence *f, int conn);
/*
 * It is given up, with changes unanswered, or it is not known whether. is_closed: by the other end,
 * before anything that we did to it. In this order: ub_fence_lose(); ub_fence_give_up() for each of
 * them; ub_fence_reset(), when it is so. The entry stays until its ranges have their clock.
 */
void ub_fence_lose(struct ub_fence *f, int conn, bool is_closed);
/* The other end has all of it that it will ever get. */
void ub_fence_reset(struct ub_fence *f, int conn, uint64_t now_ms);
/*
 * There is no keeper: what one would have done for the connections of dead processes. Their
 * descriptors went with it, and a unix socket's other end may still have something to read; nobody
 * can see that any more.
 */
void ub_fence_reset_orphans(struct ub_fence *f, uint64_t now_ms);
/* Whether it is lost, and not reset yet: its descriptor is still needed. */
bool ub_fence_is_lost(const struct ub_fence *f, int conn);
/*
 * The other end answered something that was sent, or finished a handshake that began, at this
 * number of f->seq.
 */
void ub_fence_prove(struct ub_fence *f, uint32_t seq, uint64_t now_ms);

/* ---- changes ------------------------------------------------------------- */

/* The sender's thread, without the lock: the change is about to be sent; and it was answered. */
static inline void ub_fence_send(struct ub_ledger_sent *rec, int conn, uint8_t op, uint64_t start,
				 uint64_t len_bytes)
{
	rec->start = start;
	rec->end = start + len_bytes;
	rec->conn = (uint16_t)conn;
	rec->op = op;
	atomic_store_explicit(&rec->state, UB_SENT, memory_order_release);
}

static inline void ub_fence_answer(struct ub_ledger_sent *rec)
{
	atomic_store_explicit(&rec->state, UB_SENT_FREE, memory_order_release);
}

/* Its connection is lost, not reset yet: it becomes a range, which lets `owner` (not 0) pass. */
void ub_fence_give_up(struct ub_fence *f, struct ub_ledger_sent *rec, uint32_t owner);
/*
 * A request has come from the kernel that may be one that a dead process had sent: each one is
 * asked about, whole, when it comes and before anything may end it. True: it has claimed something.
 * Only where nr_claimable is not 0.
 */
bool ub_fence_claim(struct ub_fence *f, uint32_t owner, uint8_t op, uint64_t start,
		    uint64_t len_bytes);
/*
 * Whether a change may be sent. owner: 0 has no ranges. is_again: it was sent in this process
 * before, and its connection lost.
 */
bool ub_fence_may_pass(struct ub_fence *f, uint32_t owner, bool is_again, uint64_t start,
		       uint64_t len_bytes);
/* It is about to be given back to the kernel, however. For one that has given up, or claimed. */
void ub_fence_done(struct ub_fence *f, uint32_t owner);

/* ---- the end of ranges --------------------------------------------------- */

/*
 * Looks at the clock, and at what the keeper has found out. How many ranges have ended; *late: some
 * of them.
 */
unsigned ub_fence_look(struct ub_fence *f, uint64_t now_ms, struct ub_fence_late *late);
/* In how many ms to look again; UINT64_MAX: only after another event. */
uint64_t ub_fence_next_ms(const struct ub_fence *f, uint64_t now_ms);
/*
 * Somebody knows that nothing more is executed of what was given up until then
 * (ub_ledger_side.events). How many ended.
 */
unsigned ub_fence_word(struct ub_fence *f, uint64_t event);

#endif
