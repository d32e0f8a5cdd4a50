/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What keeps this device going while memory is short, and others perhaps wait for it to become
 * free through this very device: memory that is taken before it is needed, a bound for what sockets
 * hold, and threads whose sends find pages.
 */
#ifndef UB_BACKEND_NBD_RESERVE_H
#define UB_BACKEND_NBD_RESERVE_H

#include "backend/nbd/nbd.h"

/*
 * Sets be->short_bytes and be->send_bytes, by the machine's memory and be->nr_conns. Main thread,
 * before the first link is made.
 */
void nbd_reserve_read_watermarks(struct nbd_backend *be);

/*
 * Takes the memory that making all connections again needs. Main thread, when the back end's
 * connections are made. heap: of ub_heap_keep() before the first one was made; NULL:
 * be->heap_bytes says how much it is. 0 or -errno with *err.
 */
int nbd_reserve_heap(struct nbd_backend *be, const void *heap, struct ub_err *err);

/* The calling thread is the connector: its sends find pages, and its stack is there. */
void nbd_reserve_prepare_connector(void);

/* A queue's thread, when it starts: finds out whether it may become a real-time one. */
void nbd_reserve_allow(struct nbd_queue *nq);

/* Behind nbd_reserve_look(). */
void nbd_reserve_look_now(struct nbd_queue *nq);

/*
 * Before something is sent. A send needs pages, and while memory is short those that others wait
 * for may become free only by it; nor should it wait for a CPU behind those that look for pages in
 * vain. Not for good: a real-time thread interrupts a program after each request, and gets no
 * batches.
 */
static inline void nbd_reserve_look(struct nbd_queue *nq)
{
	if (nq->may_use_reserve && !nq->has_looked)
		nbd_reserve_look_now(nq);
}

#endif
