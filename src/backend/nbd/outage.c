/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An outage: since when no connection works, and what I/O ends with by then. */
#include "backend/nbd/outage.h"

#include <assert.h>
#include <errno.h>

#include "backend/nbd/link.h"
#include "base/loop.h"

int32_t nbd_outage_final_error(const struct nbd_conn *conn)
{
	if (conn->cancel_error)
		return conn->cancel_error;
	return atomic_load_explicit(&conn->be->has_failed, memory_order_acquire) ? -EIO : 0;
}

/* No server answers with ENOLINK: who mirrors can tell an outage by it. */
static int32_t outage_error(const struct nbd_conn *conn)
{
	return atomic_load_explicit(&conn->be->backend->is_destination, memory_order_relaxed) ?
		       -ENOLINK :
		       -EIO;
}

uint64_t nbd_outage_ms(const struct nbd_conn *conn)
{
	uint64_t since = atomic_load_explicit(&conn->be->quiet_since_ms, memory_order_acquire),
		 now = ub_now_ms();

	return since ? (now > since ? now - since : 1) : 0;
}

int32_t nbd_outage_offline_error(const struct nbd_conn *conn)
{
	uint64_t limit = conn->outage_limit_ms, over;
	int32_t error = nbd_outage_final_error(conn);

	if (error || conn->link || limit == NBD_NO_LIMIT)
		return error;
	over = nbd_outage_ms(conn);
	return over && over >= limit ? outage_error(conn) : 0;
}

void nbd_outage_arm(struct nbd_conn *conn)
{
	uint64_t limit = conn->outage_limit_ms, over = nbd_outage_ms(conn);

	if (!over || limit == NBD_NO_LIMIT)
		ub_timer_set(&conn->outage, 0);
	else
		ub_timer_set(&conn->outage, limit > over ? limit - over + 1 : 1);
}

/* An outage is one when no connection works. True: it begins. */
static bool outage_look(struct nbd_backend *be)
{
	bool begins = false, works = false;

	for (unsigned i = 0; i < be->nr_conns; i++)
		works |= nbd_conn_state(&be->conns[i]) == NBD_CONN_ONLINE;
	if (works) {
		atomic_store_explicit(&be->quiet_since_ms, 0, memory_order_release);
	} else if (!atomic_load_explicit(&be->quiet_since_ms, memory_order_relaxed)) {
		atomic_store_explicit(&be->quiet_since_ms, ub_now_ms(), memory_order_release);
		begins = true;
	}
	return begins;
}

void nbd_outage_note(struct nbd_backend *be)
{
	bool begins;

	pthread_mutex_lock(&be->works_lock);
	begins = outage_look(be);
	pthread_mutex_unlock(&be->works_lock);
	if (begins)
		nbd_conns_kick(be);
}

#define OUTAGE_MAY(state) (1U << NBD_CONN_##state)

void nbd_outage_set_state(struct nbd_conn *conn, enum nbd_conn_state to)
{
	static const uint8_t may[] = {
		[NBD_CONN_OFFLINE] = OUTAGE_MAY(ONLINE),
		[NBD_CONN_ONLINE] = OUTAGE_MAY(OFFLINE) | OUTAGE_MAY(STALLED),
		/* again: the link was asked for something of our own since, and is silent still */
		[NBD_CONN_STALLED] = OUTAGE_MAY(OFFLINE) | OUTAGE_MAY(ONLINE) | OUTAGE_MAY(STALLED),
	};
	const struct nbd_queue *nq = conn->home;
	unsigned nr = 0;
	bool begins;

	pthread_mutex_lock(&conn->be->works_lock);
	assert(may[nbd_conn_state(conn)] & 1U << to);
	atomic_store_explicit(&conn->state, (int)to, memory_order_release);
	begins = outage_look(conn->be);
	pthread_mutex_unlock(&conn->be->works_lock);
	for (unsigned i = 0; i < nq->nr_own; i++)
		nr += nbd_conn_state(nq->own[i]) == NBD_CONN_ONLINE;
	ub_stat_set(&nbd_conn_stats(conn)->nr_online, nr);
	if (begins)
		nbd_conns_kick(conn->be);
}
