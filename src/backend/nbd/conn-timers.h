/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What time does to a conn. Its home thread. */
#ifndef UB_BACKEND_NBD_CONN_TIMERS_H
#define UB_BACKEND_NBD_CONN_TIMERS_H

#include "backend/nbd/nbd.h"

/* When its queue starts. */
void nbd_timers_init(struct nbd_conn *conn, struct ub_queue *q);
/* They go, for good. Again each turn, until it is true: the ring has none of them any more. */
bool nbd_timers_stop(struct nbd_conn *conn);

/* The outage limit and the stall timeout may have changed. */
void nbd_timers_take_settings(struct nbd_conn *conn);

/*
 * How long a link may be silent once it has stalled, in ms. Who has been sent again for that reason
 * gets longer each time.
 */
uint64_t nbd_link_patience_ms(const struct nbd_link *link);
/* Time is over for one that has stalled. */
void nbd_link_give_up(struct nbd_link *link);

#endif
