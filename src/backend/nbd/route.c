/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which conn a request goes to, where that is not plain: route.h. Queues' threads. */
#include "backend/nbd/route.h"

struct nbd_conn *nbd_route_any(const struct nbd_queue *nq)
{
	const struct nbd_backend *be = nq->be;

	for (unsigned i = 0; i < be->nr_conns; i++) {
		struct nbd_conn *conn = &be->conns[(nq->bq->qid + i) % be->nr_conns];

		if (nbd_conn_is_online(conn))
			return conn;
	}
	return NULL;
}

struct nbd_conn *nbd_route_flush(struct nbd_cmd *cmd)
{
	struct nbd_backend *be = cmd->be;

	for (unsigned i = 0; i < be->nr_conns && cmd->todo; i++) {
		struct nbd_conn *conn = &be->conns[i];

		if (!(cmd->todo & 1ULL << i))
			continue;
		if (!atomic_load_explicit(&conn->has_unflushed, memory_order_acquire))
			cmd->todo &= ~(1ULL << i); /* another one's FLUSH was there */
		else if (atomic_load_explicit(&conn->link_bytes, memory_order_acquire))
			return conn;
	}
	return NULL;
}

uint64_t nbd_route_flush_conns(const struct nbd_backend *be)
{
	uint64_t mask = 0;

	for (unsigned i = 0; i < be->nr_conns && be->nr_conns > 1; i++) {
		if (atomic_load_explicit(&be->conns[i].has_unflushed, memory_order_acquire))
			mask |= 1ULL << i;
	}
	return mask;
}
