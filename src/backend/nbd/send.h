/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is sent on a conn, and what waits there. The home thread, but for what is marked. Nothing
 * here blocks or allocates.
 */
#ifndef UB_BACKEND_NBD_SEND_H
#define UB_BACKEND_NBD_SEND_H

#include "backend/nbd/nbd.h"

/* Main thread: a part of nbd_conn_init(). */
void nbd_send_init(struct nbd_conn *conn);

/* The contract's, backend.h: on the queue's thread. */
void nbd_submit(struct ub_backend_queue *bq, struct ub_io *io);
void nbd_give_back(struct ub_backend_queue *bq, const struct ub_io *io);

/* What the link asks for by itself: a FLUSH, or a READ that asks for nothing but an answer. */
void nbd_send_internal(struct nbd_link *link, uint8_t op);

/* Behind nbd_send_waiting(). */
void nbd_send_waiting_now(struct nbd_conn *conn);

/* Sends what waits and may go, in its order. */
static inline void nbd_send_waiting(struct nbd_conn *conn)
{
	conn->must_issue = false;
	if (conn->waiting.first)
		nbd_send_waiting_now(conn);
}

/* What waits is sent, goes over another connection, or fails: an outage is one when none works. */
void nbd_send_look(struct nbd_conn *conn);

/* All that waits ends with a negative errno. */
void nbd_send_fail(struct nbd_conn *conn, int32_t error);
/* Those that the server has answered in a way that cannot be used, again and again. */
void nbd_send_fail_wrong(struct nbd_conn *conn, const char *why);

#endif
