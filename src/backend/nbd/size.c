/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Another size: what the export has, and connections that know of it. The main thread. */
#include "backend/nbd/size.h"

#include <errno.h>
#include <poll.h>

#include "backend/nbd/open.h"
#include "base/loop.h"

#define SIZE_LINKS_MS 10000
#define SIZE_PAUSE_MS 10

/* Asks the export over a connection of its own: a server tells each its size once. */
static int size_ask(struct nbd_backend *be, uint64_t *size_bytes, struct ub_err *err)
{
	struct ub_limits limits = be->limits;
	struct nbd_handle *handle = NULL;
	struct nbd_export now = { 0 };
	int ret = nbd_open_connect(be, -1, &handle, &now, err);

	if (ret)
		return ret;
	nbd_session_close(handle, true);
	limits.size_bytes = 0; /* that it has become smaller is for others to judge */
	ret = nbd_export_compare(&be->first, &now, &limits, be->nr_conns, err);
	*size_bytes = now.size_bytes;
	return ret;
}

int nbd_find_size(struct ub_backend *backend, uint64_t *size_bytes, struct ub_err *err)
{
	struct nbd_backend *be = backend->priv;
	uint64_t seen = atomic_load_explicit(&be->seen_bytes, memory_order_relaxed);
	int ret = 0;

	*size_bytes = seen;
	if (be->options.address.transport != NBD_SOCKET)
		ret = size_ask(be, size_bytes, err);
	if (ret == -ETIMEDOUT)
		ret = ub_err_set(err, ETIMEDOUT,
				 "it did not answer another connection within %d s: perhaps it "
				 "takes one client at a time "
				 "(qemu-nbd -e 2 takes two)",
				 NBD_OPEN_ATTEMPT_MS / 1000);
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

	nbd_wake_connector(be);
	while (ret == 0 && (old = size_find_old(be, size_bytes)) < be->nr_conns) {
		if (ub_now_ms() >= deadline)
			return ub_err_set(err, EAGAIN,
					  "%s: connection %u of %u could not be made again, and "
					  "knows the old size of the export "
					  "only: try again, or restart the server",
					  be->server, old + 1, be->nr_conns);
		poll(&(struct pollfd){ .fd = be->cancel_fd, .events = POLLIN }, 1, SIZE_PAUSE_MS);
		ret = nbd_open_check_cancelled(be, err);
	}
	return ret;
}

int nbd_resize(struct ub_backend *backend, uint64_t size_bytes, uint32_t flags, struct ub_err *err)
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
