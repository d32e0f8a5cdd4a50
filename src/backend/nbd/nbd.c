/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The NBD back end as the core sees it: the contract. The server's main thread, but for queues. */
#include "backend/nbd/nbd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ublk-bridge/page.h>

#include "backend/backend.h"
#include "backend/nbd/connector.h"
#include "backend/nbd/fence.h"
#include "backend/nbd/open.h"
#include "backend/nbd/reserve.h"
#include "backend/nbd/say.h"
#include "backend/nbd/send.h"
#include "backend/nbd/size.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"

/* ---- the back end as a whole --------------------------------------------- */

static unsigned nbd_get_paths(const struct ub_backend_config *cfg, char *paths[], unsigned max)
{
	struct nbd_options o;
	struct ub_err ignored;
	unsigned nr = 0;

	if (nbd_options_from_json(&o, cfg->options, &ignored) == 0)
		nr = nbd_address_paths(&o.address, paths, max);
	nbd_options_destroy(&o);
	return nr;
}

static int nbd_get_limits(struct ub_backend *backend, struct ub_limits *limits, struct ub_err *err)
{
	struct nbd_backend *be = backend->priv;

	(void)err;
	*limits = be->limits;
	limits->nr_queues = (uint8_t)be->nr_conns;
	return 0;
}

static int nbd_set_live(struct ub_backend *backend, struct ub_err *err)
{
	struct nbd_backend *be = backend->priv;
	int phase = NBD_ATTACHING;

	if (atomic_compare_exchange_strong(&be->phase, &phase, NBD_LIVE) || phase == NBD_LIVE)
		return 0;
	return ub_err_set(err, EIO, "%s: the server went away while the device was being attached",
			  be->server);
}

static void nbd_promote(struct ub_backend *backend)
{
	struct nbd_backend *be = backend->priv;

	atomic_store_explicit(&be->outage_limit_ms, be->options.outage_limit_ms,
			      memory_order_relaxed);
	atomic_store_explicit(&be->stall_timeout_ms, be->options.stall_timeout_ms,
			      memory_order_relaxed);
	nbd_conns_kick(be);
}

static void nbd_reset(struct ub_backend *backend)
{
	nbd_conns_reset(backend->priv);
}

static bool nbd_has_settled(struct ub_backend *backend)
{
	return nbd_fence_has_settled(backend->priv);
}

static void nbd_fenced(struct ub_backend *backend, uint64_t event)
{
	struct nbd_backend *be = backend->priv;
	unsigned nr = nbd_fence_word(be, event);

	if (nr)
		ub_log(UB_LOG_NOTICE,
		       "%s: %u ranges have ended: somebody knows that the old server writes no "
		       "more",
		       be->server, nr);
}

static uint64_t nbd_nr_losses(struct ub_backend *backend)
{
	const struct nbd_backend *be = backend->priv;

	return atomic_load_explicit(&be->nr_losses, memory_order_acquire);
}

static uint64_t nbd_latency_ns(struct ub_backend *backend)
{
	const struct nbd_backend *be = backend->priv;

	return atomic_load_explicit(&be->latency_ns, memory_order_relaxed);
}

static int nbd_take_socket(struct ub_backend *backend, int fd)
{
	struct nbd_backend *be = backend->priv;
	int old;

	if (!be->options.restarts) {
		close(fd);
		return -EPROTO;
	}
	old = atomic_exchange_explicit(&be->next_socket, fd, memory_order_acq_rel);
	ub_close(&old);
	nbd_wake_connector(be);
	return 0;
}

static int nbd_set(struct ub_backend *backend, const struct ub_settings *settings,
		   struct ub_err *err)
{
	struct nbd_backend *be = backend->priv;

	if (settings->which &
	    ~(uint32_t)(UB_SET_OUTAGE_LIMIT | UB_SET_STALL_TIMEOUT | UB_SET_FENCE_TIMEOUT))
		return ub_err_set(err, EOPNOTSUPP, "%s: no such setting", be->server);
	if ((settings->which & UB_SET_STALL_TIMEOUT) &&
	    settings->stall_timeout_ms < NBD_MIN_STALL_MS)
		return ub_err_set(err, ERANGE,
				  "stall-timeout: %llu ms is too short: %d ms is the least",
				  (unsigned long long)settings->stall_timeout_ms, NBD_MIN_STALL_MS);
	if (settings->which & UB_SET_OUTAGE_LIMIT)
		atomic_store_explicit(&be->outage_limit_ms, settings->outage_limit_ms,
				      memory_order_relaxed);
	if (settings->which & UB_SET_STALL_TIMEOUT)
		atomic_store_explicit(&be->stall_timeout_ms, settings->stall_timeout_ms,
				      memory_order_relaxed);
	if (settings->which & UB_SET_FENCE_TIMEOUT)
		nbd_fence_set_timeout(be, settings->fence_timeout_ms);
	nbd_conns_kick(be);
	return 0;
}

/* ---- queues -------------------------------------------------------------- */

static int nbd_queue_init(struct ub_backend_queue *bq, unsigned nr_slots, struct ub_err *err)
{
	struct nbd_backend *be = bq->backend->priv;
	struct nbd_queue *nq = calloc(1, sizeof(*nq));
	unsigned nr;

	bq->priv = nq;
	if (!nq)
		return ub_err_errno(err, ENOMEM, "queue %u of the NBD back end", bq->qid);
	if (be->nr_queues == UB_ARRAY_SIZE(be->queues))
		return ub_err_set(err, E2BIG,
				  "the NBD back end serves %u queues at the most: lower --queues",
				  be->nr_queues);
	nq->be = be;
	nq->bq = bq;
	nq->cmds = calloc(nr_slots, sizeof(*nq->cmds));
	nq->own = calloc(be->nr_conns, sizeof(struct nbd_conn *));
	if (!nq->cmds || !nq->own)
		return ub_err_errno(err, ENOMEM, "queue %u of the NBD back end", bq->qid);
	if (nbd_fence_init(be, nr_slots, err) != 0)
		return -err->code;
	be->depth = nr_slots > UB_INTERNAL_SLOTS ? nr_slots - UB_INTERNAL_SLOTS : nr_slots;
	for (unsigned i = 0; i < nr_slots; i++) {
		nq->cmds[i].be = be;
		nq->cmds[i].owner = bq->qid * nr_slots + i + 1;
		nq->cmds[i].rec = nbd_fence_record(be, bq->qid, i);
	}
	/* before any thread counts */
	ub_stat_set(&bq->backend->stats->nr_connections, be->nr_conns);
	nr = atomic_load_explicit(&be->nr_queues, memory_order_relaxed);
	be->queues[nr++] = nq;
	/* Right when the last queue is there, and that is before the first thread starts. */
	for (unsigned i = 0; i < be->nr_conns; i++)
		be->conns[i].home = be->queues[i % nr];
	atomic_store_explicit(&be->nr_queues, nr, memory_order_release);
	return 0;
}

static void nbd_queue_start(struct ub_backend_queue *bq)
{
	struct nbd_queue *nq = bq->priv;
	struct nbd_backend *be = nq->be;

	for (unsigned i = 0; i < be->nr_conns; i++) {
		if (be->conns[i].home == nq)
			nq->own[nq->nr_own++] = &be->conns[i];
	}
	nbd_reserve_allow(nq);
	nbd_conns_start(nq);
}

static void nbd_queue_destroy(struct ub_backend_queue *bq)
{
	struct nbd_queue *nq = bq->priv;

	if (!nq)
		return;
	nbd_connector_stop(nq->be); /* it posts to queues */
	free(nq->cmds);
	free(nq->own);
	free(nq);
	bq->priv = NULL;
}

static void nbd_stop(struct ub_backend *backend)
{
	nbd_connector_stop(backend->priv);
}

static void nbd_describe_outage(struct ub_backend *backend, char *buf, size_t len)
{
	nbd_say_describe_outage(backend->priv, buf, len);
}

/* ---- the end ------------------------------------------------------------- */

static void nbd_close_backend(struct ub_backend *backend)
{
	struct nbd_backend *be = backend->priv;

	if (!be)
		return;
	nbd_connector_stop(be);
	backend->priv = NULL;
	if (be->has_thread) {
		/* It comes back one day: to what is its own, and no more. */
		pthread_detach(be->thread);
		ub_host_forget_sockets(be->host, backend);
		if (!atomic_exchange(&be->is_over, true))
			return;
		nbd_connector_take_all(be);
	}
	nbd_connector_free(be);
}

const struct ub_backend_ops ub_backend_nbd = {
	.name = "nbd",
	.get_paths = nbd_get_paths,
	.open = nbd_open,
	.get_limits = nbd_get_limits,
	.get_identity = nbd_get_identity,
	.caps = UB_CAP_STATUS,
	.set_live = nbd_set_live,
	.promote = nbd_promote,
	.reset = nbd_reset,
	.has_settled = nbd_has_settled,
	.fenced = nbd_fenced,
	.nr_losses = nbd_nr_losses,
	.latency_ns = nbd_latency_ns,
	.stop = nbd_stop,
	.take_socket = nbd_take_socket,
	.set = nbd_set,
	.get_size = nbd_find_size,
	.resize = nbd_resize,
	.queue_init = nbd_queue_init,
	.queue_destroy = nbd_queue_destroy,
	.close = nbd_close_backend,
	.queue_start = nbd_queue_start,
	.submit = nbd_submit,
	.give_back = nbd_give_back,
	.describe_outage = nbd_describe_outage,
	.submit_end = nbd_submit_end,
	.cancel = nbd_cancel,
	.queue_stop = nbd_queue_stop,
};
