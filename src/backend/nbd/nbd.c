/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The NBD back end as the core sees it: opening, limits, queues. The server's main thread. */
#include "backend/nbd/nbd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <ublk-bridge/page.h>

#include "backend/backend.h"
#include "base/cleanup.h"
#include "base/heap.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/text.h"

#define OPEN_ATTEMPT_MS		 15000
#define OPEN_PAUSE_MS		 200
#define OPEN_DEFAULT_CONNECTIONS 1
#define OPEN_DMA_ZONE_BYTES	 (16U << 20)
#define OPEN_MIN_FREE_BYTES	 (1U << 20) /* where the kernel does not say */
#define OPEN_MIN_SEND_BYTES	 (32U << 10)
#define SIZE_LINKS_MS		 10000
#define SIZE_PAUSE_MS		 10
/* of late_ms: one for an outage, the others until a stall is noticed */
#define OPEN_LATE_PARTS	 4
#define OPEN_SPARE_BYTES (1U << 20) /* commands in flight, TLS records, a handshake */

/* ---- opening ------------------------------------------------------------- */

/* Whether whoever asked for this device has gone, or wants it no more. */
static int open_check_cancelled(const struct nbd_backend *be, struct ub_err *err)
{
	struct pollfd fd = { .fd = be->cancel_fd, .events = POLLIN };

	if (be->cancel_fd >= 0 && poll(&fd, 1, 0) == 1)
		return ub_err_set(err, ECANCELED, "interrupted while the server was being reached");
	return 0;
}

/*
 * When memory is short, and how much of the rest may be in requests on their way, follows from the
 * setting that the page allocator's watermarks follow from.
 */
static void open_look_at_watermarks(struct nbd_backend *be)
{
	uint64_t min_free_bytes = OPEN_MIN_FREE_BYTES;
	char text[32];

	if (ub_text_read_file("/proc/sys/vm/min_free_kbytes", text, sizeof(text)) > 0)
		min_free_bytes = strtoull(text, NULL, 10) << 10;
	/*
	 * Above the watermark at which kswapd begins; the first 16 MiB are free and of no use on
	 * many machines.
	 */
	be->short_bytes = OPEN_DMA_ZONE_BYTES + min_free_bytes * 2;
	/*
	 * A real-time thread goes to half of the lowest watermark; half of that half for all
	 * connections.
	 */
	be->send_bytes = min_free_bytes / 4 / be->nr_conns;
	if (be->send_bytes < OPEN_MIN_SEND_BYTES)
		be->send_bytes = OPEN_MIN_SEND_BYTES;
}

/* Waits for a session to get ready. 0 or -errno with *err. */
static int open_finish_session(const struct nbd_backend *be, struct nbd_handle *handle,
			       struct ub_err *err)
{
	uint64_t deadline = ub_now_ms() + OPEN_ATTEMPT_MS;
	int ret = nbd_session_continue(handle, 0, err); /* a quick server's is ready already */

	while (ret == 0) {
		struct pollfd fds[2] = { { .fd = -1 }, { .fd = be->cancel_fd, .events = POLLIN } };
		uint64_t now = ub_now_ms();

		if (now >= deadline)
			return ub_err_set(err, ETIMEDOUT,
					  "cannot connect: the server did not negotiate within %d "
					  "s",
					  OPEN_ATTEMPT_MS / 1000);
		fds[0].fd = nbd_session_events(handle, &fds[0].events);
		if (poll(fds, 2, (int)(deadline - now)) < 0)
			continue;
		if (fds[1].revents)
			return open_check_cancelled(be, err);
		ret = nbd_session_continue(handle, fds[0].revents, err);
	}
	return ret < 0 ? ret : 0;
}

/* One attempt at one connection. */
static int open_connect(struct nbd_backend *be, int socket_fd, struct nbd_handle **out,
			struct nbd_export *export, struct ub_err *err)
{
	struct nbd_handle *handle = nbd_session_start(&be->options, socket_fd, err);
	int ret;

	if (!handle)
		return -err->code;
	ret = open_finish_session(be, handle, err);
	if (ret == 0)
		ret = nbd_session_export(handle, export, err);
	if (ret)
		nbd.close(handle);
	else
		*out = handle;
	return ret;
}

/* The first connection, from which everything is learned: tried for as long as --wait says. */
static int open_first(struct nbd_backend *be, int socket_fd, struct nbd_handle **handle,
		      struct ub_err *err)
{
	uint64_t deadline = ub_now_ms() + be->options.wait_ms;
	bool said = false;
	int ret;

	for (;;) {
		ret = open_connect(be, socket_fd, handle, &be->first, err);
		if (ret == 0 || ub_now_ms() >= deadline || be->options.transport == NBD_SOCKET)
			break;
		if (!said)
			ub_log(UB_LOG_NOTICE, "%s: %s; retrying", be->server, err->text);
		said = true;
		poll(&(struct pollfd){ .fd = be->cancel_fd, .events = POLLIN }, 1, OPEN_PAUSE_MS);
		ret = open_check_cancelled(be, err);
		if (ret)
			break;
	}
	return ret ? ub_err_wrap(err, "%s", be->server) : 0;
}

static int open_make_conns(struct nbd_backend *be, unsigned nr, struct ub_err *err)
{
	be->nr_conns = nr;
	open_look_at_watermarks(be); /* the first link's socket is bounded, too */
	be->conns = calloc(nr, sizeof(*be->conns));
	if (!be->conns)
		return ub_err_errno(err, ENOMEM, "%u connections", nr);
	for (unsigned i = 0; i < nr; i++) {
		be->conns[i].be = be;
		be->conns[i].index = i;
		be->conns[i].knock_fd = -1;
	}
	return 0;
}

static int open_conns(struct nbd_backend *be, struct nbd_handle *first, struct ub_err *err)
{
	unsigned wanted =
		be->options.nr_connections ? be->options.nr_connections : OPEN_DEFAULT_CONNECTIONS;
	unsigned nr = be->first.multi_conn && be->options.transport != NBD_SOCKET ? wanted : 1;
	int ret;

	if (nr < wanted)
		ub_log(UB_LOG_NOTICE, "%s: one connection is used, not %u: %s", be->server, wanted,
		       be->first.multi_conn ?
			       "there is only one socket" :
			       "the server does not say that several are safe (multi-conn)");
	ret = open_make_conns(be, nr, err);
	if (ret) {
		nbd.close(first);
		return ret;
	}
	be->conns[0].given = nbd_link_create(&be->conns[0], first, &be->first);
	return be->conns[0].given ? 0 : ub_err_errno(err, ENOMEM, "the first connection");
}

/*
 * The others. Those that cannot be made now are tried again later; what the server says must agree.
 */
static int open_others(struct nbd_backend *be, struct ub_err *err)
{
	struct nbd_handle *handle = NULL;
	struct nbd_export export = { 0 };
	int ret;

	for (unsigned i = 1; i < be->nr_conns; i++) {
		ret = open_connect(be, -1, &handle, &export, err);
		if (ret == -ECANCELED)
			return ret;
		if (ret) {
			ub_log(UB_LOG_WARNING, "%s: connection %u of %u: %s; retrying", be->server,
			       i + 1, be->nr_conns, err->text);
			return 0;
		}
		ret = nbd_export_compare(&be->first, &export, &be->limits, be->nr_conns, err);
		if (ret) {
			nbd.close(handle);
			return ub_err_wrap(err, "%s: connection %u", be->server, i + 1);
		}
		be->conns[i].given = nbd_link_create(&be->conns[i], handle, &export);
	}
	return 0;
}

static unsigned nbd_get_paths(const struct ub_backend_config *cfg, char *paths[], unsigned max)
{
	struct nbd_options o;
	struct ub_err ignored;
	unsigned nr = 0;

	if (nbd_options_from_json(&o, cfg->options, &ignored) == 0)
		nr = nbd_options_paths(&o, paths, max);
	nbd_options_destroy(&o);
	return nr;
}

/*
 * What making all connections again takes is in the heap before it is needed: the old ones may
 * still be there when the new ones are made. How much that is has just been seen; certificates make
 * it megabytes. heap: of ub_heap_keep() before the first one was made; NULL: be->heap_bytes says
 * it.
 */
static int open_reserve(struct nbd_backend *be, const void *heap, struct ub_err *err)
{
	if (heap)
		be->heap_bytes = ub_heap_growth(heap) + OPEN_SPARE_BYTES;
	if (ub_heap_reserve(be->heap_bytes) < 0)
		return ub_err_errno(err, ENOMEM, "%s: memory for making connections again",
				    be->server);
	nbd_library_lock();
	return 0;
}

static int open_new(struct nbd_backend *be, const struct ub_backend_config *cfg, const void *heap,
		    struct ub_err *err)
{
	int socket_fd = cfg->fd >= 0 ? fcntl(cfg->fd, F_DUPFD_CLOEXEC, 0) : -1;
	struct nbd_handle *handle = NULL;
	int ret = open_first(be, socket_fd, &handle, err);

	if (ret == 0)
		ret = open_conns(be, handle, err);
	if (ret == 0)
		ret = nbd_export_limits(&be->first, cfg->logical_block_bytes, &be->limits, err);
	if (ret)
		return ret;
	be->limits.read_only |= cfg->read_only;
	ret = open_others(be, err);
	return ret ? ret : open_reserve(be, heap, err);
}

/*
 * For a device that has been live with another server process: nothing is connected before its
 * queues run, and what answers then must be what it was made from.
 */
static int open_again(struct nbd_backend *be, const struct ub_backend_config *cfg,
		      struct ub_err *err)
{
	json_t *identity = json_loads(cfg->identity, 0, NULL);
	json_int_t nr_conns = 0, heap_bytes = 0;
	json_t *export;
	int ret;

	if (json_unpack(identity, "{s:I, s:I, s:o}", "connections", &nr_conns, "heap_bytes",
			&heap_bytes, "export", &export) < 0 ||
	    nr_conns < 1 || nr_conns > NBD_MAX_CONNECTIONS)
		ret = ub_err_set(err, EBADMSG,
				 "%s: what is known of the export cannot be understood",
				 be->server);
	else
		ret = nbd_export_from_json(&be->first, export, err);
	json_decref(identity);
	if (ret == 0)
		ret = nbd_export_limits(&be->first, cfg->logical_block_bytes, &be->limits, err);
	if (ret == 0)
		ret = open_make_conns(be, (unsigned)nr_conns, err);
	if (ret)
		return ret;
	be->limits.read_only |= cfg->read_only;
	if (cfg->size_bytes) /* it may have been given another one since */
		be->limits.size_bytes = cfg->size_bytes;
	be->is_recovered = true;
	be->phase = NBD_LIVE;
	be->heap_bytes = (size_t)heap_bytes;
	return open_reserve(be, NULL, err);
}

static char *nbd_get_identity(struct ub_backend *backend)
{
	struct nbd_backend *be = backend->priv;
	json_t *json =
		json_pack("{s:I, s:I, s:o}", "connections", (json_int_t)be->nr_conns, "heap_bytes",
			  (json_int_t)be->heap_bytes, "export", nbd_export_to_json(&be->first));
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	return text;
}

/* The larger part of it is for being noticed, the rest for a connection that is made again. */
static uint64_t open_late_stall_ms(uint64_t late_ms)
{
	uint64_t ms = late_ms - late_ms / OPEN_LATE_PARTS;

	return ms < NBD_MIN_STALL_MS ? NBD_MIN_STALL_MS : ms;
}

static int nbd_open(struct ub_backend *backend, const struct ub_backend_config *cfg,
		    struct ub_err *err)
{
	const void *heap = ub_heap_keep();
	struct nbd_backend *be = calloc(1, sizeof(*be));
	int ret;

	if (!be)
		return ub_err_errno(err, ENOMEM, "the NBD back end");
	backend->priv = be;
	be->backend = backend;
	be->host = backend->host;
	be->cancel_fd = cfg->cancel_fd;
	be->nr_config_queues = cfg->nr_queues ? cfg->nr_queues : 1;
	pthread_mutex_init(&be->fence_lock, NULL);
	pthread_mutex_init(&be->works_lock, NULL);
	pthread_mutex_init(&be->outage_lock, NULL);
	be->next_socket = be->wake_fd = -1;
	ret = nbd_options_from_json(&be->options, cfg->options, err);
	if (ret == 0 && cfg->more_options)
		ret = nbd_options_add_json(&be->options, cfg->more_options, err);
	if (ret == 0)
		ret = nbd_library_load(err);
	if (ret)
		return ret;
	atomic_init(&be->outage_limit_ms,
		    cfg->late_ms ? cfg->late_ms / OPEN_LATE_PARTS : be->options.outage_limit_ms);
	atomic_init(&be->fence_timeout_ms, be->options.fence_timeout_ms);
	atomic_init(&be->stall_timeout_ms,
		    cfg->late_ms ? open_late_stall_ms(cfg->late_ms) : be->options.stall_timeout_ms);
	nbd_options_describe(&be->options, be->server, sizeof(be->server));
	be->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (be->wake_fd < 0)
		return ub_err_errno(err, errno, "an event descriptor");
	ret = cfg->identity ? open_again(be, cfg, err) : open_new(be, cfg, heap, err);
	if (ret)
		return ret;
	atomic_init(&be->size_bytes, be->limits.size_bytes);
	atomic_init(&be->wanted_bytes, be->limits.size_bytes);
	return nbd_connector_start(be, err);
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
	nbd_engine_kick_all(be);
}

static void nbd_reset(struct ub_backend *backend)
{
	nbd_engine_reset(backend->priv);
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
	nbd_connector_wake(be);
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
	nbd_engine_kick_all(be);
	return 0;
}

/* ---- another size -------------------------------------------------------- */

/* Asks the export over a connection of its own: a server tells each its size once. */
static int size_ask(struct nbd_backend *be, uint64_t *size_bytes, struct ub_err *err)
{
	struct ub_limits limits = be->limits;
	struct nbd_handle *handle = NULL;
	struct nbd_export now = { 0 };
	int ret = open_connect(be, -1, &handle, &now, err);

	if (ret)
		return ret;
	nbd.aio_disconnect(handle, 0);
	nbd.close(handle);
	limits.size_bytes = 0; /* that it has become smaller is for others to judge */
	ret = nbd_export_compare(&be->first, &now, &limits, be->nr_conns, err);
	*size_bytes = now.size_bytes;
	return ret;
}

static int nbd_find_size(struct ub_backend *backend, uint64_t *size_bytes, struct ub_err *err)
{
	struct nbd_backend *be = backend->priv;
	uint64_t seen = atomic_load_explicit(&be->seen_bytes, memory_order_relaxed);
	int ret = 0;

	*size_bytes = seen;
	if (be->options.transport != NBD_SOCKET)
		ret = size_ask(be, size_bytes, err);
	if (ret == -ETIMEDOUT)
		ret = ub_err_set(err, ETIMEDOUT,
				 "it did not answer another connection within %d s: perhaps it "
				 "takes one client at a time "
				 "(qemu-nbd -e 2 takes two)",
				 OPEN_ATTEMPT_MS / 1000);
	/* One that takes no other connection has told the last one that it took. */
	if (ret && ret != -ECANCELED && ret != -ESTALE && seen > atomic_load(&be->size_bytes)) {
		*size_bytes = seen;
		ret = 0;
	}
	*size_bytes -= *size_bytes % be->limits.logical_block_bytes;
	return ret ? ub_err_wrap(err, "%s", be->server) : 0;
}

/* The first connection that does not know of so many bytes; nr_conns: they all do. */
static unsigned size_find_old(const struct nbd_backend *be, uint64_t size_bytes)
{
	unsigned i = 0;

	while (i < be->nr_conns &&
	       atomic_load_explicit(&be->conns[i].link_bytes, memory_order_acquire) >= size_bytes)
		i++;
	return i;
}

/*
 * A server refuses what lies behind the size that it told a connection: those are made again, one
 * for one.
 */
static int size_renew_links(struct nbd_backend *be, uint64_t size_bytes, struct ub_err *err)
{
	uint64_t deadline = ub_now_ms() + SIZE_LINKS_MS;
	unsigned old;
	int ret = 0;

	nbd_connector_wake(be);
	while (ret == 0 && (old = size_find_old(be, size_bytes)) < be->nr_conns) {
		if (ub_now_ms() >= deadline)
			return ub_err_set(err, EAGAIN,
					  "%s: connection %u of %u could not be made again, and "
					  "knows the old size of the export "
					  "only: try again, or restart the server",
					  be->server, old + 1, be->nr_conns);
		poll(&(struct pollfd){ .fd = be->cancel_fd, .events = POLLIN }, 1, SIZE_PAUSE_MS);
		ret = open_check_cancelled(be, err);
	}
	return ret;
}

static int nbd_resize(struct ub_backend *backend, uint64_t size_bytes, uint32_t flags,
		      struct ub_err *err)
{
	struct nbd_backend *be = backend->priv;
	int ret = 0;

	(void)flags;
	atomic_store_explicit(&be->wanted_bytes, size_bytes, memory_order_release);
	if (size_bytes > atomic_load(&be->size_bytes))
		ret = size_renew_links(be, size_bytes, err);
	if (ret)
		atomic_store_explicit(&be->wanted_bytes, atomic_load(&be->size_bytes),
				      memory_order_release);
	else
		atomic_store_explicit(&be->size_bytes, size_bytes, memory_order_release);
	return ret;
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

/* Whether this thread may become a real-time one, tried while it does no harm. */
static void queue_allow_reserve(struct nbd_queue *nq)
{
	int ret = nbd_thread_use_reserve(true);

	if (ret == 0)
		ret = nbd_thread_use_reserve(false);
	nq->may_use_reserve = ret == 0;
	if (ret < 0)
		ub_log(UB_LOG_WARNING,
		       "%s: no real-time priority (%s; it needs CAP_SYS_NICE): when memory runs "
		       "out, swap and "
		       "write-back through this device may hang",
		       nq->be->server, strerror(-ret));
}

static void nbd_queue_start(struct ub_backend_queue *bq)
{
	struct nbd_queue *nq = bq->priv;
	struct nbd_backend *be = nq->be;

	for (unsigned i = 0; i < be->nr_conns; i++) {
		if (be->conns[i].home == nq)
			nq->own[nq->nr_own++] = &be->conns[i];
	}
	queue_allow_reserve(nq);
	nbd_engine_start(nq);
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

static void nbd_submit(struct ub_backend_queue *bq, struct ub_io *io)
{
	nbd_engine_submit(bq->priv, io);
}

static void nbd_give_back(struct ub_backend_queue *bq, const struct ub_io *io)
{
	nbd_engine_give_back(bq->priv, io);
}

static void nbd_submit_end(struct ub_backend_queue *bq)
{
	nbd_engine_submit_end(bq->priv);
}

static bool nbd_queue_stop(struct ub_backend_queue *bq)
{
	return nbd_engine_leave(bq->priv);
}

static void nbd_stop(struct ub_backend *backend)
{
	nbd_connector_stop(backend->priv);
}

static void nbd_describe_outage(struct ub_backend *backend, char *buf, size_t len)
{
	nbd_connector_describe_outage(backend->priv, buf, len);
}

static void nbd_cancel(struct ub_backend_queue *bq, int err)
{
	nbd_engine_cancel(bq->priv, err);
}

/* ---- the end ------------------------------------------------------------- */

static void close_links(struct nbd_link *link)
{
	while (link) {
		struct nbd_link *next = link->next;

		nbd_link_free(link);
		link = next;
	}
}

void nbd_backend_free(struct nbd_backend *be)
{
	int fd = atomic_exchange_explicit(&be->next_socket, -1, memory_order_acq_rel);

	ub_close(&fd);
	for (unsigned i = 0; i < be->nr_conns && be->conns; i++) {
		struct nbd_conn *conn = &be->conns[i];

		if (conn->attempt.handle)
			nbd.close(conn->attempt.handle);
		ub_close(&conn->knock_fd);
		if (!conn->given)
			continue;
		/* a last word, if it can be said at once */
		nbd.aio_disconnect(conn->given->handle, 0);
		if (conn->given->replaced)
			nbd_link_free(conn->given->replaced);
		nbd_link_free(conn->given);
	}
	close_links(be->ended);
	free(be->own_ledger);
	pthread_mutex_destroy(&be->fence_lock);
	pthread_mutex_destroy(&be->works_lock);
	pthread_mutex_destroy(&be->outage_lock);
	free(be->conns);
	ub_close(&be->wake_fd);
	nbd_options_destroy(&be->options);
	free(be);
}

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
	nbd_backend_free(be);
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
