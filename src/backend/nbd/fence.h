/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The back end's side of the fence (src/base/fence.h): which changes wait for what a connection
 * that was given up may still do. Any thread, but for what is marked; a lock is taken by those that
 * have something to do with an outage, and by no other I/O.
 */
#ifndef UB_BACKEND_NBD_FENCE_H
#define UB_BACKEND_NBD_FENCE_H

#include "backend/nbd/nbd.h"

/* Main thread, before the first queue is ready. 0 or -errno with *err. */
int nbd_fence_init(struct nbd_backend *be, unsigned nr_slots, struct ub_err *err);
struct ub_ledger_sent *nbd_fence_record(const struct nbd_backend *be, unsigned qid, unsigned slot);
/* Each queue's thread when it starts: what is in the ledger becomes ranges, once. */
void nbd_fence_start(struct nbd_backend *be);

/* The home thread: a link is about to be used. False: there is no room in the ledger. */
bool nbd_fence_open(struct nbd_link *link);
/*
 * The home thread: it is not used any more. Its socket is reset, and what it has not answered of
 * changes becomes ranges: how many.
 */
unsigned nbd_fence_end(struct nbd_link *link);

/*
 * A request has come, and may be one that the process before this one had sent. Only while
 * fence.nr_claimable.
 */
void nbd_fence_claim(struct nbd_backend *be, struct nbd_cmd *cmd, const struct ub_io *io);
/* Whether a change may be sent. Only while fence.nr_live. */
bool nbd_fence_may_pass(struct nbd_backend *be, const struct nbd_cmd *cmd);
/* It is about to be completed: for those that have has_ranges. */
void nbd_fence_done(struct nbd_backend *be, struct nbd_cmd *cmd);
/*
 * A FLUSH of our own was answered with this errno: kept for the application, over deaths of ours.
 * Where the device is only being moved to that server it counts as a loss. Any thread.
 */
void nbd_fence_keep_flush_error(struct nbd_backend *be, int code);
/* That errno, or 0. take: the application gets it. Any thread. */
int nbd_fence_flush_error(struct nbd_backend *be, bool take);

void nbd_fence_count_waiting(struct nbd_backend *be, bool begins);

/* Something that was sent at this seq was answered. Only while fence.nr_unproven. */
void nbd_fence_prove(struct nbd_backend *be, uint32_t seq);
/* Ends what is over, and asks for a sign of life where one is missing. Kicks whoever waits. */
void nbd_fence_tend(struct nbd_backend *be);
/* How long clocks have waited for a sign of life. */
uint64_t nbd_fence_unproven_ms(struct nbd_backend *be);
/* When to call it again, in ms; UINT64_MAX: there are no ranges. */
uint64_t nbd_fence_next_ms(struct nbd_backend *be);
void nbd_fence_set_timeout(struct nbd_backend *be, uint64_t timeout_ms);
/*
 * Somebody knows that nothing given up until then (ub_ledger_side.events) is executed any more. How
 * many ranges ended.
 */
unsigned nbd_fence_word(struct nbd_backend *be, uint64_t event);
bool nbd_fence_has_settled(struct nbd_backend *be);

#endif
