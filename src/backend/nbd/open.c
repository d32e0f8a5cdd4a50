/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening: the first connections, and what is learned from them. The server's main thread, before
 * the queues run, or while they do.
 */
#include "backend/nbd/open.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "backend/nbd/connector.h"
#include "backend/nbd/library.h"
#include "backend/nbd/reserve.h"
#include "base/heap.h"
#include "base/log.h"
#include "base/loop.h"

#define OPEN_PAUSE_MS		 200
#define OPEN_DEFAULT_CONNECTIONS 1
/* of late_ms: one for an outage, the others until a stall is noticed */
#define OPEN_LATE_PARTS 4

int nbd_open_check_cancelled(const struct nbd_backend *be, struct ub_err *err)
{
	struct pollfd fd = { .fd = be->cancel_fd, .events = POLLIN };

	if (be->cancel_fd >= 0 && poll(&fd, 1, 0) == 1)
		return ub_err_set(err, ECANCELED, "interrupted while the server was being reached");
	return 0;
}

/* Waits for a session to get ready. 0 or -errno with *err. */
static int open_finish_session(const struct nbd_backend *be, struct nbd_handle *handle,
			       struct ub_err *err)
{
	uint64_t deadline = ub_now_ms() + NBD_OPEN_ATTEMPT_MS;
	int ret = nbd_session_continue(handle, 0, err); /* a quick server's is ready already */

	while (ret == 0) {
		struct pollfd fds[2] = { { .fd = -1 }, { .fd = be->cancel_fd, .events = POLLIN } };
		uint64_t now = ub_now_ms();

		if (now >= deadline)
			return ub_err_set(err, ETIMEDOUT,
					  "cannot connect: the server did not negotiate within %d "
					  "s",
					  NBD_OPEN_ATTEMPT_MS / 1000);
		fds[0].fd = nbd_session_events(handle, &fds[0].events);
		if (poll(fds, 2, (int)(deadline - now)) < 0)
			continue;
		if (fds[1].revents)
			return nbd_open_check_cancelled(be, err);
		ret = nbd_session_continue(handle, fds[0].revents, err);
	}
	return ret < 0 ? ret : 0;
}

int nbd_open_connect(struct nbd_backend *be, int socket_fd, struct nbd_handle **out,
		     struct nbd_export *export, struct ub_err *err)
{
	struct nbd_handle *handle = nbd_session_start(&be->options.address,
						      nbd_connector_engine(&be->options.address)
							      ->wants_structured_replies,
						      socket_fd, err);
	int ret;

	if (!handle)
		return -err->code;
	ret = open_finish_session(be, handle, err);
	if (ret == 0)
		ret = nbd_session_export(handle, export, err);
	if (ret)
		nbd_session_close(handle, false);
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
		ret = nbd_open_connect(be, socket_fd, handle, &be->first, err);
		if (ret == 0 || ub_now_ms() >= deadline ||
		    be->options.address.transport == NBD_SOCKET)
			break;
		if (!said)
			ub_log(UB_LOG_NOTICE, "%s: %s; retrying", be->server, err->text);
		said = true;
		poll(&(struct pollfd){ .fd = be->cancel_fd, .events = POLLIN }, 1, OPEN_PAUSE_MS);
		ret = nbd_open_check_cancelled(be, err);
		if (ret)
			break;
	}
	return ret ? ub_err_wrap(err, "%s", be->server) : 0;
}

static int open_make_conns(struct nbd_backend *be, unsigned nr, struct ub_err *err)
{
	be->nr_conns = nr;
	nbd_reserve_read_watermarks(be); /* the first link's socket is bounded, too */
	be->conns = calloc(nr, sizeof(*be->conns));
	if (!be->conns)
		return ub_err_errno(err, ENOMEM, "%u connections", nr);
	for (unsigned i = 0; i < nr; i++)
		nbd_conn_init(&be->conns[i], be, i);
	return 0;
}

static int open_conns(struct nbd_backend *be, struct nbd_handle *first, struct ub_err *err)
{
	unsigned wanted =
		be->options.nr_connections ? be->options.nr_connections : OPEN_DEFAULT_CONNECTIONS;
	unsigned nr =
		be->first.multi_conn && be->options.address.transport != NBD_SOCKET ? wanted : 1;
	int ret;

	if (nr < wanted)
		ub_log(UB_LOG_NOTICE, "%s: one connection is used, not %u: %s", be->server, wanted,
		       be->first.multi_conn ?
			       "there is only one socket" :
			       "the server does not say that several are safe (multi-conn)");
	ret = open_make_conns(be, nr, err);
	if (ret) {
		nbd_session_close(first, false);
		return ret;
	}
	be->conns[0].given =
		nbd_link_create(&be->conns[0], nbd_connector_engine(&be->options.address), first,
				&be->first);
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
		ret = nbd_open_connect(be, -1, &handle, &export, err);
		if (ret == -ECANCELED)
			return ret;
		if (ret) {
			ub_log(UB_LOG_WARNING, "%s: connection %u of %u: %s; retrying", be->server,
			       i + 1, be->nr_conns, err->text);
			return 0;
		}
		ret = nbd_export_compare(&be->first, &export, &be->limits, be->nr_conns, err);
		if (ret) {
			nbd_session_close(handle, false);
			return ub_err_wrap(err, "%s: connection %u", be->server, i + 1);
		}
		be->conns[i].given =
			nbd_link_create(&be->conns[i], nbd_connector_engine(&be->options.address),
					handle, &export);
	}
	return 0;
}

/* What is needed later is there from now on: memory, and libnbd in it. */
static int open_reserve(struct nbd_backend *be, const void *heap, struct ub_err *err)
{
	int ret = nbd_reserve_heap(be, heap, err);

	if (ret == 0)
		nbd_library_lock();
	return ret;
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

char *nbd_get_identity(struct ub_backend *backend)
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

int nbd_open(struct ub_backend *backend, const struct ub_backend_config *cfg, struct ub_err *err)
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
	nbd_address_describe(&be->options.address, be->server, sizeof(be->server));
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
