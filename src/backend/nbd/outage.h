/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An outage is when no connection of a back end works. It has a limit; I/O waits until that is
 * over. Home threads, but for what is marked.
 */
#ifndef UB_BACKEND_NBD_OUTAGE_H
#define UB_BACKEND_NBD_OUTAGE_H

#include "backend/nbd/nbd.h"

/*
 * The only place where a conn's state changes; asserts that this may follow what it was. An outage
 * may end or begin by it, and then all conns are kicked.
 */
void nbd_outage_set_state(struct nbd_conn *conn, enum nbd_conn_state to);

/* Any thread: an attempt has shown that nothing works: the outage begins, if none has. */
void nbd_outage_note(struct nbd_backend *be);

/* The negative errno that all I/O ends with from now on; 0: none. */
int32_t nbd_outage_final_error(const struct nbd_conn *conn);
/* How long no connection has worked, in ms; 0: one does. */
uint64_t nbd_outage_ms(const struct nbd_conn *conn);
/* The negative errno that I/O on an offline conn ends with by now; 0: it waits. */
int32_t nbd_outage_offline_error(const struct nbd_conn *conn);
/* Sets the conn's timer to the end of the limit. */
void nbd_outage_arm(struct nbd_conn *conn);

#endif
