/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making and ending a link, and what threads tell each other. */
#include "backend/nbd/link.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "backend/nbd/nbd.h"
#include "base/log.h"
#include "base/loop.h"

/* ---- its life ------------------------------------------------------------ */

struct nbd_link *nbd_link_create(struct nbd_conn *conn, const struct nbd_engine *engine,
				 struct nbd_handle *handle, const struct nbd_export *export)
{
	const struct nbd_wire wire = { .handle = handle, .fd = nbd_session_fd(handle) };
	struct nbd_link *link = calloc(1, sizeof(*link));
	int fd = dup(wire.fd);

	if (link) {
		link->engine = engine;
		link->is_tls = export->has_tls;
		link->has_structured_replies = export->has_structured_replies;
	}
	if (!link || fd < 0 || engine->take(link, &wire) != 0) {
		free(link);
		if (fd >= 0)
			close(fd);
		nbd_session_close(handle, false);
		return NULL;
	}
	link->conn = conn;
	link->fd = fd;
	link->has_status = export->can_status;
	link->max_payload_bytes = export->max_payload_bytes;
	link->size_bytes = export->size_bytes;
	atomic_store_explicit(&conn->be->seen_bytes, export->size_bytes, memory_order_relaxed);
	link->made_ms = ub_now_ms();
	link->entry = -1;
	link->kind = ub_socket_kind(fd);
	if (link->kind == UB_CONN_TCP)
		ub_socket_get_ends(fd, &link->ends);
	nbd_session_tune(fd, nbd_stall_ms(conn->be), conn->be->send_bytes);
	link->held_id = ub_backend_hold_socket(conn->be->backend, fd);
	atomic_store_explicit(&conn->be->latency_ns, nbd_session_latency_ns(fd),
			      memory_order_relaxed);
	return link;
}

void nbd_link_free(struct nbd_link *link)
{
	link->engine->close(link);
	ub_host_drop_socket(link->conn->be->host, link->held_id);
	close(link->fd);
	free(link);
}

#define LINK_MAY(state) (1U << NBD_LINK_##state)

void nbd_link_set_state(struct nbd_link *link, enum nbd_link_state to)
{
	static const uint8_t may[] = {
		[NBD_LINK_NEW] = LINK_MAY(LIVE) | LINK_MAY(UNUSED),
		[NBD_LINK_LIVE] = LINK_MAY(LEAVING) | LINK_MAY(DRAINING) | LINK_MAY(FAILING),
		/* again: for the next one that waits */
		[NBD_LINK_LEAVING] = LINK_MAY(LEAVING) | LINK_MAY(DRAINING) | LINK_MAY(FAILING),
		[NBD_LINK_DRAINING] = LINK_MAY(FAILING),
		[NBD_LINK_FAILING] = LINK_MAY(RETIRED),
		[NBD_LINK_UNUSED] = 0,
		[NBD_LINK_RETIRED] = LINK_MAY(FENCED),
		[NBD_LINK_FENCED] = LINK_MAY(RETIRED),
	};

	assert(may[nbd_link_state(link)] & 1U << to);
	atomic_store_explicit(&link->state, (int)to, memory_order_release);
}

void nbd_link_fail(struct nbd_link *link, const char *why)
{
	if (nbd_link_state(link) >= NBD_LINK_FAILING)
		return;
	nbd_link_set_state(link, NBD_LINK_FAILING);
	snprintf(link->why, sizeof(link->why), "%s", why);
}

void nbd_link_ended(struct nbd_link *link, const char *why, bool is_wrong)
{
	link->is_wrong = is_wrong;
	nbd_link_fail(link, why);
}

void nbd_link_look_at_end(struct nbd_link *link)
{
	link->is_closed_by_peer |= ub_socket_is_closed_by_peer(link->fd, link->kind);
}

bool nbd_link_has_unflushed(const struct nbd_link *link)
{
	return link->answered_bytes != link->flushed_bytes && link->conn->be->limits.can_flush;
}

bool nbd_link_has_work(const struct nbd_link *link)
{
	for (const struct nbd_cmd *cmd = link->in_flight.first; cmd; cmd = cmd->next) {
		if (nbd_op_changes(cmd->io->op) || cmd->io->op == UB_OP_FLUSH)
			return true;
	}
	return false;
}

/* ---- mailboxes ----------------------------------------------------------- */

void nbd_wake_connector(struct nbd_backend *be)
{
	if (eventfd_write(be->wake_fd, 1) < 0)
		ub_log(UB_LOG_DEBUG, "the connector cannot be woken: %s", strerror(errno));
}

void nbd_link_retire(struct nbd_link *link)
{
	struct nbd_backend *be = link->conn->be;
	struct nbd_link *head = atomic_load_explicit(&be->retired, memory_order_relaxed);

	do {
		link->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&be->retired, &head, link,
							memory_order_release,
							memory_order_relaxed));
	nbd_wake_connector(be);
}

struct nbd_link *nbd_link_take_retired(struct nbd_backend *be)
{
	struct nbd_link *link = atomic_exchange_explicit(&be->retired, NULL, memory_order_acquire);
	struct nbd_link *oldest = NULL;

	while (link) {
		struct nbd_link *next = link->next;

		link->next = oldest;
		oldest = link;
		link = next;
	}
	return oldest;
}

void nbd_conn_kick(struct nbd_conn *conn)
{
	if (!conn->home || atomic_exchange_explicit(&conn->is_kicked, true, memory_order_acq_rel))
		return;
	ub_queue_post(conn->home->bq->queue, &conn->kick_msg);
}

void nbd_conns_kick(struct nbd_backend *be)
{
	for (unsigned i = 0; i < be->nr_conns; i++)
		nbd_conn_kick(&be->conns[i]);
}
