/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory that a device's servers share, one after the other, and that its keeper holds for
 * them: the statistics page, the ledger and the tag buffers. The keeper's main thread.
 */
#ifndef UB_KEEPER_SHARED_H
#define UB_KEEPER_SHARED_H

#include <stddef.h>

#include <ublk-bridge/ledger.h>
#include <ublk-bridge/page.h>

#include "base/err.h"

struct ub_keeper;

/* Descriptors: -1: there is none. Mappings: NULL. */
struct ub_shared {
	int stats_fd;
	int arena_fd; /* the tag buffers, of each server in its turn; -1: each has its own */
	int ledger_fd;
	struct ub_stats_page *stats;
	struct ub_ledger *ledger; /* what may still be executed, no matter who serves */
	size_t ledger_bytes;
};

/* Makes all of them. 0 or -errno with *err. */
int ub_shared_make(struct ub_keeper *k, struct ub_err *err);
/*
 * The ledger alone, of a device whose server has none; or, with a ledger_fd, the mapping of one
 * that there is. 0 or -errno with *err.
 */
int ub_shared_make_ledger(struct ub_keeper *k, struct ub_err *err);
int ub_shared_map_ledger(struct ub_keeper *k, struct ub_err *err);
/* Maps the statistics page of stats_fd, which a server has handed over. 0 or -errno with *err. */
int ub_shared_map_stats(struct ub_keeper *k, struct ub_err *err);

/* Unmaps and closes what this process has of that, and store and control device; nobody else's. */
void ub_shared_release(struct ub_keeper *k);

#endif
