/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The layer of a migration: a back end made of two. Reads come from the source; what changes it
 * goes to both sides, and a copier on queue 0 brings the rest over.
 *
 *   an I/O ─► mirror ─┬─► source ─────────────┐
 *                     └─► destination ────────┴─► answered when both have it, as the source said
 *
 * It is put in, and taken out, while the queues pause: that every write is mirrored before the
 * first byte is copied, and that none is half mirrored when it ends, follows from that alone. Core,
 * mem and nbd know nothing of it.
 *
 * Two I/Os that overlap would come to the two sides in two orders: what changes a range holds it,
 * and so does the copier. The ranges are on one list under a lock that is held for as long as it
 * takes to look at it, and not taken at all when no migration runs.
 *
 * A destination that is late (its back end's late_ms) is out of step: what it misses is marked
 * dirty before the source acknowledges it, and copied when it is back. Any other error of its ends
 * the migration.
 */
#ifndef UB_BACKEND_MIRROR_H
#define UB_BACKEND_MIRROR_H

#include <ublk-bridge/backend.h>
#include <ublk-bridge/page.h>

#include "base/err.h"

enum ub_mirror_state {
	UB_MIRROR_COPYING,
	UB_MIRROR_OUT,	   /* the destination does not answer */
	UB_MIRROR_IN_STEP, /* both sides are the same but for what is in flight */
	UB_MIRROR_FAILED,
	UB_MIRROR_STOPPED, /* all goes to the source alone, and nothing to the destination */
};

struct ub_mirror_config {
	struct ub_backend *source, *dest;
	struct ub_backend_queue *source_bqs, *dest_bqs; /* one a queue */
	unsigned nr_queues, depth;
	uint64_t late_ms;
	uint64_t rate_bytes; /* a second; 0: as fast as it goes */
	struct ub_migration_stats *stats;
	/* one a queue: mirrored_bytes is counted there, and in_flight read */
	struct ub_queue_stats *queue_stats;
	/* readable when the state has changed, or a flush is over; the caller's, as all of this */
	int event_fd;
};

/*
 * Fills in *be, with its limits. Control plane; may allocate. 0 or -errno with *err;
 * ub_mirror_destroy() in either case.
 */
int ub_mirror_create(struct ub_backend *be, const struct ub_mirror_config *config,
		     struct ub_err *err);
void ub_mirror_destroy(struct ub_backend *be); /* the two sides are the caller's */

/* The main thread's, while the queues run with it. */
enum ub_mirror_state ub_mirror_state(const struct ub_backend *be);
/* FAILED: 0 or a positive errno, and on which side it was. */
int ub_mirror_error(const struct ub_backend *be, bool *is_source);
void ub_mirror_set_rate(struct ub_backend *be, uint64_t rate_bytes);
/* Flushes both sides; ub_mirror_flushed() follows. Not again before that. */
void ub_mirror_flush(struct ub_backend *be);
/* 1: it is done, 0: not yet; a negative errno: it failed, and what that means is in the state. */
int ub_mirror_flushed(const struct ub_backend *be);
/*
 * For good, soon: STOPPED follows when all queues have been told. What the destination holds ends.
 */
void ub_mirror_stop(struct ub_backend *be);

#endif
