/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server's main thread: takes the keeper's messages, opens the back end and the device, and
 * waits while the queue threads serve. It does nothing on its own account.
 *
 *   NEW ──CONFIG──► OPEN ──SERVE──► READY ──TAKE──► SERVING ──LIVE──► LIVE        OVER: it ends
 *
 * When the keeper goes before the device is live the server ends; a live one serves on, and so does
 * one that recovers it. A standby waits: it may be the last one who has what the device is made of.
 */
#include "server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ublk-bridge/ledger.h>
#include <ublk-bridge/message.h>

#include "backend/registry.h"
#include "backend/names.h"
#include "backend/sockets.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/node.h"
#include "base/process.h"
#include "base/size.h"
#include "base/step.h"
#include "base/text.h"
#include "base/title.h"
#include "server/isolate.h"
#include "server/state.h"
#include "ublk/device.h"
#include "ublk/params.h"

/* messages of a visitor that are read before the next one takes its place */
#define SERVER_LAST_WORDS 3

#define SERVER_LINK_MS 1000 /* for a keeper that does not read what it is told */
/* how often a standby without a keeper looks whether there is still a device */
#define SERVER_STALE_MS 1000

static int server_log_fd = -1;
static struct ub_stats_page *_Atomic server_stats; /* once it is mapped */
static struct server *_Atomic server_self;	   /* for the back end's threads */

/* The log's sink: a datagram that is never waited for. Any thread. */
static bool server_log(enum ub_log_level level, const char *line)
{
	struct ub_msg_text msg = { .header = { .type = UB_MSG_LOG }, .value = level };

	snprintf(msg.text, sizeof(msg.text), "%s", line);
	msg.header.len_bytes =
		(uint32_t)(offsetof(struct ub_msg_text, text) + strlen(msg.text) + 1);
	return ub_message_send(server_log_fd, &msg.header, NULL, 0, MSG_DONTWAIT) == 0;
}

/*
 * What the back end said of itself last. Its threads write it, seldom, and the main thread reads
 * it.
 */
static struct server_health {
	pthread_mutex_t lock;
	enum ub_health value;
	char why[200];
	int event_fd;
} server_health = { .lock = PTHREAD_MUTEX_INITIALIZER, .event_fd = -1 };

static void server_report(enum ub_health health, const char *why)
{
	ub_log(health == UB_HEALTH_ONLINE ? UB_LOG_NOTICE : UB_LOG_WARNING, "%s", why);
	pthread_mutex_lock(&server_health.lock);
	server_health.value = health;
	snprintf(server_health.why, sizeof(server_health.why), "%s", why);
	ub_text_clean(server_health.why);
	pthread_mutex_unlock(&server_health.lock);
	eventfd_write(server_health.event_fd, 1);
}

static enum ub_health server_get_health(char *why, size_t len)
{
	enum ub_health value;

	pthread_mutex_lock(&server_health.lock);
	value = server_health.value;
	snprintf(why, len, "%s", server_health.why);
	pthread_mutex_unlock(&server_health.lock);
	return value;
}

static void server_over(struct server *s, int status)
{
	s->phase = SERVER_OVER;
	s->status = status;
}

/* A connection that was made, or (-1) closed. Any thread; the keeper resets it when we are gone. */
static void server_tell_socket(uint32_t id, int fd, bool is_destination)
{
	struct ub_msg_link msg = { .header = { .len_bytes = sizeof(msg) },
				   .id = id,
				   .is_destination = is_destination };

	msg.header.type = fd >= 0 ? UB_MSG_LINK : UB_MSG_UNLINK;
	while (ub_message_send(UB_SERVER_SOCKET_FD, &msg.header, &fd, fd >= 0, MSG_DONTWAIT) ==
	       -EAGAIN) {
		if (poll(&(struct pollfd){ .fd = UB_SERVER_SOCKET_FD, .events = POLLOUT }, 1,
			 SERVER_LINK_MS) > 0)
			continue;
		/* At its last close it is reset all the same: keepers of version 3 wait instead. */
		if (fd >= 0 && server_stats)
			atomic_store(&server_stats->lost_links, 1);
		break;
	}
}

/* Any thread. */
static void server_tell_grown(void)
{
	struct ub_msg_header header = { .type = UB_MSG_GROWN, .len_bytes = sizeof(header) };

	ub_message_send(UB_SERVER_SOCKET_FD, &header, NULL, 0, MSG_DONTWAIT);
}

/* Any thread. A keeper that has no room for it looks again by itself. */
static void server_tell_ranges(void)
{
	struct ub_msg_header header = { .type = UB_MSG_RANGES, .len_bytes = sizeof(header) };

	if (atomic_load(&server_self->keeper_version) > UB_MESSAGE_V3)
		ub_message_send(UB_SERVER_SOCKET_FD, &header, NULL, 0, MSG_DONTWAIT);
}

static void server_fail(struct server *s, const struct ub_err *err)
{
	struct ub_msg_text msg = { .header = { .type = UB_MSG_FAILED, .len_bytes = sizeof(msg) } };

	msg.value = (uint32_t)err->code;
	snprintf(msg.text, sizeof(msg.text), "%s", err->text);
	ub_log(UB_LOG_DEBUG, "the server gives up: %s", err->text);
	ub_message_send(s->keeper_fd, &msg.header, NULL, 0, MSG_DONTWAIT);
	/* Taking it apart would fail what is in flight, and the next server is to have that. */
	if (s->device.is_taken && (s->served_pid || s->phase == SERVER_LIVE))
		_exit(UB_EXIT_FAILED);
	server_over(s, UB_EXIT_FAILED);
}

/* Before the device is live nothing waits for a back end that went away: the attach fails. */
static void server_health_changed(void *arg)
{
	struct server *s = arg;
	struct ub_err err = { .code = EIO };
	eventfd_t ignored;

	eventfd_read(server_health.event_fd, &ignored);
	if (server_get_health(err.text, sizeof(err.text)) == UB_HEALTH_FAILED && !s->served_pid &&
	    s->phase > SERVER_NEW && s->phase < SERVER_LIVE)
		server_fail(s, &err);
}

void ub_server_drop_mounts(const struct ub_backend_config *cfg)
{
	char *paths[UB_BACKEND_MAX_PATHS + 1] = { NULL };
	struct ub_err ignored;
	const struct ub_backend_ops *ops = ub_backend_find(cfg->kind, &ignored);
	unsigned nr = 0;

	if (ops && ops->get_paths)
		nr = ops->get_paths(cfg, paths, UB_BACKEND_MAX_PATHS);
	for (unsigned i = 0; i < nr; i++) {
		char *path = realpath(paths[i], NULL);

		/* Not there yet, perhaps: as it is written, then. */
		if (path) {
			free(paths[i]);
			paths[i] = path;
		}
	}
	ub_isolate_drop_mounts(paths);
	for (unsigned i = 0; i < nr; i++)
		free(paths[i]);
}

/* ---- messages ------------------------------------------------------------ */

/* What the next server is to know of what was opened goes with the limits. */
static int server_send_limits(struct server *s, struct ub_err *err)
{
	const struct ub_backend_ops *ops = s->backend->ops;
	cleanup_free char *identity =
		ops->get_identity ? ops->get_identity(s->backend) : strdup("");
	size_t text_bytes = identity ? strlen(identity) + 1 : 0;
	struct ub_msg_limits *reply = calloc(1, sizeof(*reply) + text_bytes);
	cleanup_free void *free_reply = reply;
	int ret;

	if (!identity || !reply)
		return ub_err_errno(err, ENOMEM, "the message to the keeper");
	reply->header.type = UB_MSG_LIMITS;
	reply->header.len_bytes = (uint32_t)(sizeof(*reply) + text_bytes);
	reply->limits = s->backend->limits;
	reply->caps = ops->caps;
	memcpy(reply->identity, identity, text_bytes);
	ret = ub_message_send(s->keeper_fd, &reply->header, NULL, 0, 0);
	return ret ? ub_err_errno(err, -ret, "the message to the keeper") : 0;
}

static int server_configure(struct server *s, struct ub_msg_config *msg, int fds[],
			    struct ub_err *err)
{
	const char *identity = ub_message_string(&msg->header, sizeof(*msg), 1);
	struct ub_backend_config cfg = { .kind = msg->kind, .options = msg->options };
	int ret;

	if (s->phase != SERVER_NEW || !identity)
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
	cfg.identity = *identity ? identity : NULL;
	ub_server_drop_mounts(&cfg);
	ret = ub_isolate_lock_memory(err);
	if (ret == 0)
		ret = ub_backend_open(s->backend, &cfg, err);
	if (ret)
		return ret;
	s->phase = SERVER_OPEN;
	return server_send_limits(s, err);
}

static int server_map_stats(struct server *s, unsigned nr_queues, struct ub_err *err)
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
	server_stats = s->stats;
	return 0;
}

/* Which of its sides are the back ends' is told by the statistics page: the same for both. */
static int server_map_ledger(struct server *s, unsigned nr_queues, unsigned depth,
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

static int server_copy_masks(struct server *s, const struct ub_msg_serve *msg, struct ub_err *err)
{
	s->affinity = calloc(msg->nr_queues, sizeof(*s->affinity));
	if (!s->affinity)
		return ub_err_errno(err, ENOMEM, "CPU masks");
	for (unsigned i = 0; i < msg->nr_queues; i++)
		memcpy(s->affinity[i], msg->masks + (size_t)i * msg->mask_bytes, msg->mask_bytes);
	return 0;
}

static void server_device_event(void *arg);
static void server_visitor_arrives(void *arg);

/* From now on it is this server that is meant by server.sock. */
static void server_listen(struct server *s)
{
	ub_loop_remove(&s->loop, s->listen_fd);
	if (s->listen_fd >= 0)
		ub_loop_add(&s->loop, s->listen_fd, server_visitor_arrives, s);
}

static void server_before_me_died(void *arg)
{
	struct server *s = arg;

	ub_rings_let_go(&s->served_rings);
	ub_loop_remove(&s->loop, s->served_pidfd);
	ub_close(&s->served_pidfd);
	if (!s->has_keeper)
		server_listen(s);
}

static void server_watch_the_one_before(struct server *s)
{
	if (s->served_pidfd < 0)
		s->served_pidfd = pidfd_open(s->served_pid, 0);
	if (s->served_pidfd >= 0)
		ub_loop_add(&s->loop, s->served_pidfd, server_before_me_died, s);
}

/*
 * The keeper does, too; but it may die in the same moment. It asks for this when it has ours: else
 * it would take those of the other one, which are here then, for ours.
 */
static int server_hold_rings(struct server *s, struct ub_err *err)
{
	if (s->phase != SERVER_READY || !s->served_pid)
		return ub_err_set(err, EPROTO, "an unexpected HOLD message");
	server_watch_the_one_before(s);
	if (s->served_pidfd >= 0)
		ub_rings_hold(&s->served_rings, s->served_pid, s->served_pidfd,
			      s->device.config.nr_queues);
	return 0;
}

static int server_serve(struct server *s, const struct ub_msg_serve *msg, int fds[],
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

	ub_message_unpack_fds(fds, msg->header.len_bytes < UB_V3_BYTES_SERVE ? 0 : msg->has_fd);
	if (s->phase != SERVER_OPEN || msg->header.len_bytes < UB_V3_BYTES_SERVE ||
	    msg->nr_queues == 0 || msg->nr_queues > UBLK_MAX_NR_QUEUES ||
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
	ret = server_map_stats(s, msg->nr_queues, err);
	if (ret == 0)
		ret = server_map_ledger(s, msg->nr_queues, msg->depth, err);
	if (ret == 0)
		ret = server_copy_masks(s, msg, err);
	if (ret)
		return ret;
	config.stats = s->stats;
	config.affinity = (const uint8_t(*)[UB_CPU_MASK_BYTES])s->affinity;
	config.arena_fd = s->arena_fd;
	s->phase = SERVER_READY;
	ret = ub_device_prepare(&s->device, &config, s->backend, err);
	if (ret)
		return ret;
	ub_title_set("ublk-bridge: standby of /dev/ublkb%u", s->device.config.dev_id);
	ub_loop_add(&s->loop, s->device.event_fd, server_device_event, s);
	return 0;
}

static int server_take(struct server *s, struct ub_err *err)
{
	int ret;

	if (s->phase != SERVER_READY)
		return ub_err_set(err, EPROTO, "an unexpected TAKE message");
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
	server_listen(s);
	return 0;
}

/* ---- another size -------------------------------------------------------- */

/* The answer is about the size that the back end has, whichever that is. */
static void server_resized(struct server *s, const struct ub_err *err)
{
	struct ub_msg_resized answer = { .header = { .type = UB_MSG_RESIZED,
						     .len_bytes = sizeof(answer) } };

	answer.id = s->resize.id;
	answer.code = (uint32_t)err->code;
	answer.size_bytes = s->backend->limits.size_bytes;
	snprintf(answer.text, sizeof(answer.text), "%s", err->text);
	ub_message_send(s->keeper_fd, &answer.header, NULL, 0, MSG_DONTWAIT);
}

/* What size it comes to: 0 or -errno with *err. */
static int server_resize_check(struct server *s, uint64_t *size, struct ub_err *err)
{
	const struct ub_backend_ops *ops = s->backend->ops;
	const struct ub_limits *l = &s->backend->limits;
	uint64_t most = UINT64_MAX;
	char why[200], has[32], want[32];
	int ret;

	if (ub_yield_is_on(&s->yield))
		return ub_err_set(err, EAGAIN, "it is being upgraded: try again");
	if (!ops->resize || (*size == 0 && !ops->get_size))
		return ub_err_set(err, EOPNOTSUPP, "a device of %s %s", ops->name,
				  ops->resize ? "has no size of its own: give one" :
						"keeps its size");
	if (*size % l->logical_block_bytes)
		return ub_err_set(err, EINVAL,
				  "a size of %llu bytes is not a multiple of the block size %u",
				  (unsigned long long)*size, l->logical_block_bytes);
	if (*size && *size <= l->size_bytes)
		return 0;
	if (server_get_health(why, sizeof(why)) == UB_HEALTH_OFFLINE)
		return ub_err_set(err, EAGAIN, "%s: no other size before it is online again", why);
	ret = ops->get_size ? ops->get_size(s->backend, &most, err) : 0;
	if (ret)
		return ret;
	if (*size == 0 && most < l->size_bytes)
		return ub_err_set(err, ESTALE,
				  "the export has only %s now, and the device %s: nothing is made "
				  "smaller unless you give the SIZE",
				  ub_size_format(most, has, sizeof(has)),
				  ub_size_format(l->size_bytes, want, sizeof(want)));
	if (*size > most)
		return ub_err_set(err, ERANGE,
				  "the device cannot grow to %s: its export has only %s. Enlarge "
				  "the export first",
				  ub_size_format(*size, want, sizeof(want)),
				  ub_size_format(most, has, sizeof(has)));
	if (*size == 0)
		*size = most;
	return 0;
}

/*
 * A device that grows has all behind it before a queue lets the first I/O there pass; one that
 * shrinks loses it last.
 */
static int server_resize_begin(struct server *s, struct ub_err *err)
{
	uint64_t size = s->resize.size_bytes;
	int ret;

	if (s->phase != SERVER_LIVE)
		return ub_err_set(err, EAGAIN, "the device is not live yet");
	if (ub_migration_is_on(s))
		return ub_err_set(err, EBUSY,
				  "the device is being migrated: try again when it has been");
	ret = server_resize_check(s, &size, err);
	if (ret == 0)
		ret = ub_step("server-resize", err);
	if (ret == 0 && size > s->backend->limits.size_bytes)
		ret = s->backend->ops->resize(s->backend, size, s->resize.flags, err);
	if (ret)
		return ret;
	s->resize.size_bytes = size;
	s->is_resizing = true;
	ub_device_set_size(&s->device, size);
	return 0;
}

static int server_resize(struct server *s, const struct ub_msg_resize *msg, struct ub_err *err)
{
	struct ub_err refusal = { 0 };

	if (msg->header.len_bytes < UB_V3_BYTES_RESIZE)
		return ub_err_set(err, EPROTO, "an unexpected RESIZE message");
	if (s->is_resizing) {
		/*
		 * The one before is still waited for: this one comes to its end with it, if it
		 * wants the same.
		 */
		if (msg->size_bytes == s->resize.size_bytes) {
			s->resize.id = msg->id;
			return 0;
		}
		struct ub_msg_resize before = s->resize;

		ub_err_set(&refusal, EBUSY,
			   "I/O behind the end of %llu bytes is still in flight: try again",
			   (unsigned long long)before.size_bytes);
		s->resize.id = msg->id;
		server_resized(s, &refusal);
		s->resize = before;
		return 0;
	}
	s->resize = *msg;
	/* That it cannot be done is an answer, and no reason to end. */
	if (server_resize_begin(s, &refusal) != 0)
		server_resized(s, &refusal);
	return 0;
}

/* The queues may have confirmed it. */
static void server_resize_continue(struct server *s)
{
	uint64_t size = s->resize.size_bytes, was = s->backend->limits.size_bytes;
	struct ub_err err = { 0 };

	if (!s->is_resizing || !ub_device_has_size(&s->device, size))
		return;
	s->is_resizing = false;
	if (size <= was)
		s->backend->ops->resize(s->backend, size, s->resize.flags, &err);
	if (!err.code)
		s->backend->limits.size_bytes = size;
	if (size != was && ub_step("server-resized", &err))
		server_fail(s, &err);
	else
		server_resized(s, &err);
}

static void server_device_event(void *arg)
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
			server_fail(s, &err);
		else
			ub_message_send_type(s->keeper_fd, UB_MSG_FETCHING);
		break;
	case UB_QUEUE_YIELDED:
		_exit(UB_EXIT_DONE); /* the device waits: nothing is taken apart first */
	case UB_QUEUE_FAILED:
		ub_device_error(&s->device, &err);
		server_fail(s, &err);
		break;
	case UB_QUEUE_ENDED:
		server_over(s, UB_EXIT_DONE);
		break;
	default:
		break;
	}
	/* The event was taken first: what comes later makes another one. */
	if (s->phase == SERVER_LIVE) {
		server_resize_continue(s);
		ub_migration_step(s);
	}
}

/* Everything that is asked for, or nothing. */
static int server_apply(struct server *s, const struct ub_settings *settings, struct ub_err *err)
{
	const struct ub_backend_ops *ops = s->backend->ops;
	struct ub_settings of_backend = *settings;
	int ret = 0;

	if (s->phase != SERVER_LIVE)
		return ub_err_set(err, EAGAIN, "the device is not live yet");
	if ((settings->which & UB_SET_LOG_LEVEL) && settings->log_level > UB_LOG_DEBUG)
		return ub_err_set(err, EINVAL, "there is no log level %u", settings->log_level);
	of_backend.which &= ~(uint32_t)UB_SET_LOG_LEVEL;
	if (of_backend.which && !ops->set)
		return ub_err_set(err, EOPNOTSUPP, "--%s is for NBD devices: this one is of %s",
				  of_backend.which & UB_SET_OUTAGE_LIMIT  ? "outage-limit" :
				  of_backend.which & UB_SET_STALL_TIMEOUT ? "stall-timeout" :
									    "fence-timeout",
				  ops->name);
	if (of_backend.which)
		ret = ops->set(s->backend, &of_backend, err);
	if (ret == 0 && (settings->which & UB_SET_LOG_LEVEL))
		ub_log_set_level(settings->log_level);
	return ret;
}

static int server_set(struct server *s, const struct ub_msg_set *msg, struct ub_err *err)
{
	struct ub_msg_text answer = { .header = { .type = UB_MSG_SET,
						  .len_bytes = sizeof(answer) } };
	struct ub_err refusal = { 0 };

	if (msg->header.len_bytes < UB_V3_BYTES_SET)
		return ub_err_set(err, EPROTO, "an unexpected SET message");
	/* That it cannot be done is an answer, and no reason to end. */
	answer.value = (uint32_t)-server_apply(s, &msg->settings, &refusal);
	snprintf(answer.text, sizeof(answer.text), "%s", refusal.text);
	ub_message_send(s->keeper_fd, &answer.header, NULL, 0, 0);
	return 0;
}

/* For whichever back end is of that side, a migration's other one included. */
static int server_fenced(struct server *s, const struct ub_msg_fenced *msg, struct ub_err *err)
{
	if (msg->header.len_bytes < sizeof(*msg))
		return ub_err_set(err, EPROTO, "an unexpected FENCED message");
	if (s->backend->ops && s->backend->ops->fenced &&
	    (msg->sides & 1U << s->backend->ledger_side))
		s->backend->ops->fenced(s->backend, msg->event);
	ub_migration_fenced(s, msg);
	return 0;
}

/* All I/O fails from now on. */
static void server_cancel(struct server *s)
{
	ub_migration_cancelled(s);
	ub_device_cancel(&s->device);
}

static int server_handle(struct server *s, struct ub_msg_header *header, int fds[],
			 struct ub_err *err)
{
	switch (header->type) {
	case UB_MSG_CONFIG:
		return server_configure(s, (struct ub_msg_config *)header, fds, err);
	case UB_MSG_SERVE:
		return server_serve(s, (struct ub_msg_serve *)header, fds, err);
	case UB_MSG_HOLD:
		return server_hold_rings(s, err);
	case UB_MSG_TAKE:
		return server_take(s, err);
	case UB_MSG_LIVE:
		if (s->backend->ops->set_live && s->backend->ops->set_live(s->backend, err) != 0)
			return -err->code;
		s->phase = SERVER_LIVE;
		if (ub_step("server-live", err))
			return -err->code;
		/* If the keeper is gone by now, another one will ask. */
		if (ub_message_send_type(s->keeper_fd, UB_MSG_LIVE) < 0)
			ub_log(UB_LOG_DEBUG, "nobody hears that the device is live");
		return 0;
	case UB_MSG_SOCKET:
		if (!s->backend->ops || !s->backend->ops->take_socket || fds[0] < 0)
			return ub_err_set(err, EPROTO, "an unexpected SOCKET message");
		s->backend->ops->take_socket(s->backend, ub_steal_fd(&fds[0]));
		return 0;
	case UB_MSG_SET:
		return server_set(s, (struct ub_msg_set *)header, err);
	case UB_MSG_YIELD:
		if (s->phase != SERVER_LIVE || !s->device.is_taken)
			return ub_err_set(err, EPROTO, "an unexpected YIELD message");
		ub_yield_begin(s, (struct ub_msg_yield *)header);
		return 0;
	case UB_MSG_FENCED:
		return server_fenced(s, (struct ub_msg_fenced *)header, err);
	case UB_MSG_RESIZE:
		return server_resize(s, (struct ub_msg_resize *)header, err);
	case UB_MSG_CANCEL:
		if (s->phase == SERVER_SERVING || s->phase == SERVER_LIVE)
			server_cancel(s);
		return 0;
	case UB_MSG_MIGRATE:
		return ub_migration_begin(s, (struct ub_msg_migrate *)header, fds, err);
	case UB_MSG_MIGRATE_CONTROL:
		return ub_migration_control(s, (struct ub_msg_migrate_control *)header, err);
	case UB_MSG_EXIT:
		server_over(s, UB_EXIT_DONE);
		return 0;
	default:
		return ub_err_set(err, EPROTO, "an unexpected message of type %u", header->type);
	}
}

static void server_close_fds(int fds[])
{
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		ub_close(&fds[i]);
}

/*
 * A standby alone: once the server before it is dead, it is who knows what the device is made of.
 */
static void server_stand_alone(struct server *s)
{
	if (s->served_pidfd < 0)
		server_watch_the_one_before(s);
	if (s->served_pidfd < 0)
		server_listen(s);
}

/* The keeper is gone; another one may adopt this server. */
static void server_keeper_left(struct server *s)
{
	s->has_keeper = false;
	ub_loop_remove(&s->loop, s->keeper_fd);
	ub_sockets_set_listener(NULL);
	ub_names_set_keeper(-1);
	ub_migration_abandon(s);
	ub_yield_abandon(s);
	if (s->phase == SERVER_LIVE || (s->phase == SERVER_SERVING && s->served_pid))
		return;
	if (s->phase == SERVER_READY && s->served_pid)
		server_stand_alone(s);
	else
		server_over(s, UB_EXIT_FAILED);
}

static void server_keeper_event(void *arg)
{
	struct server *s = arg;
	struct ub_err err = { 0 };
	int fds[UB_MESSAGE_MAX_FDS];
	int ret = ub_message_receive(s->keeper_fd, s->inbox, fds, MSG_DONTWAIT);

	if (ret == -EAGAIN)
		return;
	if (ret < 0) {
		server_keeper_left(s);
		return;
	}
	ret = server_handle(s, (struct ub_msg_header *)s->inbox, fds, &err);
	server_close_fds(fds);
	if (ret)
		server_fail(s, &err);
}

/* ---- server.sock: a verb that needs the server itself, such as a forced detach ---- */

static void server_visitor_leaves(struct server *s)
{
	ub_loop_remove(&s->loop, s->visitor_fd);
	ub_close(&s->visitor_fd);
}

static void server_tell_health(const struct server *s)
{
	struct ub_msg_text msg = { .header = { .type = UB_MSG_HEALTH, .len_bytes = sizeof(msg) } };
	size_t len;

	msg.value = server_get_health(msg.text, sizeof(msg.text));
	len = strlen(msg.text);
	/* How it began, and why it has not ended. */
	if (msg.value == UB_HEALTH_OFFLINE && s->phase == SERVER_LIVE &&
	    s->backend->ops->describe_outage && len + 3 < sizeof(msg.text)) {
		s->backend->ops->describe_outage(s->backend, msg.text + len + 2,
						 sizeof(msg.text) - len - 2);
		if (msg.text[len + 2])
			memcpy(msg.text + len, "; ", 2);
	}
	ub_message_send(s->visitor_fd, &msg.header, NULL, 0, MSG_DONTWAIT);
}

/* A keeper comes, and gets all that its predecessor had. */
static int server_adopt(struct server *s)
{
	struct ub_msg_adopted msg = { .header = { .type = UB_MSG_ADOPTED,
						  .len_bytes = sizeof(msg) } };
	const int all[UB_NR_SERVE_FDS] = { [UB_FD_STATS] = s->stats_fd,
					   [UB_FD_LISTEN] = s->listen_fd,
					   [UB_FD_ARENA] = s->arena_fd,
					   [UB_FD_STORE] = s->store_fd,
					   [UB_FD_LEDGER] = s->ledger_fd };
	int packed[UB_MESSAGE_MAX_FDS];
	unsigned nr;

	if (s->has_keeper)
		return -EBUSY;
	msg.pid = getpid();
	msg.state = s->phase == SERVER_LIVE    ? UB_ADOPTED_LIVE :
		    s->phase == SERVER_SERVING ? UB_ADOPTED_FETCHING :
						 UB_ADOPTED_STANDBY;
	/* All that speaks to the keeper, on whichever thread, goes on with the number it knows. */
	if (dup3(s->visitor_fd, UB_SERVER_SOCKET_FD, O_CLOEXEC) < 0)
		return -errno;
	atomic_store(&s->keeper_version, s->visitor_version);
	server_visitor_leaves(s);
	nr = ub_message_pack_fds(all, UB_NR_SERVE_FDS, s->visitor_version, packed, &msg.has_fd);
	msg.nr_links = ub_sockets_count();
	ub_message_fit(&msg.header, s->visitor_version, UB_V3_BYTES_ADOPTED);
	if (ub_message_send(s->keeper_fd, &msg.header, packed, nr, MSG_DONTWAIT) < 0)
		return 0; /* it has gone already, and the loop will find that out */
	s->has_keeper = true;
	ub_names_set_keeper(s->keeper_fd);
	ub_loop_add(&s->loop, s->keeper_fd, server_keeper_event, s);
	if (!s->served_rings.nr) {
		ub_loop_remove(&s->loop, s->served_pidfd);
		ub_close(&s->served_pidfd);
	}
	if (msg.state == UB_ADOPTED_STANDBY)
		ub_loop_remove(&s->loop, s->listen_fd);
	ub_sockets_set_listener(server_tell_socket);
	ub_log(UB_LOG_NOTICE, "the server (pid %d) has a keeper again", getpid());
	return 0;
}

/* Takes one message of a visitor's. False: there is none now, or the visitor is gone. */
static bool server_visitor_hear(struct server *s)
{
	struct ub_msg_header *header = (struct ub_msg_header *)s->inbox;
	int fds[UB_MESSAGE_MAX_FDS];
	int ret = ub_message_receive(s->visitor_fd, s->inbox, fds, MSG_DONTWAIT);

	if (ret == -EAGAIN)
		return false;
	if (ret == 0)
		server_close_fds(fds);
	if (ret == 0 && header->type == UB_MSG_HELLO && !s->visitor_greeted) {
		s->visitor_greeted = true;
		s->visitor_version = ub_message_hello_version(header);
		/* It may have asked and gone already: what it asked is still to be read. */
		ub_message_send_hello(s->visitor_fd);
	} else if (ret == 0 && header->type == UB_MSG_CANCEL && s->visitor_greeted) {
		ub_log(UB_LOG_WARNING,
		       "all I/O is failed from now on: a forced detach asked for it");
		server_cancel(s);
		ub_message_send_type(s->visitor_fd, UB_MSG_CANCEL);
	} else if (ret == 0 && header->type == UB_MSG_HEALTH && s->visitor_greeted) {
		server_tell_health(s);
	} else if (ret == 0 && header->type == UB_MSG_ADOPT && s->visitor_greeted) {
		ret = server_adopt(s);
		if (ret == 0)
			return false;
	} else {
		ret = -EPROTO;
	}
	if (ret)
		server_visitor_leaves(s);
	return ret == 0;
}

static void server_visitor_event(void *arg)
{
	server_visitor_hear(arg);
}

static void server_visitor_arrives(void *arg)
{
	struct server *s = arg;
	cleanup_fd int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ||
	    peer.uid != geteuid())
		return;
	/*
	 * The newest counts: a silent one must not lock others out. But what the one before said is
	 * heard.
	 */
	for (unsigned i = 0; i < SERVER_LAST_WORDS && s->visitor_fd >= 0; i++) {
		if (!server_visitor_hear(s))
			break;
	}
	if (s->visitor_fd >= 0)
		server_visitor_leaves(s);
	s->visitor_fd = ub_steal_fd(&fd);
	s->visitor_greeted = false;
	ub_loop_add(&s->loop, s->visitor_fd, server_visitor_event, s);
}

/* ---- main ---------------------------------------------------------------- */

static void server_destroy(struct server *s)
{
	/* Its parts hang on each other, and on threads: the process's end takes them all. */
	if (ub_migration_is_on(s))
		_exit(s->status);
	ub_device_close(&s->device);
	ub_backend_close(s->backend);
	server_stats = NULL;
	if (s->stats)
		munmap(s->stats, s->stats_bytes);
	if (s->ledger)
		munmap(s->ledger, s->ledger_bytes);
	free(s->affinity);
	ub_close(&s->visitor_fd);
	ub_close(&s->listen_fd);
	ub_close(&s->store_fd);
	ub_close(&s->stats_fd);
	ub_close(&s->arena_fd);
	ub_close(&s->ledger_fd);
	ub_close(&s->served_pidfd);
	ub_rings_let_go(&s->served_rings);
}

/* A standby without a keeper: when the device is gone, nobody will come for it. */
static void server_look_whether_stale(struct server *s)
{
	if (!ub_node_is_known(UB_NODE_CHAR, s->device.config.dev_id))
		server_over(s, UB_EXIT_DONE);
}

static void server_wait(struct server *s)
{
	bool is_alone = !s->has_keeper && s->phase == SERVER_READY;
	int move_ms = ub_migration_wait_ms(s), yield_ms = ub_yield_wait_ms(s),
	    wait_ms = is_alone ? SERVER_STALE_MS : move_ms;

	ub_loop_once(&s->loop,
		     yield_ms >= 0 && (wait_ms < 0 || yield_ms < wait_ms) ? yield_ms : wait_ms);
	if (move_ms >= 0)
		ub_migration_step(s);
	ub_yield_step(s);
	if (is_alone && s->phase == SERVER_READY && !s->has_keeper)
		server_look_whether_stale(s);
}

int ub_server_main(void)
{
	static struct server server;
	struct server *s = &server;
	struct ub_err err = { 0 };

	server_self = s;
	s->keeper_fd = UB_SERVER_SOCKET_FD;
	s->has_keeper = true;
	ub_names_set_keeper(s->keeper_fd);
	s->keeper_version = UB_MESSAGE_VERSION; /* it has executed its own binary */
	s->backend = &s->first_backend;
	ub_migration_init(&s->migration);
	s->listen_fd = s->visitor_fd = s->store_fd = s->stats_fd = s->arena_fd = s->ledger_fd = -1;
	s->served_pidfd = -1;
	server_log_fd = s->keeper_fd;
	ub_log_to_sink(server_log);
	ub_backend_set_reporter(server_report);
	ub_backend_set_grown_reporter(server_tell_grown);
	ub_backend_set_ranges_reporter(server_tell_ranges);
	ub_sockets_set_listener(server_tell_socket);
	ub_loop_init(&s->loop);
	server_health.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	prctl(PR_SET_NAME, UB_SERVER_COMM);
	ub_isolate();
	ub_loop_add(&s->loop, s->keeper_fd, server_keeper_event, s);
	if (server_health.event_fd < 0)
		ub_err_errno(&err, errno, "an event descriptor");
	else
		ub_loop_add(&s->loop, server_health.event_fd, server_health_changed, s);
	if (err.code || ub_step("server-hello", &err))
		server_fail(s, &err);
	else if (ub_message_send_hello(s->keeper_fd) < 0)
		return UB_EXIT_FAILED;
	while (s->phase != SERVER_OVER)
		server_wait(s);
	server_destroy(s);
	return s->status;
}
