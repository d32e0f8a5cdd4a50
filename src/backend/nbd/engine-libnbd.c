/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine that libnbd is: commands and replies through its asynchronous calls, on the queues'
 * own threads. It knows nothing of what happens to a request before and afterwards: conn.c.
 *
 * The socket is polled on the queue's ring, one-shot and level-triggered. libnbd is told to read
 * once an event, and again only while bytes are known to be there. Told so when there is nothing,
 * it believes that a reply has begun, and sends no command before that has come, nor the rest of
 * one that is sent half: then the server waits for us, and we for it. That cannot be avoided, but
 * undone: libnbd_notify_read(). libnbd's callbacks run inside its calls and must not call it: they
 * change lists, and what follows is done when the call has returned.
 */
#include "backend/nbd/engine.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "backend/nbd/library.h"
#include "backend/nbd/nbd.h"
#include "backend/nbd/reserve.h"
#include "base/cleanup.h"

#define LIBNBD_MIN_REPLY_BYTES 16 /* of the shortest one */
#define LIBNBD_CHUNK_BYTES     20 /* a structured reply's header */
#define LIBNBD_MAX_PIECE_BYTES 32 /* of a READ, with all that follows but the data */

/* ---- what libnbd says ---------------------------------------------------- */

/* Whether libnbd has given the connection up. */
static bool libnbd_is_dead(struct nbd_link *link)
{
	struct pollfd pfd = { .fd = link->fd, .events = POLLRDHUP };
	bool is_wrong;

	if (nbd_link_state(link) >= NBD_LINK_FAILING)
		return true;
	if (nbd.aio_is_closed(link->e.libnbd.handle)) {
		nbd_link_look_at_end(link);
		nbd_link_ended(link, "the server closed the connection", false);
	} else if (nbd.aio_is_dead(link->e.libnbd.handle)) {
		/* nobody has ended it: libnbd did not like what it read */
		is_wrong = poll(&pfd, 1, 0) == 0;
		nbd_link_look_at_end(link);
		nbd_link_ended(link, nbd_session_reason(), is_wrong);
	}
	return nbd_link_state(link) >= NBD_LINK_FAILING;
}

/*
 * Data of a READ under structured replies: libnbd tells, and does not insist, that all of it comes.
 */
static int libnbd_chunk(void *arg, const void *data, size_t len, uint64_t offset, unsigned status,
			int *error)
{
	struct nbd_cmd *cmd = arg;

	(void)data;
	(void)error;
	if (status == LIBNBD_READ_ERROR)
		return 0;
	nbd_cmd_data(cmd, offset - cmd->io->offset_bytes - cmd->done_bytes, (uint32_t)len);
	cmd->link->e.libnbd.replied_bytes +=
		LIBNBD_MAX_PIECE_BYTES + (status == LIBNBD_READ_DATA ? (uint32_t)len : 0);
	return 0;
}

/* The most that the answer's end has taken, behind what libnbd_chunk() counted. */
static uint32_t libnbd_reply_bytes(const struct nbd_cmd *cmd)
{
	if (cmd->link->has_structured_replies)
		return LIBNBD_CHUNK_BYTES;
	return LIBNBD_MIN_REPLY_BYTES + (cmd->io->op == UB_OP_READ ? cmd->part_bytes : 0);
}

/* A command was answered, or its connection ended. Returns 1: libnbd may forget it. */
static int libnbd_answered(void *arg, int *error)
{
	struct nbd_cmd *cmd = arg;
	struct nbd_libnbd *e;

	/*
	 * No answer: it stays in flight, and is sent again over another connection. Perhaps it has
	 * been, and is not this one's any more.
	 */
	if (*error == ENOTCONN)
		return 1;
	e = &cmd->link->e.libnbd;
	/* With an error comes a text of whatever length. */
	e->replied_bytes = *error ? 0 : e->replied_bytes + libnbd_reply_bytes(cmd);
	nbd_cmd_answered(cmd, *error);
	return 1;
}

/*
 * What a range begins with, as pairs of length and state. One is what was asked for: the list of
 * all can be long, and is sent in many small parts.
 */
static int libnbd_extents(void *arg, const char *context, uint64_t offset, uint32_t *entries,
			  size_t nr, int *error)
{
	struct nbd_cmd *cmd = arg;
	struct ub_extent *extent = cmd->io->buf;
	uint64_t len = 0;
	size_t i = 0;

	(void)context;
	(void)offset;
	(void)error;
	cmd->link->e.libnbd.replied_bytes +=
		LIBNBD_MAX_PIECE_BYTES + (uint32_t)(nr * sizeof(*entries));
	if (nr < 2)
		return 0;
	extent->is_zero = entries[1] & LIBNBD_STATE_ZERO;
	for (; i + 1 < nr && !!(entries[i + 1] & LIBNBD_STATE_ZERO) == extent->is_zero; i += 2)
		len += entries[i];
	extent->len_bytes = len < cmd->io->len_bytes ? (uint32_t)len : cmd->io->len_bytes;
	return 0;
}

/* ---- commands ------------------------------------------------------------ */

static int64_t libnbd_call(struct nbd_link *link, struct nbd_cmd *cmd)
{
	const nbd_completion_callback answered = { .callback = libnbd_answered, .user_data = cmd };
	const nbd_extent_callback extents = { .callback = libnbd_extents, .user_data = cmd };
	const nbd_chunk_callback chunk = { .callback = libnbd_chunk, .user_data = cmd };
	struct nbd_handle *h = link->e.libnbd.handle;
	const struct ub_io *io = cmd->io;
	uint32_t fua = io->flags & UB_FUA ? LIBNBD_CMD_FLAG_FUA : 0;
	uint32_t no_hole = io->flags & UB_NOUNMAP ? LIBNBD_CMD_FLAG_NO_HOLE : 0;
	uint64_t offset = io->offset_bytes + cmd->done_bytes;
	char *data = (char *)io->buf + cmd->done_bytes;

	switch (io->op) {
	case UB_OP_READ:
		if (link->has_structured_replies)
			return nbd.aio_pread_structured(h, data, cmd->part_bytes, offset, chunk,
							answered, 0);
		return nbd.aio_pread(h, data, cmd->part_bytes, offset, answered, 0);
	case UB_OP_WRITE:
		return nbd.aio_pwrite(h, data, cmd->part_bytes, offset, answered, fua);
	case UB_OP_STATUS:
		/*
		 * A server that says nothing of the range has said nothing: no part of it is known.
		 */
		*(struct ub_extent *)io->buf = (struct ub_extent){ .len_bytes = io->len_bytes };
		return nbd.aio_block_status(h, cmd->part_bytes, offset, extents, answered,
					    LIBNBD_CMD_FLAG_REQ_ONE);
	case UB_OP_FLUSH:
		return nbd.aio_flush(h, answered, 0);
	case UB_OP_DISCARD:
		return nbd.aio_trim(h, cmd->part_bytes, offset, answered, 0);
	default:
		return nbd.aio_zero(h, cmd->part_bytes, offset, answered, fua | no_hole);
	}
}

static void libnbd_cork(struct nbd_link *link, int on)
{
	setsockopt(link->fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on));
}

/*
 * libnbd sends each command by itself, and TCP makes a segment of each: what follows the first one
 * of a batch waits for the batch's end.
 */
static void libnbd_count_sent(struct nbd_link *link)
{
	if (++link->e.libnbd.nr_sent == 2 && link->kind == UB_CONN_TCP)
		libnbd_cork(link, 1);
}

static int libnbd_send(struct nbd_link *link, struct nbd_cmd *cmd)
{
	int code;

	libnbd_count_sent(link);
	if (libnbd_call(link, cmd) >= 0) {
		link->is_ready = nbd.aio_is_ready(link->e.libnbd.handle);
		return 0;
	}
	if (libnbd_is_dead(link))
		return 0;
	code = nbd.get_errno();
	return code == ENOMEM ? -EAGAIN : code ? -code : -EIO;
}

/* ---- events -------------------------------------------------------------- */

/* An armed watch came back. False: its link has ended, and nothing is to be done any more. */
static bool libnbd_disarmed(struct nbd_link *link, bool *armed)
{
	struct nbd_backend *be = link->conn->be;
	bool is_current = nbd_link_state(link) < NBD_LINK_UNUSED;

	*armed = false;
	link->conn->home->nr_armed--;
	/* The last one of a retired link gives it free: it must not be touched after that. */
	if (atomic_fetch_sub_explicit(&link->nr_armed, 1, memory_order_acq_rel) == 1 && !is_current)
		nbd_wake_connector(be);
	return is_current && nbd_link_state(link) < NBD_LINK_FAILING;
}

/* After an event: libnbd may take commands again, or has ended. */
static void libnbd_look(struct nbd_link *link)
{
	link->is_ready = !libnbd_is_dead(link) && nbd.aio_is_ready(link->e.libnbd.handle);
	link->conn->must_issue = true;
}

/*
 * Tells libnbd to read. Whether there is something is never certain: a poll on the ring completes
 * with what its wake-up said, and a unix socket's sender first makes its data readable and then
 * wakes the reader. When it loses its CPU in between, and another reply's event has brought us to
 * read this one, too, the late wake-up completes the poll that was armed again. Under TLS what
 * comes may be no reply, or a part of one.
 *
 * libnbd waits in REPLY.START then: of a connection at work the one state that neither is ready nor
 * wants to write. A second call takes it for the rest of a reply, and goes back to what is to be
 * sent. -1: the connection has ended.
 */
static int libnbd_notify_read(struct nbd_link *link)
{
	link->e.libnbd.replied_bytes = 0;
	if (nbd.aio_notify_read(link->e.libnbd.handle) < 0)
		return -1;
	if (__builtin_expect(link->e.libnbd.replied_bytes != 0, 1))
		return 0;
	if (nbd.aio_get_direction(link->e.libnbd.handle) != LIBNBD_AIO_DIRECTION_READ ||
	    nbd.aio_is_ready(link->e.libnbd.handle))
		return 0;
	return nbd.aio_notify_read(link->e.libnbd.handle);
}

/* Reads replies: one, and then as many as are there for certain. */
static void libnbd_read(struct nbd_link *link)
{
	int here = 0;

	if (libnbd_notify_read(link) < 0 || link->is_tls || !link->nr_in_flight ||
	    libnbd_is_dead(link) || ioctl(link->fd, FIONREAD, &here) < 0)
		return;
	while (here >= LIBNBD_MIN_REPLY_BYTES && link->nr_in_flight) {
		if (libnbd_notify_read(link) < 0 || nbd_link_state(link) >= NBD_LINK_FAILING ||
		    !link->e.libnbd.replied_bytes)
			return;
		here -= (int)link->e.libnbd.replied_bytes;
	}
}

static void libnbd_readable(struct ub_watch *watch, int32_t res)
{
	struct nbd_link *link = ub_container_of(watch, struct nbd_link, e.libnbd.readable);

	if (!libnbd_disarmed(link, &link->e.libnbd.readable_armed))
		return;
	if (res < 0) {
		nbd_link_ended(link, "its socket cannot be polled", false);
		return;
	}
	/* That it has ended is no progress. */
	if (res & (POLLERR | POLLHUP | POLLRDHUP))
		nbd_link_look_at_end(link);
	else if (res & POLLIN)
		nbd_conn_progress(link);
	libnbd_read(link);
	libnbd_look(link);
}

static void libnbd_writable(struct ub_watch *watch, int32_t res)
{
	struct nbd_link *link = ub_container_of(watch, struct nbd_link, e.libnbd.writable);

	if (!libnbd_disarmed(link, &link->e.libnbd.writable_armed))
		return;
	if (res < 0 || (res & (POLLERR | POLLHUP)))
		nbd_link_look_at_end(link);
	else
		nbd_conn_progress(link);
	nbd_reserve_look(link->conn->home);
	if (nbd.aio_get_direction(link->e.libnbd.handle) & LIBNBD_AIO_DIRECTION_WRITE)
		nbd.aio_notify_write(link->e.libnbd.handle);
	libnbd_look(link);
}

/* TLS, nothing in flight: the server hung up. */
static void libnbd_hung_up(struct ub_watch *watch, int32_t res)
{
	struct nbd_link *link = ub_container_of(watch, struct nbd_link, e.libnbd.hung_up);

	(void)res;
	if (!libnbd_disarmed(link, &link->e.libnbd.hung_up_armed) || link->nr_in_flight)
		return;
	nbd_link_look_at_end(link);
	nbd_link_ended(link, "the server closed the connection", false);
}

static void libnbd_arm_watch(struct nbd_link *link, struct ub_watch *watch, bool *armed,
			     uint32_t events)
{
	if (*armed)
		return;
	*armed = true;
	link->conn->home->nr_armed++;
	atomic_fetch_add_explicit(&link->nr_armed, 1, memory_order_relaxed);
	watch->queue = link->conn->home->bq->queue;
	ub_watch_arm(watch, link->fd, events);
}

static void libnbd_arm(struct nbd_link *link)
{
	struct nbd_libnbd *e = &link->e.libnbd;
	unsigned direction = nbd.aio_get_direction(e->handle);

	/* A command that libnbd took, and died of when it sent it: no event may tell. */
	if (!direction && libnbd_is_dead(link)) {
		nbd_conn_kick(link->conn); /* its retirement is the next turn's */
		return;
	}
	/*
	 * Under TLS there may be bytes that are no reply, such as a session ticket: they wait for
	 * one.
	 */
	if (!link->is_tls || link->nr_in_flight)
		libnbd_arm_watch(link, &e->readable, &e->readable_armed, POLLIN | POLLRDHUP);
	else
		libnbd_arm_watch(link, &e->hung_up, &e->hung_up_armed, POLLRDHUP);
	if (direction & LIBNBD_AIO_DIRECTION_WRITE)
		libnbd_arm_watch(link, &e->writable, &e->writable_armed, POLLOUT);
}

static void libnbd_end_batch(struct nbd_link *link)
{
	if (link->e.libnbd.nr_sent >= 2 && link->kind == UB_CONN_TCP)
		libnbd_cork(link, 0);
	link->e.libnbd.nr_sent = 0;
	libnbd_arm(link);
}

/* ---- its life ------------------------------------------------------------ */

static int libnbd_take(struct nbd_link *link, const struct nbd_wire *wire)
{
	struct nbd_libnbd *e = &link->e.libnbd;

	e->handle = wire->handle;
	e->readable.ready = libnbd_readable;
	e->writable.ready = libnbd_writable;
	e->hung_up.ready = libnbd_hung_up;
	link->is_ready = nbd.aio_is_ready(e->handle);
	return 0;
}

static bool libnbd_is_idle(const struct nbd_link *link)
{
	return atomic_load_explicit(&link->nr_armed, memory_order_acquire) == 0;
}

static void libnbd_bye(struct nbd_link *link)
{
	nbd.aio_disconnect(link->e.libnbd.handle, 0);
}

static void libnbd_close(struct nbd_link *link)
{
	nbd.close(link->e.libnbd.handle);
}

const struct nbd_engine nbd_engine_libnbd = {
	.name = "libnbd",
	/* they tell where a read failed, send holes without data, and block status needs them */
	.wants_structured_replies = true,
	.take = libnbd_take,
	.send = libnbd_send,
	.end_batch = libnbd_end_batch,
	.is_idle = libnbd_is_idle,
	.bye = libnbd_bye,
	.close = libnbd_close,
};
