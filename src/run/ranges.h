/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the ledger (ublk-bridge/ledger.h) says, for people and for whoever takes a device away: how
 * much of what lost connections carried may still be executed, and how much may have been lost.
 * Reads the page and asks nobody; any thread, control plane.
 */
#ifndef UB_RUN_RANGES_H
#define UB_RUN_RANGES_H

#include <jansson.h>
#include <stdint.h>

#include <ublk-bridge/ledger.h>
#include <ublk-bridge/page.h>

#include "run/rundir.h"
#include "run/state.h"

struct nbd_options;

/* One side of it, in numbers. The server writes meanwhile: they may be one event apart. */
struct ub_ranges {
	unsigned nr; /* ranges: what newer changes wait for if they overlap it */
	/* of these, those whose time does not count yet: the other end has not been seen since */
	unsigned nr_no_clock;
	uint64_t bytes;	    /* of all of them */
	uint64_t oldest_ms; /* for how long the oldest one's time counts; 0: none does */
	uint64_t left_ms;   /* until the last one is over by time, of those whose time counts */
	uint64_t timeout_ms;
	uint64_t event;		  /* of the newest: ub_ledger_side.events */
	uint64_t nr_waiting;	  /* changes that wait for a range */
	uint64_t nr_late;	  /* waits that ended by time alone */
	uint64_t unflushed_bytes; /* answered, on connections that work, and not flushed since */
	uint64_t nr_losses, lost_bytes, last_loss_unix_s;
};

/*
 * size_bytes: of the device: no range has more. NULL: there is no ledger, and nothing in it.
 * now_ms: of the monotonic clock.
 */
void ub_ranges_read(struct ub_ledger *page, unsigned side, uint64_t size_bytes, uint64_t now_ms,
		    struct ub_ranges *r);

/*
 * Likewise, changes that are in flight on connections: what would be ranges if these were lost now.
 */
void ub_ranges_read_sent(struct ub_ledger *page, unsigned side, uint64_t size_bytes, unsigned *nr,
			 uint64_t *bytes);

/*
 * Likewise, of the side that the device is not made of: what it was moved from, or should have been
 * moved to. What a dead process had in flight there counts as a range whose time does not count:
 * nobody will send it again.
 */
void ub_ranges_read_other(struct ub_ledger *page, unsigned side, uint64_t size_bytes,
			  uint64_t now_ms, struct ub_ranges *r);

/* "3 ranges of 12 KiB together", which is what ub_ranges.nr is called for people */
const char *ub_ranges_describe(const struct ub_ranges *r, char *buf, size_t len);
/* How long they may still last: "for 28.5 s at the most", or why nobody knows. */
const char *ub_ranges_describe_end(const struct ub_ranges *r, char *buf, size_t len);

/* ---- a device that is to go waits for its ranges ------------------------- */

/* Zero it. */
struct ub_ranges_wait {
	uint64_t began_ms;    /* 0: it has not begun */
	uint64_t no_clock_ms; /* since when no time counts; 0: one does */
};

enum ub_ranges_wait_state { UB_RANGES_OVER, UB_RANGES_WAIT, UB_RANGES_TOO_LONG };

/*
 * Whether there is still something to wait for. TOO_LONG: for twice the fence timeout by now, or
 * for once where no time counts, because the server is away; and again in each later call, until it
 * is over.
 */
enum ub_ranges_wait_state ub_ranges_wait(struct ub_ranges_wait *w, const struct ub_ranges *r,
					 uint64_t now_ms);

/*
 * Likewise for what ub_ranges_read_other() says. The next user of that side was free to use it when
 * the move had ended: what nobody knows the end of is logged, with the device's number, and is no
 * reason to stay. Never TOO_LONG.
 */
enum ub_ranges_wait_state ub_ranges_wait_other(struct ub_ranges_wait *w, const struct ub_ranges *r,
					       uint64_t now_ms, uint32_t dev_id);

/* "3 ranges of 12 KiB together may still be written by lost connections, for 28.5 s at the most" */
const char *ub_ranges_describe_wait(const struct ub_ranges *r, char *buf, size_t len);

/*
 * What is not waited for: all ranges of both sides, and what is in flight. "": nothing, else "3
 * ranges, 12288 bytes of the old server may still be written".
 */
const char *ub_ranges_describe_rest(struct ub_ledger *page, uint64_t size_bytes, char *buf,
				    size_t len);

/* ---- JSON ---------------------------------------------------------------- */

/*
 * The members "fence", "unflushed_bytes" and "losses" of object, as ublk-bridge-control(7) has
 * them. r: NULL: the device has no such thing, and they are null. options: NULL: nobody knows them
 * here, and what is theirs is left out.
 */
void ub_ranges_to_json(const struct ub_ranges *r, const struct nbd_options *options,
		       json_t *object);

/* ---- of a device that another process has -------------------------------- */

#define UB_LEDGER_MEMFD "ublk-bridge-ledger"
#define UB_STATS_MEMFD	"ublk-bridge-stats"

struct ub_ledger_view {
	struct ub_ledger *page; /* read only; NULL: none */
	size_t len_bytes;
	struct ub_stats_page *stats;
	size_t stats_bytes;
};

/*
 * Maps the ledger that the device's keeper or, without one, its server has open, and asks neither:
 * they may stand still. 0 or -errno: -ENOENT: they have none, which a version of before has not.
 */
int ub_ledger_view_open(const struct ub_state *state, struct ub_ledger_view *view);
/* The present side, as ub_ranges_read() has it; all 0 without a page. */
void ub_ledger_view_read(const struct ub_ledger_view *view, uint64_t size_bytes,
			 struct ub_ranges *r);
/* As ub_ranges_read_other(); all 0 without a page. */
void ub_ledger_view_read_other(const struct ub_ledger_view *view, uint64_t size_bytes,
			       struct ub_ranges *r);
unsigned ub_ledger_view_side(const struct ub_ledger_view *view);
void ub_ledger_view_close(struct ub_ledger_view *view); /* idempotent */

#endif
