/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From CONFIG to LIVE. The server's main thread. */
#include "server/serve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ublk-bridge/ledger.h>

#include "backend/backend.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/step.h"
#include "base/title.h"
#include "server/isolate.h"
#include "server/mounts.h"
#include "server/resize.h"
#include "server/state.h"
#include "server/visitor.h"
#include "ublk/params.h"

/* ---- CONFIG -------------------------------------------------------------- */

/* What the next server is to know of what was opened goes with the limits. */
static int serve_send_limits(struct server *s, struct ub_err *err)
{
	cleanup_free char *identity = ub_backend_get_identity(s->backend);
	size_t text_bytes = identity ? strlen(identity) + 1 : 0;
	struct ub_msg_limits *reply = calloc(1, sizeof(*reply) + text_bytes);
	cleanup_free void *free_reply = reply;
	int ret;

	if (!identity || !reply)
		return ub_err_errno(err, ENOMEM, "the message to the keeper");
	reply->header.type = UB_MSG_LIMITS;
	reply->header.len_bytes = (uint32_t)(sizeof(*reply) + text_bytes);
	reply->limits = s->backend->limits;
	reply->caps = s->backend->ops->caps;
	memcpy(reply->identity, identity, text_bytes);
	ret = ub_message_send(s->keeper_fd, &reply->header, NULL, 0, 0);
	return ret ? ub_err_errno(err, -ret, "the message to the keeper") : 0;
}

int ub_serve_configure(struct server *s, struct ub_msg_config *msg, int fds[], struct ub_err *err)
{
	const char *identity = ub_message_string(&msg->header, sizeof(*msg), 1);
	struct ub_backend_config cfg = { .kind = msg->kind, .options = msg->options };
	int ret;

	if (!identity)
		return ub_err_set(err, EPROTO, "an unexpected CONFIG message");
	msg->kind[sizeof(msg->kind) - 1] = '\0';
	ub_log_set_level(msg->log_level);
	ub_isolate_core_dump(msg->core_dump);
	s->store_fd = msg->has_fd ? ub_steal_fd(&fds[0]) : -1;
	cfg.size_bytes = msg->size_bytes;
	cfg.logical_block_bytes = msg->logical_block_bytes;
	cfg.nr_queues = msg->nr_queues;
	cfg.read_only = msg->read_only;
	cfg.fd = s->store_fd;
	cfg.cancel_fd = s->keeper_fd;
	cfg.host = &s->host.host;
	cfg.identity = *identity ? identity : NULL;
	ub_mounts_drop(&cfg);
	ret = ub_isolate_lock_memory(err);
	if (ret == 0)
		ret = ub_backend_open(s->backend, &cfg, err);
	if (ret)
		return ret;
	s->phase = SERVER_OPEN;
	return serve_send_limits(s, err);
}

/* ---- SERVE, and what the queues say from then on ------------------------- */

static int serve_map_stats(struct server *s, unsigned nr_queues, struct ub_err *err)
{
	int fd = s->stats_fd;
	struct stat st;
	int ret = 0;

	s->stats_bytes = ub_stats_bytes(nr_queues);
	if (fstat(fd, &st) < 0 || (size_t)st.st_size < s->stats_bytes)
		return ub_err_set(err, EPROTO, "the statistics page is too small");
	s->stats = mmap(NULL, s->stats_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (s->stats == MAP_FAILED) {
		s->stats = NULL;
		ret = -errno;
	}
	/*
	 * What is mapped is locked on its first use only; the queues' threads must not wait for
	 * that.
	 */
	if (s->stats && mlock(s->stats, s->stats_bytes) < 0)
		ret = -errno;
	if (ret)
		return ub_err_errno(err, -ret,
				    "cannot lock a statistics page of %zu bytes (raise "
				    "RLIMIT_MEMLOCK, or give "
				    "CAP_IPC_LOCK)",
				    s->stats_bytes);
	s->backend->stats = &s->stats->backends[ub_stat_side(s->stats)];
	atomic_store(&s->host.stats, s->stats);
	return 0;
}

/* Which of its sides are the back ends' is told by the statistics page: the same for both. */
static int serve_map_ledger(struct server *s, unsigned nr_queues, unsigned depth,
			    struct ub_err *err)
{
	struct stat st;
	int ret = 0;

	if (fstat(s->ledger_fd, &st) < 0)
		return ub_err_errno(err, errno, "the ledger");
	s->ledger_bytes = (size_t)st.st_size;
	s->ledger =
		mmap(NULL, s->ledger_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->ledger_fd, 0);
	if (s->ledger == MAP_FAILED) {
		s->ledger = NULL;
		ret = -errno;
	}
	/* A queue's thread writes here before it sends anything, and is not to wait then. */
	if (s->ledger && mlock(s->ledger, s->ledger_bytes) < 0)
		ret = -errno;
	if (ret)
		return ub_err_errno(err, -ret,
				    "cannot lock a ledger of %zu bytes (raise RLIMIT_MEMLOCK, or "
				    "give "
				    "CAP_IPC_LOCK)",
				    s->ledger_bytes);
	if (ub_ledger_check(s->ledger, s->ledger_bytes, nr_queues, depth + UB_INTERNAL_SLOTS) < 0)
		return ub_err_set(err, EPROTO,
				  "the ledger is of another device, or of another version");
	s->backend->ledger = s->ledger;
	s->backend->ledger_side = ub_stat_side(s->stats);
	return 0;
}

static int serve_copy_masks(struct server *s, const struct ub_msg_serve *msg, struct ub_err *err)
{
	s->affinity = calloc(msg->nr_queues, sizeof(*s->affinity));
	if (!s->affinity)
		return ub_err_errno(err, ENOMEM, "CPU masks");
	for (unsigned i = 0; i < msg->nr_queues; i++)
		memcpy(s->affinity[i], msg->masks + (size_t)i * msg->mask_bytes, msg->mask_bytes);
	return 0;
}

static void serve_device_event(void *arg)
{
	struct server *s = arg;
	struct ub_err err = { 0 };

	switch (ub_device_state(&s->device)) {
	case UB_QUEUE_READY:
		if (!s->said_ready)
			ub_message_send_type(s->keeper_fd, UB_MSG_READY);
		s->said_ready = true;
		break;
	case UB_QUEUE_FETCHING:
		if (s->said_fetching)
			break;
		s->said_fetching = true;
		if (ub_step("server-fetching", &err))
			ub_server_fail(s, &err);
		else
			ub_message_send_type(s->keeper_fd, UB_MSG_FETCHING);
		break;
	case UB_QUEUE_YIELDED:
		_exit(UB_EXIT_DONE); /* the device waits: nothing is taken apart first */
	case UB_QUEUE_FAILED:
		ub_device_error(&s->device, &err);
		ub_server_fail(s, &err);
		break;
	case UB_QUEUE_ENDED:
		ub_server_over(s, UB_EXIT_DONE);
		break;
	default:
		break;
	}
	/* The event was taken first: what comes later makes another one. */
	if (s->phase == SERVER_LIVE) {
		ub_resize_continue(s);
		ub_move_step(s);
	}
}

int ub_serve_prepare(struct server *s, const struct ub_msg_serve *msg, int fds[],
		     struct ub_err *err)
{
	struct ub_device_config config = {
		.dev_id = msg->dev_id,
		.nr_queues = msg->nr_queues,
		.depth = msg->depth,
		.max_io_bytes = msg->max_io_bytes,
		.data_path = msg->data_path,
		.scans_partitions = msg->scans_partitions,
		.no_clock = msg->flags & UB_SERVE_NO_STATS,
	};
	int ret;

	ub_message_unpack_fds(fds, msg->has_fd);
	if (msg->nr_queues == 0 || msg->nr_queues > UBLK_MAX_NR_QUEUES ||
	    msg->mask_bytes > UB_CPU_MASK_BYTES ||
	    msg->header.len_bytes < sizeof(*msg) + (size_t)msg->nr_queues * msg->mask_bytes ||
	    msg->data_path == UB_DATA_PATH_AUTO || msg->data_path >= UB_NR_DATA_PATHS ||
	    fds[UB_FD_STATS] < 0 || fds[UB_FD_LEDGER] < 0)
		return ub_err_set(err, EPROTO, "an unexpected SERVE message");
	s->stats_fd = ub_steal_fd(&fds[UB_FD_STATS]);
	s->listen_fd = ub_steal_fd(&fds[UB_FD_LISTEN]);
	s->arena_fd = ub_steal_fd(&fds[UB_FD_ARENA]);
	s->ledger_fd = ub_steal_fd(&fds[UB_FD_LEDGER]);
	s->served_pid = msg->served_pid;
	ret = serve_map_stats(s, msg->nr_queues, err);
	if (ret == 0)
		ret = serve_map_ledger(s, msg->nr_queues, msg->depth, err);
	if (ret == 0)
		ret = serve_copy_masks(s, msg, err);
	if (ret)
		return ret;
	config.stats = s->stats;
	config.affinity = (const uint8_t(*)[UB_CPU_MASK_BYTES])s->affinity;
	config.arena_fd = s->arena_fd;
	s->phase = SERVER_READY;
	ret = ub_device_prepare(&s->device, &config, s->backend, err);
	if (ret)
		return ret;
	if (s->served_pid)
		ub_title_set("ublk-bridge: standby of /dev/ublkb%u", s->device.config.dev_id);
	ub_loop_add(&s->loop, s->device.event_fd, serve_device_event, s);
	return 0;
}

/* ---- TAKE, LIVE ---------------------------------------------------------- */

int ub_serve_take(struct server *s, struct ub_err *err)
{
	int ret;

	s->phase = SERVER_SERVING;
	ub_title_set("ublk-bridge: server of /dev/ublkb%u", s->device.config.dev_id);
	ub_rings_let_go(&s->served_rings);
	ret = ub_device_take(&s->device, err);
	if (ret)
		return ret;
	/*
	 * Before: a keeper that hears nothing of it must be able to take it for granted that
	 * nothing was fetched.
	 */
	ub_message_send_type(s->keeper_fd, UB_MSG_TAKING);
	ub_device_fetch(&s->device);
	ub_visitor_listen(s);
	return 0;
}

int ub_serve_live(struct server *s, struct ub_err *err)
{
	if (ub_backend_set_live(s->backend, err) != 0)
		return -err->code;
	s->phase = SERVER_LIVE;
	if (ub_step("server-live", err))
		return -err->code;
	/* If the keeper is gone by now, another one will ask. */
	if (ub_message_send_type(s->keeper_fd, UB_MSG_LIVE) < 0)
		ub_log(UB_LOG_DEBUG, "nobody hears that the device is live");
	return 0;
}
