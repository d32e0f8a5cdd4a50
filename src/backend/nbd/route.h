/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which conn a request goes to: of its own queue's those that work and have the least to do, then
 * any other that works, and else one where it waits. Queues' threads; what every request passes is
 * inline.
 */
#ifndef UB_BACKEND_NBD_ROUTE_H
#define UB_BACKEND_NBD_ROUTE_H

#include <assert.h>

#include "backend/nbd/nbd.h"

/* Any conn that works, of whichever queue; NULL: none does. */
struct nbd_conn *nbd_route_any(const struct nbd_queue *nq);

/*
 * The next conn that a FLUSH has to be sent to, because changes were answered there; NULL: there is
 * none. An offline one has nothing to flush, and would keep it for as long as it is so.
 */
struct nbd_conn *nbd_route_flush(struct nbd_cmd *cmd);

/* Those conns that have answered changes which a FLUSH has to cover: a bit for each. */
uint64_t nbd_route_flush_conns(const struct nbd_backend *be);

/* The conn of this queue that works and has the least to do; NULL: none works. */
static inline struct nbd_conn *nbd_route_own(const struct nbd_queue *nq)
{
	struct nbd_conn *best = NULL;

	for (unsigned i = 0; i < nq->nr_own; i++) {
		struct nbd_conn *conn = nq->own[i];

		if (conn->link && nbd_link_state(conn->link) < NBD_LINK_FAILING &&
		    nbd_conn_state(conn) == NBD_CONN_ONLINE &&
		    (!best || conn->link->nr_in_flight < best->link->nr_in_flight))
			best = conn;
	}
	return best;
}

/*
 * It has been wherever it had to be, and nothing was lost since it was last sent: then that one
 * covered what is left.
 */
static inline bool nbd_flush_is_done(const struct nbd_cmd *cmd)
{
	return cmd->was_flushed &&
	       cmd->losses == atomic_load_explicit(&cmd->be->nr_losses, memory_order_acquire);
}

/*
 * Where a request goes. NULL: it is a FLUSH that has been wherever it had to be. A FLUSH goes to
 * every conn that has answered changes: what stands behind one of them may have died, and be
 * another one's by now, and nobody could tell.
 */
static inline struct nbd_conn *nbd_route(const struct nbd_queue *nq, struct nbd_cmd *cmd)
{
	struct nbd_conn *conn = __builtin_expect(cmd->todo != 0, 0) ? nbd_route_flush(cmd) : NULL;

	if (!conn && nbd_flush_is_done(cmd))
		return NULL;
	if (!conn)
		conn = nbd_route_own(nq);
	if (!conn)
		conn = nbd_route_any(nq);
	if (!conn)
		conn = nq->nr_own ? nq->own[0] : &nq->be->conns[nq->bq->qid % nq->be->nr_conns];
	assert(conn);
	return conn;
}

#endif
