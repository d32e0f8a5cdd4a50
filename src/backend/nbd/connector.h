/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connector: one thread a back end that makes connections, compares what answers with the
 * export that the device was made from, hands ready ones to their queues, and frees those that
 * ended.
 */
#ifndef UB_BACKEND_NBD_CONNECTOR_H
#define UB_BACKEND_NBD_CONNECTOR_H

#include "backend/nbd/nbd.h"

/* Which engine drives the connections to this address. */
const struct nbd_engine *nbd_connector_engine(const struct nbd_address *a);

/* Main thread: the thread begins. 0 or -errno with *err. */
int nbd_connector_start(struct nbd_backend *be, struct ub_err *err);
/*
 * Main thread, or whichever stops the back end: ends the thread, but for one that waits for a name
 * server (be->has_thread then). Also one that was not started.
 */
void nbd_connector_stop(struct nbd_backend *be);
/*
 * The thread is over, or is the caller: the links that nobody has taken back yet are among those
 * that have ended.
 */
void nbd_connector_take_all(struct nbd_backend *be);
/* The last one who has it: ends what is left of its connections, and frees all of it. */
void nbd_connector_free(struct nbd_backend *be);

#endif
