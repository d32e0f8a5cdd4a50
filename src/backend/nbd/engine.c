/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands and replies, on the queues' own threads, through libnbd's asynchronous calls.
 *
 * The socket is polled on the queue's ring, one-shot and level-triggered. libnbd is told to read
 * once an event, and again only while bytes are known to be there. Told so when there is nothing,
 * it believes that a reply has begun, and sends no command before that has come, nor the rest of
 * one that is sent half: then the server waits for us, and we for it. That cannot be avoided, but
 * undone: link_notify_read(). libnbd's callbacks run inside its calls and must not call it: they
 * change lists, and what follows is done when the call has returned.
 */
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>

#include <ublk-bridge/page.h>

#include "backend/nbd/nbd.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/socket.h"

/* a stall timeout has so many; it is noticed one of them late at the most */
#define ENGINE_TICKS	     4
#define ENGINE_MAX_SLOW	     16	  /* doublings of a request's time */
#define ENGINE_MAX_WRONG     8	  /* wrong answers to one request; then it fails */
#define ENGINE_SUSPECTS	     4	  /* … from so many on those that may be it are sent one by one */
#define ENGINE_PROBE_MS	     1000 /* for so long a sign of life is expected of what is in flight */
#define ENGINE_SAY_MEMORY_MS 10000 /* not more often */
/* how often is looked, at least, whether what waits for a range may go */
#define ENGINE_FENCE_MS	 200
#define ENGINE_MEMORY_MS 10 /* how often is looked whether memory is short */
#define ENGINE_MIN_REPLY 16 /* bytes of the shortest one */
#define ENGINE_CHUNK	 20 /* bytes of a structured reply's header */
#define ENGINE_MAX_PIECE 32 /* … of a READ, with all that follows but the data */

/* ---- lists --------------------------------------------------------------- */

static void list_add(struct nbd_list *list, struct nbd_cmd *cmd)
{
	cmd->prev = list->last;
	cmd->next = NULL;
	if (list->last)
		list->last->next = cmd;
	else
		list->first = cmd;
	list->last = cmd;
}

static void list_add_first(struct nbd_list *list, struct nbd_cmd *cmd)
{
	cmd->prev = NULL;
	cmd->next = list->first;
	if (list->first)
		list->first->prev = cmd;
	else
		list->last = cmd;
	list->first = cmd;
}

static void list_remove(struct nbd_list *list, struct nbd_cmd *cmd)
{
	if (cmd->prev)
		cmd->prev->next = cmd->next;
	else
		list->first = cmd->next;
	if (cmd->next)
		cmd->next->prev = cmd->prev;
	else
		list->last = cmd->prev;
}

/* Puts all of `from` before what is in `list`. */
static void list_splice_first(struct nbd_list *list, struct nbd_list *from)
{
	if (!from->first)
		return;
	from->last->next = list->first;
	if (list->first)
		list->first->prev = from->last;
	else
		list->last = from->last;
	list->first = from->first;
	from->first = from->last = NULL;
}

/* ---- an I/O's end, and where it goes ------------------------------------- */

static void cmd_internal_done(struct nbd_cmd *cmd, int32_t res)
{
	struct nbd_internal *internal = ub_container_of(cmd, struct nbd_internal, cmd);
	struct nbd_link *link = ub_container_of(internal, struct nbd_link, internal);

	internal->is_busy = false;
	if (internal->io.op == UB_OP_FLUSH && res < 0)
		link->cannot_flush = true;
}

/* The one place that every I/O passes when it is answered. */
static void cmd_complete(struct nbd_cmd *cmd, int32_t res)
{
	if (__builtin_expect(cmd->is_internal, 0)) {
		cmd_internal_done(cmd, res);
		return;
	}
	/*
	 * Before the kernel may send a newer change of the same blocks. One in parts keeps its own
	 * until give_back().
	 */
	if (__builtin_expect(cmd->has_ranges, 0) && !(cmd->io->flags & UB_PART))
		nbd_fence_done(cmd->be, cmd);
	cmd->io->losses = atomic_load_explicit(&cmd->be->nr_losses, memory_order_relaxed);
	ub_io_complete(cmd->io, res);
}

static void conn_add(struct nbd_conn *conn, struct nbd_cmd *cmd);
static void conn_add_posted(struct nbd_conn *conn, struct nbd_cmd *cmd);

static void conn_take_inbox(struct ub_msg *msg, struct ub_queue *q)
{
	struct nbd_conn *conn = ub_container_of(msg, struct nbd_conn, inbox_msg);
	/*
	 * Who finds the inbox empty posts the message again: the mailbox is done with it before
	 * that.
	 */
	struct nbd_cmd *cmd = atomic_exchange_explicit(&conn->inbox, NULL, memory_order_acq_rel);
	struct nbd_cmd *oldest = NULL;

	(void)q;
	while (cmd) {
		struct nbd_cmd *next = cmd->posted;

		cmd->posted = oldest;
		oldest = cmd;
		cmd = next;
	}
	while (oldest) {
		cmd = oldest;
		oldest = cmd->posted;
		conn_add_posted(conn, cmd);
	}
}

/* Hands an I/O to a conn that another thread is the home of. */
static void conn_post(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	struct nbd_cmd *head = atomic_load_explicit(&conn->inbox, memory_order_relaxed);

	do {
		cmd->posted = head;
	} while (!atomic_compare_exchange_weak_explicit(&conn->inbox, &head, cmd,
							memory_order_acq_rel,
							memory_order_relaxed));
	if (head)
		return;
	/* Here and not when its home starts: that may come later than another queue's first I/O. */
	conn->inbox_msg.fn = conn_take_inbox;
	ub_queue_post(conn->home->bq->queue, &conn->inbox_msg);
}

/* The conn of this queue that works and has the least to do; NULL: none works. */
static struct nbd_conn *queue_own_conn(const struct nbd_queue *nq)
{
	struct nbd_conn *best = NULL;

	for (unsigned i = 0; i < nq->nr_own; i++) {
		struct nbd_conn *conn = nq->own[i];

		if (conn->link && !conn->link->failing &&
		    !atomic_load_explicit(&conn->is_stalled, memory_order_relaxed) &&
		    (!best || conn->link->nr_in_flight < best->link->nr_in_flight))
			best = conn;
	}
	return best;
}

/* Any conn that works, of whichever queue; NULL: none does. */
static struct nbd_conn *queue_any_conn(const struct nbd_queue *nq)
{
	const struct nbd_backend *be = nq->be;

	for (unsigned i = 0; i < be->nr_conns; i++) {
		struct nbd_conn *conn = &be->conns[(nq->bq->qid + i) % be->nr_conns];

		if (atomic_load_explicit(&conn->is_online, memory_order_acquire))
			return conn;
	}
	return NULL;
}

/*
 * The next conn that a FLUSH has to be sent to, because changes were answered there; NULL: there is
 * none. An offline one has nothing to flush, and would keep it for as long as it is so.
 */
static struct nbd_conn *flush_target(struct nbd_cmd *cmd)
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

/*
 * It has been wherever it had to be, and nothing was lost since it was last sent: then that one
 * covered what is left.
 */
static bool flush_is_done(const struct nbd_cmd *cmd)
{
	return cmd->was_flushed &&
	       cmd->losses == atomic_load_explicit(&cmd->be->nr_losses, memory_order_acquire);
}

/* One of our own, and not the application's. */
static bool cmd_is_ours(const struct nbd_cmd *cmd)
{
	return cmd->is_internal || cmd->io->slot >= cmd->be->depth;
}

/*
 * A server says once that something could not be written: the application hears of it, though it
 * was we who asked.
 */
static void flush_complete(struct nbd_cmd *cmd)
{
	cmd_complete(cmd,
		     cmd->is_internal ? 0 : -nbd_fence_flush_error(cmd->be, !cmd_is_ours(cmd)));
}

/*
 * Sends an I/O on its way, on this queue's thread. A FLUSH goes to every conn that has answered
 * changes: what stands behind one of them may have died, and be another one's by now, and nobody
 * could tell.
 */
static void queue_route(struct nbd_queue *nq, struct nbd_cmd *cmd)
{
	struct nbd_conn *conn = __builtin_expect(cmd->todo != 0, 0) ? flush_target(cmd) : NULL;

	if (!conn && flush_is_done(cmd)) {
		flush_complete(cmd);
		return;
	}
	if (!conn)
		conn = queue_own_conn(nq);
	if (!conn)
		conn = queue_any_conn(nq);
	if (!conn)
		conn = nq->nr_own ? nq->own[0] : &nq->be->conns[nq->bq->qid % nq->be->nr_conns];
	assert(conn);
	if (conn->home == nq)
		conn_add(conn, cmd);
	else
		conn_post(conn, cmd);
}

/* ---- commands ------------------------------------------------------------ */

static void link_fail(struct nbd_link *link, const char *why)
{
	if (link->failing)
		return;
	link->failing = true;
	snprintf(link->why, sizeof(link->why), "%s", why);
}

/* Before anything is done to it: afterwards nobody can tell who ended it. */
static void link_look_at_end(struct nbd_link *link)
{
	link->is_closed_by_peer |= ub_socket_is_closed_by_peer(link->fd, link->kind);
}

/* Whether libnbd has given the connection up. */
static bool link_is_dead(struct nbd_link *link)
{
	struct pollfd pfd = { .fd = link->fd, .events = POLLRDHUP };

	if (link->failing)
		return true;
	if (nbd.aio_is_closed(link->handle)) {
		link_look_at_end(link);
		link_fail(link, "the server closed the connection");
	} else if (nbd.aio_is_dead(link->handle)) {
		/* nobody has ended it: libnbd did not like what it read */
		link->is_wrong = poll(&pfd, 1, 0) == 0;
		link_look_at_end(link);
		link_fail(link, nbd_session_reason());
	}
	return link->failing;
}

/*
 * A number for each place in a READ, of which no sums are alike by chance. Pieces of data are
 * summed up as edge(end) - edge(begin): that is edge(length) - edge(0) when each piece begins where
 * another one ends, and so only when they cover everything, and nothing twice. Their order does not
 * matter.
 */
static uint64_t read_edge(uint64_t at)
{
	at = (at + 1) * 0x9e3779b97f4a7c15ULL;
	at = (at ^ at >> 32) * 0xd6e8feb86659fd93ULL;
	return at ^ at >> 32;
}

/*
 * Data of a READ under structured replies: libnbd tells, and does not insist, that all of it comes.
 */
static int cmd_chunk(void *arg, const void *data, size_t len, uint64_t offset, unsigned status,
		     int *error)
{
	struct nbd_cmd *cmd = arg;

	(void)data;
	(void)error;
	if (status == LIBNBD_READ_ERROR)
		return 0;
	offset -= cmd->io->offset_bytes + cmd->done_bytes;
	cmd->seen_bytes += (uint32_t)len;
	cmd->seen_edges += read_edge(offset + len) - read_edge(offset);
	cmd->link->replied_bytes +=
		ENGINE_MAX_PIECE + (status == LIBNBD_READ_DATA ? (uint32_t)len : 0);
	return 0;
}

static bool cmd_has_all(const struct nbd_cmd *cmd)
{
	/* A simple reply has all of it. */
	if (!cmd->link->has_structured_replies)
		return true;
	return cmd->seen_bytes == cmd->part_bytes &&
	       cmd->seen_edges == read_edge(cmd->part_bytes) - read_edge(0);
}

/* The most that the answer's end has taken, behind what cmd_chunk() counted. */
static uint32_t cmd_reply_bytes(const struct nbd_cmd *cmd)
{
	if (cmd->link->has_structured_replies)
		return ENGINE_CHUNK;
	return ENGINE_MIN_REPLY + (cmd->io->op == UB_OP_READ ? cmd->part_bytes : 0);
}

static struct ub_backend_queue_stats *conn_stats(const struct nbd_conn *conn)
{
	return conn->home->bq->stats;
}

static void cmd_count_sent(struct nbd_cmd *cmd, const struct nbd_conn *conn)
{
	ub_stat_add(&conn_stats(conn)->requests, 1);
	if (cmd->is_again)
		ub_stat_add(&conn_stats(conn)->retries, 1);
	cmd->is_again = false;
	cmd->sent_ns = ub_queue_turn_ns(conn->home->bq->queue);
}

/* Its answer is there, or none will come. */
static void cmd_count_wait(const struct nbd_cmd *cmd, const struct nbd_conn *conn)
{
	ub_stat_add(&conn_stats(conn)->wait_ns,
		    ub_queue_turn_ns(conn->home->bq->queue) - cmd->sent_ns);
}

/*
 * Whether one of the conn's links has answered changes that it has not flushed: for FLUSHes of
 * other queues.
 */
static void conn_note_unflushed(struct nbd_conn *conn)
{
	bool has =
		conn->is_flush_due ||
		(conn->link && conn->link->answered_bytes != conn->link->flushed_bytes) ||
		(conn->draining && conn->draining->answered_bytes != conn->draining->flushed_bytes);

	if (atomic_load_explicit(&conn->has_unflushed, memory_order_relaxed) != has)
		atomic_store_explicit(&conn->has_unflushed, has, memory_order_release);
}

static void link_note_unflushed(struct nbd_link *link)
{
	atomic_store_explicit(link->unflushed, link->answered_bytes - link->flushed_bytes,
			      memory_order_release);
	conn_note_unflushed(link->conn);
}

/* Before it is completed: a FLUSH that follows must find it. */
static void link_count_answered(struct nbd_link *link, const struct nbd_cmd *cmd)
{
	if ((cmd->io->flags & UB_FUA) || !cmd->be->limits.can_flush)
		return;
	link->answered_bytes += cmd->part_bytes;
	link_note_unflushed(link);
}

/* It waits at the head of the line: callbacks must not call libnbd. */
static void conn_put_first(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	list_add_first(&conn->waiting, cmd);
	conn->must_issue = true;
}

static void flush_answered(struct nbd_link *link, struct nbd_cmd *cmd)
{
	struct nbd_conn *conn = link->conn;

	if (cmd->flush_mark > link->flushed_bytes) {
		link->flushed_bytes = cmd->flush_mark;
		link_note_unflushed(link);
	}
	if (cmd->is_internal) {
		cmd_complete(cmd, 0);
		return;
	}
	cmd->was_flushed = true;
	if (link == conn->draining) {
		cmd->was_old_flushed = true;
		conn_put_first(conn, cmd);
		return;
	}
	cmd->was_old_flushed = false;
	cmd->todo &= ~(1ULL << conn->index);
	/* A FLUSH that was sent before this became due does not cover it. */
	if (conn->is_flush_due &&
	    cmd->losses == atomic_load_explicit(&cmd->be->nr_losses, memory_order_acquire)) {
		conn->is_flush_due = false;
		conn_note_unflushed(conn);
	}
	if (flush_target(cmd) || !flush_is_done(cmd))
		conn_put_first(conn, cmd);
	else
		flush_complete(cmd);
}

/*
 * A part was answered. What an earlier one has changed may have been lost since, and nobody was
 * told yet that it was done: then all of it is sent again.
 */
static bool cmd_has_lost_parts(struct nbd_cmd *cmd)
{
	uint64_t losses = atomic_load_explicit(&cmd->be->nr_losses, memory_order_relaxed);

	if (cmd->done_bytes == cmd->part_bytes)
		cmd->losses = losses;
	return cmd->losses != losses;
}

static void cmd_take_answer(struct nbd_link *link, struct nbd_cmd *cmd, int code)
{
	struct ub_io *io = cmd->io;
	bool changes = nbd_op_changes(io->op);

	if (changes)
		ub_fence_answer(cmd->rec);
	if (code) {
		if (io->op == UB_OP_FLUSH && cmd_is_ours(cmd))
			nbd_fence_keep_flush_error(cmd->be, code);
		cmd_complete(cmd, -code);
		return;
	}
	if (io->op == UB_OP_FLUSH) {
		flush_answered(link, cmd);
		return;
	}
	if (changes)
		link_count_answered(link, cmd);
	cmd->done_bytes += cmd->part_bytes;
	if (__builtin_expect(cmd->part_bytes == io->len_bytes, 1)) {
		cmd_complete(cmd, (int32_t)io->len_bytes);
		return;
	}
	if (changes && cmd_has_lost_parts(cmd))
		cmd->done_bytes = 0;
	if (cmd->done_bytes < io->len_bytes)
		conn_put_first(link->conn, cmd);
	else
		cmd_complete(cmd, (int32_t)io->len_bytes);
}

/* libnbd: a command was answered, or its connection ended. Returns 1: libnbd may forget it. */
static int cmd_answered(void *arg, int *error)
{
	struct nbd_cmd *cmd = arg;
	struct nbd_link *link = cmd->link;
	int code = *error;

	/* Neither is an answer: it stays in flight, and is sent again over another connection. */
	if (code == ENOTCONN)
		return 1;
	if (code == ESHUTDOWN) {
		link_fail(link, "the server is shutting down");
		return 1;
	}
	if (__builtin_expect(atomic_load_explicit(&cmd->be->fence.nr_unproven,
						  memory_order_relaxed) != 0,
			     0))
		nbd_fence_prove(cmd->be, cmd->sent_seq);
	/* With an error comes a text of whatever length. */
	link->replied_bytes = code ? 0 : link->replied_bytes + cmd_reply_bytes(cmd);
	if (cmd->io->op == UB_OP_READ && code == 0 && !cmd_has_all(cmd)) {
		cmd->nr_wrong++;
		link_fail(link,
			  "the server answered a read with too few bytes, or with some twice");
		return 1;
	}
	link->has_answered = link->has_progress = true;
	link->nr_done_again += cmd->was_sent;
	cmd_count_wait(cmd, link->conn);
	list_remove(&link->in_flight, cmd);
	link->nr_in_flight--;
	cmd->link = NULL;
	cmd_take_answer(link, cmd, code);
	return 1;
}

/*
 * libnbd: what a range begins with, as pairs of length and state. One is what was asked for: the
 * list of all can be long, and is sent in many small parts.
 */
static int cmd_extents(void *arg, const char *context, uint64_t offset, uint32_t *entries,
		       size_t nr, int *error)
{
	struct nbd_cmd *cmd = arg;
	struct ub_extent *extent = cmd->io->buf;
	uint64_t len = 0;
	size_t i = 0;

	(void)context;
	(void)offset;
	(void)error;
	cmd->link->replied_bytes += ENGINE_MAX_PIECE + (uint32_t)(nr * sizeof(*entries));
	if (nr < 2)
		return 0;
	extent->is_zero = entries[1] & LIBNBD_STATE_ZERO;
	for (; i + 1 < nr && !!(entries[i + 1] & LIBNBD_STATE_ZERO) == extent->is_zero; i += 2)
		len += entries[i];
	extent->len_bytes = len < cmd->io->len_bytes ? (uint32_t)len : cmd->io->len_bytes;
	return 0;
}

static int64_t link_call(struct nbd_link *link, struct nbd_cmd *cmd)
{
	const nbd_completion_callback answered = { .callback = cmd_answered, .user_data = cmd };
	const nbd_extent_callback extents = { .callback = cmd_extents, .user_data = cmd };
	const nbd_chunk_callback chunk = { .callback = cmd_chunk, .user_data = cmd };
	const struct ub_io *io = cmd->io;
	uint32_t fua = io->flags & UB_FUA ? LIBNBD_CMD_FLAG_FUA : 0;
	uint32_t no_hole = io->flags & UB_NOUNMAP ? LIBNBD_CMD_FLAG_NO_HOLE : 0;
	uint64_t offset = io->offset_bytes + cmd->done_bytes;
	char *data = (char *)io->buf + cmd->done_bytes;

	switch (io->op) {
	case UB_OP_READ:
		if (link->has_structured_replies)
			return nbd.aio_pread_structured(link->handle, data, cmd->part_bytes, offset,
							chunk, answered, 0);
		cmd->seen_bytes = cmd->part_bytes;
		return nbd.aio_pread(link->handle, data, cmd->part_bytes, offset, answered, 0);
	case UB_OP_WRITE:
		return nbd.aio_pwrite(link->handle, data, cmd->part_bytes, offset, answered, fua);
	case UB_OP_STATUS:
		/*
		 * A server that says nothing of the range has said nothing: no part of it is known.
		 */
		*(struct ub_extent *)io->buf = (struct ub_extent){ .len_bytes = io->len_bytes };
		return nbd.aio_block_status(link->handle, cmd->part_bytes, offset, extents,
					    answered, LIBNBD_CMD_FLAG_REQ_ONE);
	case UB_OP_FLUSH:
		return nbd.aio_flush(link->handle, answered, 0);
	case UB_OP_DISCARD:
		return nbd.aio_trim(link->handle, cmd->part_bytes, offset, answered, 0);
	default:
		return nbd.aio_zero(link->handle, cmd->part_bytes, offset, answered, fua | no_hole);
	}
}

static void conn_start_ticking(struct nbd_conn *conn)
{
	conn->is_ticking = true;
	conn->has_progress = true;
	conn->quiet_ticks = 0;
	ub_timer_set(&conn->tick, conn->stall_timeout_ms / ENGINE_TICKS + 1);
}

static void link_cork(struct nbd_link *link, int on)
{
	setsockopt(link->fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on));
}

/*
 * libnbd sends each command by itself, and TCP makes a segment of each: what follows the first one
 * of a batch waits for the batch's end.
 */
static void link_count_sent(struct nbd_link *link)
{
	if (++link->nr_sent == 2 && link->kind == UB_CONN_TCP)
		link_cork(link, 1);
}

static void link_end_batch(struct nbd_link *link)
{
	if (link->nr_sent >= 2 && link->kind == UB_CONN_TCP)
		link_cork(link, 0);
	link->nr_sent = 0;
}

static void link_mark_flush(const struct nbd_link *link, struct nbd_cmd *cmd)
{
	cmd->flush_mark = link->answered_bytes;
	cmd->losses = atomic_load_explicit(&cmd->be->nr_losses, memory_order_acquire);
}

/* False: libnbd has no memory for it, and nothing of it was sent. */
static bool link_issue(struct nbd_link *link, struct nbd_cmd *cmd)
{
	uint32_t left = cmd->io->len_bytes - cmd->done_bytes;

	if (__builtin_expect(cmd->io->op == UB_OP_STATUS && !link->has_status, 0)) {
		cmd_complete(cmd, -EOPNOTSUPP);
		return true;
	}
	cmd->link = link;
	cmd->seen_bytes = 0;
	cmd->seen_edges = 0;
	cmd->part_bytes = left;
	if (cmd->io->op <= UB_OP_WRITE && left > link->max_payload_bytes)
		cmd->part_bytes = link->max_payload_bytes;
	cmd->sent_seq = atomic_load_explicit(&cmd->be->fence.seq, memory_order_acquire);
	/* Before it can be anywhere: whoever comes after our death must know of it. */
	if (nbd_op_changes(cmd->io->op))
		ub_fence_send(cmd->rec, link->entry, cmd->io->op, cmd->io->offset_bytes,
			      cmd->io->len_bytes);
	else if (cmd->io->op == UB_OP_FLUSH)
		link_mark_flush(link, cmd);
	link->nr_got_again += cmd->was_sent;
	list_add(&link->in_flight, cmd);
	link->nr_in_flight++;
	if (!link->conn->is_ticking)
		conn_start_ticking(link->conn);
	link_count_sent(link);
	cmd_count_sent(cmd, link->conn);
	if (link_call(link, cmd) >= 0 || link_is_dead(link))
		return true; /* of a dead one it stays in the list, to be sent again */
	list_remove(&link->in_flight, cmd);
	link->nr_in_flight--;
	cmd->link = NULL;
	if (nbd_op_changes(cmd->io->op))
		ub_fence_answer(cmd->rec);
	if (nbd.get_errno() == ENOMEM)
		return false;
	cmd_complete(cmd, nbd.get_errno() ? -nbd.get_errno() : -EIO);
	return true;
}

/* ---- conns --------------------------------------------------------------- */

static bool link_has_unflushed(const struct nbd_link *link)
{
	return link->answered_bytes != link->flushed_bytes && link->conn->be->limits.can_flush;
}

/*
 * libnbd takes a command at any time, and can give none back: so it gets each when it can send it,
 * and no earlier.
 */
static bool link_is_ready(const struct nbd_link *link)
{
	return !link->failing && nbd.aio_is_ready(link->handle);
}

/* Whether new requests may be sent on it: on a stalled one they would wait, too. */
static bool conn_works(const struct nbd_conn *conn)
{
	return conn->link && !conn->link->failing && !conn->link->is_leaving &&
	       !atomic_load_explicit(&conn->is_stalled, memory_order_relaxed);
}

/* A FLUSH is for both links of a conn, the older one first. */
static bool cmd_is_for_draining(const struct nbd_conn *conn, const struct nbd_cmd *cmd)
{
	return cmd->io->op == UB_OP_FLUSH && conn->draining && !cmd->was_old_flushed &&
	       link_has_unflushed(conn->draining);
}

/*
 * Connections have ended over answers that nobody could understand, and it is not known to which
 * request those were. A request that is alone in flight is the one; so the suspects are sent alone.
 */
static bool conn_must_wait_for_suspect(struct nbd_conn *conn)
{
	bool has_suspects = false;

	if (__builtin_expect(!conn->is_careful, 1))
		return false;
	for (const struct nbd_cmd *cmd = conn->link->in_flight.first; cmd; cmd = cmd->next)
		has_suspects |= cmd->nr_wrong >= ENGINE_SUSPECTS;
	for (const struct nbd_cmd *cmd = conn->waiting.first; cmd; cmd = cmd->next)
		has_suspects |= cmd->nr_wrong >= ENGINE_SUSPECTS;
	conn->is_careful = has_suspects;
	return has_suspects && conn->link->nr_in_flight;
}

static bool conn_may_issue(struct nbd_conn *conn, const struct nbd_cmd *cmd)
{
	if (__builtin_expect(conn->draining != NULL, 0) && cmd_is_for_draining(conn, cmd))
		return link_is_ready(conn->draining);
	return conn_works(conn) && link_is_ready(conn->link) && !conn_must_wait_for_suspect(conn);
}

/* A change that overlaps a range. Nobody waits for what a device is being moved to. */
static void conn_hold(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	if (atomic_load_explicit(&conn->be->backend->is_destination, memory_order_relaxed)) {
		cmd_complete(cmd, -ENOLINK);
		return;
	}
	if (!conn->fenced.first)
		ub_timer_set(&conn->fence, 1);
	list_add(&conn->fenced, cmd);
	nbd_fence_count_waiting(conn->be, true);
}

/* A request that libnbd had no memory for is tried again soon, as if it waited for a range. */
static void conn_hold_for_memory(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	uint64_t now = ub_now_ms();

	if (!conn->said_memory_ms || now - conn->said_memory_ms > ENGINE_SAY_MEMORY_MS) {
		ub_log(UB_LOG_WARNING,
		       "%s: there is no memory to send a request: it is tried again",
		       conn->be->server);
		conn->said_memory_ms = now;
	}
	conn->lacks_memory = true;
	conn_hold(conn, cmd);
}

/* Those that wait for a range are looked at again, in their order. */
static void conn_take_fenced(struct nbd_conn *conn)
{
	conn->lacks_memory = false;
	for (const struct nbd_cmd *cmd = conn->fenced.first; cmd; cmd = cmd->next)
		nbd_fence_count_waiting(conn->be, false);
	list_splice_first(&conn->waiting, &conn->fenced);
}

/* Sends what conn_may_issue(). */
static void conn_send(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	struct nbd_backend *be = conn->be;

	if (nbd_op_changes(cmd->io->op) &&
	    __builtin_expect(atomic_load_explicit(&be->fence.nr_live, memory_order_acquire) != 0,
			     0) &&
	    !nbd_fence_may_pass(be, cmd))
		conn_hold(conn, cmd);
	else if (!link_issue(__builtin_expect(conn->draining != NULL, 0) &&
					     cmd_is_for_draining(conn, cmd) ?
				     conn->draining :
				     conn->link,
			     cmd))
		conn_hold_for_memory(conn, cmd);
}

static void conn_fail_waiting(struct nbd_conn *conn, int32_t error)
{
	conn_take_fenced(conn);
	while (conn->waiting.first) {
		struct nbd_cmd *cmd = conn->waiting.first;

		list_remove(&conn->waiting, cmd);
		cmd_complete(cmd, error);
	}
}

/* Those that the server has answered in a way that cannot be used, again and again. */
static void conn_fail_wrong(struct nbd_conn *conn, const char *why)
{
	struct nbd_cmd *cmd = conn->waiting.first, *next;

	for (; cmd; cmd = next) {
		next = cmd->next;
		if (cmd->nr_wrong < ENGINE_MAX_WRONG)
			continue;
		ub_log(UB_LOG_WARNING,
		       "%s: a request of %u bytes at byte %llu fails: %u connections ended over "
		       "it: %s",
		       conn->be->server, cmd->io->len_bytes,
		       (unsigned long long)cmd->io->offset_bytes, cmd->nr_wrong, why);
		list_remove(&conn->waiting, cmd);
		cmd_complete(cmd, -EIO);
	}
}

/* The error that all I/O ends with from now on; 0: none. */
static int32_t conn_final_error(const struct nbd_conn *conn)
{
	if (conn->cancel_error)
		return conn->cancel_error;
	return atomic_load_explicit(&conn->be->has_failed, memory_order_acquire) ? -EIO : 0;
}

/* No server answers with ENOLINK: who mirrors can tell an outage by it. */
static int32_t conn_outage_error(const struct nbd_conn *conn)
{
	return atomic_load_explicit(&conn->be->backend->is_destination, memory_order_relaxed) ?
		       -ENOLINK :
		       -EIO;
}

/* How long no connection has worked; 0: one does. */
static uint64_t conn_outage_ms(const struct nbd_conn *conn)
{
	uint64_t since = atomic_load_explicit(&conn->be->quiet_since_ms, memory_order_acquire),
		 now = ub_now_ms();

	return since ? (now > since ? now - since : 1) : 0;
}

/* The error that I/O on an offline conn ends with by now; 0: it waits. */
static int32_t conn_offline_error(const struct nbd_conn *conn)
{
	uint64_t limit = conn->outage_limit_ms, over;
	int32_t error = conn_final_error(conn);

	if (error || conn->link || limit == NBD_NO_LIMIT)
		return error;
	over = conn_outage_ms(conn);
	return over && over >= limit ? conn_outage_error(conn) : 0;
}

static void conn_wait(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	int32_t error = conn_offline_error(conn);

	if (error)
		cmd_complete(cmd, error);
	else
		list_add(&conn->waiting, cmd);
}

static void conn_add(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	if (!conn->waiting.first && conn_may_issue(conn, cmd))
		conn_send(conn, cmd);
	else
		conn_wait(conn, cmd);
	conn->must_issue |= conn->waiting.first && conn->link;
}

/*
 * As conn_add(), of what another thread sent when this conn worked: it may have ended since then.
 */
static void conn_add_posted(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	if (!conn->link && !conn_final_error(conn) &&
	    (queue_own_conn(conn->home) || queue_any_conn(conn->home)))
		queue_route(conn->home, cmd);
	else
		conn_add(conn, cmd);
}

/* A FLUSH that has to go to another conn. */
static bool flush_is_elsewhere(const struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	const struct nbd_conn *target;

	if (cmd->io->op != UB_OP_FLUSH || (!cmd->todo && !cmd->was_flushed) || cmd->was_old_flushed)
		return false;
	target = flush_target(cmd);
	return target ? target != conn : flush_is_done(cmd);
}

/* Sends what waits and may go, in its order. */
static void conn_issue_waiting(struct nbd_conn *conn)
{
	struct nbd_cmd *cmd = conn->waiting.first, *next;

	conn->must_issue = false;
	for (; cmd; cmd = next) {
		next = cmd->next;
		if (flush_is_elsewhere(conn, cmd)) {
			list_remove(&conn->waiting, cmd);
			queue_route(conn->home, cmd);
		} else if (conn_may_issue(conn, cmd)) {
			list_remove(&conn->waiting, cmd);
			conn_send(conn, cmd);
		} else if (cmd->io->op != UB_OP_FLUSH && !conn->draining) {
			break; /* nor may what follows */
		}
	}
}

/* An offline conn's I/O goes over another one, if there is one that works. */
static void conn_reroute(struct nbd_conn *conn)
{
	struct nbd_list list;

	if (!queue_own_conn(conn->home) && !queue_any_conn(conn->home))
		return;
	conn_take_fenced(conn);
	list = conn->waiting;
	conn->waiting.first = conn->waiting.last = NULL;
	while (list.first) {
		struct nbd_cmd *cmd = list.first;

		list_remove(&list, cmd);
		cmd->was_old_flushed = false;
		queue_route(conn->home, cmd);
	}
}

/* What waits is sent, goes over another connection, or fails: an outage is one when none works. */
static void conn_look_at_waiting(struct nbd_conn *conn)
{
	int32_t error = conn_final_error(conn);

	if (conn->is_resetting)
		error = -ENOLINK;
	if (!error && conn_works(conn)) {
		conn_take_fenced(conn);
		conn_issue_waiting(conn);
		return;
	}
	if (!error) {
		conn_reroute(conn);
		error = conn_offline_error(conn);
	}
	if (error)
		conn_fail_waiting(conn, error);
}

static void conn_arm_outage(struct nbd_conn *conn)
{
	uint64_t limit = conn->outage_limit_ms, over = conn_outage_ms(conn);

	if (!over || limit == NBD_NO_LIMIT)
		ub_timer_set(&conn->outage, 0);
	else
		ub_timer_set(&conn->outage, limit > over ? limit - over + 1 : 1);
}

/* An outage is one when no connection works. True: it begins. */
static bool backend_look_for_outage(struct nbd_backend *be)
{
	bool begins = false, works = false;

	for (unsigned i = 0; i < be->nr_conns; i++)
		works |= atomic_load_explicit(&be->conns[i].is_online, memory_order_relaxed);
	if (works) {
		atomic_store_explicit(&be->quiet_since_ms, 0, memory_order_release);
	} else if (!atomic_load_explicit(&be->quiet_since_ms, memory_order_relaxed)) {
		atomic_store_explicit(&be->quiet_since_ms, ub_now_ms(), memory_order_release);
		begins = true;
	}
	return begins;
}

void nbd_engine_kick_all(struct nbd_backend *be)
{
	for (unsigned i = 0; i < be->nr_conns; i++)
		nbd_engine_kick(&be->conns[i]);
}

void nbd_engine_note_outage(struct nbd_backend *be)
{
	bool begins;

	pthread_mutex_lock(&be->works_lock);
	begins = backend_look_for_outage(be);
	pthread_mutex_unlock(&be->works_lock);
	if (begins)
		nbd_engine_kick_all(be);
}

static void conn_set_works(struct nbd_conn *conn, bool works)
{
	const struct nbd_queue *nq = conn->home;
	unsigned nr = 0;
	bool begins;

	pthread_mutex_lock(&conn->be->works_lock);
	atomic_store_explicit(&conn->is_online, works, memory_order_release);
	begins = backend_look_for_outage(conn->be);
	pthread_mutex_unlock(&conn->be->works_lock);
	for (unsigned i = 0; i < nq->nr_own; i++)
		nr += atomic_load_explicit(&nq->own[i]->is_online, memory_order_relaxed);
	ub_stat_set(&conn_stats(conn)->nr_online, nr);
	if (begins)
		nbd_engine_kick_all(conn->be);
}

/* Changes, and what makes them durable. */
static bool link_has_work(const struct nbd_link *link)
{
	for (const struct nbd_cmd *cmd = link->in_flight.first; cmd; cmd = cmd->next) {
		if (nbd_op_changes(cmd->io->op) || cmd->io->op == UB_OP_FLUSH)
			return true;
	}
	return false;
}

/* What it has answered is to be flushed, and no other connection can do that for certain. */
static bool link_must_flush(const struct nbd_link *link)
{
	return link_has_unflushed(link) && !link->cannot_flush;
}

/*
 * How long it may be silent once it has stalled. Who has been sent again for that reason gets
 * longer each time.
 */
static uint64_t link_patience_ms(const struct nbd_link *link)
{
	unsigned nr_slow = 0;

	for (const struct nbd_cmd *cmd = link->in_flight.first; cmd; cmd = cmd->next)
		nr_slow = cmd->nr_slow > nr_slow ? cmd->nr_slow : nr_slow;
	return (link->conn->stall_timeout_ms << nr_slow) + 1;
}

/* What it asks for by itself goes with it. */
static void link_drop_internal(struct nbd_link *link)
{
	struct nbd_internal *internal = &link->internal;

	if (!internal->is_busy)
		return;
	internal->is_busy = false;
	list_remove(&link->in_flight, &internal->cmd);
}

static void link_send_internal(struct nbd_link *link, uint8_t op)
{
	struct nbd_internal *internal = &link->internal;
	struct nbd_backend *be = link->conn->be;

	assert(!internal->is_busy);
	internal->is_busy = true;
	internal->io = (struct ub_io){ .op = op };
	if (op == UB_OP_READ) {
		internal->io.len_bytes = be->limits.logical_block_bytes;
		internal->io.buf = internal->buf;
	}
	internal->cmd = (struct nbd_cmd){ .be = be, .io = &internal->io, .is_internal = true };
	if (!link_issue(link, &internal->cmd))
		cmd_complete(&internal->cmd, -ENOMEM);
}

/* A request goes on from its beginning: what was done of it may be gone with the server. */
static void cmd_lose_link(struct nbd_cmd *cmd, const struct nbd_link *link, bool was_alone)
{
	cmd->link = NULL;
	cmd->is_again = cmd->was_sent = true;
	cmd->nr_slow = (uint8_t)(cmd->nr_slow + (link->is_slow && cmd->nr_slow < ENGINE_MAX_SLOW));
	if (link->is_wrong && cmd->nr_wrong < ENGINE_MAX_WRONG &&
	    (was_alone || cmd->nr_wrong < ENGINE_SUSPECTS))
		cmd->nr_wrong++;
	link->conn->is_careful |= cmd->nr_wrong >= ENGINE_SUSPECTS;
	if (nbd_op_changes(cmd->io->op))
		cmd->done_bytes = 0;
	cmd_count_wait(cmd, link->conn);
}

static void conn_use_link(struct nbd_conn *conn, struct nbd_link *link);

/* A conn's link ends: what it did not answer is to be sent again, and the connector gets it. */
static void conn_retire(struct nbd_conn *conn, struct nbd_link *link)
{
	struct nbd_link *reserve = conn->reserve;
	char why[NBD_WHY_BYTES];
	bool was_alone;

	snprintf(why, sizeof(why), "%s", link->why);
	link_drop_internal(link);
	was_alone = link->in_flight.first && link->in_flight.first == link->in_flight.last;
	conn->is_flush_due |= link_has_unflushed(link);
	if (link->is_polite) {
		ub_socket_set_linger(link->fd, false);
		nbd.aio_disconnect(link->handle, 0); /* a last word, if it can be said at once */
	}
	/* Before anything of it can be sent anywhere. */
	nbd_fence_end(link);
	if (link == conn->draining) {
		conn->draining = NULL;
		ub_timer_set(&conn->drain, 0);
	} else {
		conn->link = NULL;
		atomic_store_explicit(&conn->link_bytes, 0, memory_order_release);
		conn_set_works(conn, false);
		atomic_store_explicit(&conn->is_stalled, false, memory_order_relaxed);
		ub_timer_set(&conn->patience, 0);
	}
	conn_note_unflushed(conn);
	for (struct nbd_cmd *cmd = link->in_flight.first; cmd; cmd = cmd->next) {
		cmd_lose_link(cmd, link, was_alone);
		link->nr_again++;
	}
	link->nr_in_flight = 0;
	list_splice_first(&conn->waiting, &link->in_flight);
	nbd_connector_retire(link);
	conn_fail_wrong(conn, why);
	if (!conn->link && reserve) {
		conn->reserve = NULL;
		conn_use_link(conn, reserve);
	}
	conn_look_at_waiting(conn);
}

/* A stalled link's place is taken: it is read on, because its answers are the one sure sign. */
static void conn_drain(struct nbd_conn *conn)
{
	struct nbd_link *link = conn->link;

	/* What had been on the link before this one has not been on this one. */
	for (struct nbd_cmd *cmd = conn->waiting.first; cmd; cmd = cmd->next)
		cmd->was_old_flushed = false;
	link->is_draining = true;
	link->has_progress = false;
	conn->link = NULL;
	conn->draining = link;
	ub_timer_set(&conn->patience, 0);
	ub_timer_set(&conn->drain, link_patience_ms(link));
	ub_log(UB_LOG_NOTICE,
	       "%s: an old connection has unanswered writes: it is read on, for at most %llu s "
	       "more",
	       conn->be->server, (unsigned long long)link_patience_ms(link) / 1000);
}

/* Time is over for one that has stalled. */
static void link_give_up(struct nbd_link *link)
{
	link->is_slow = true;
	ub_log(UB_LOG_NOTICE,
	       "%s: connection %u gave no answer for too long: it is given up, and its %u requests "
	       "are sent again",
	       link->conn->be->server, link->conn->index + 1, link->nr_in_flight);
	link_fail(link, "the server gave no answer for too long");
}

static void conn_patience_is_over(struct ub_timer *timer)
{
	struct nbd_conn *conn = ub_container_of(timer, struct nbd_conn, patience);

	if (!conn->link || !atomic_load_explicit(&conn->is_stalled, memory_order_relaxed))
		return;
	/*
	 * Before the device is live a lost connection ends the attach, which has a time limit of
	 * its own.
	 */
	if (atomic_load(&conn->be->phase) == NBD_ATTACHING)
		ub_timer_set(&conn->patience, link_patience_ms(conn->link));
	else
		link_give_up(conn->link);
}

static void conn_drained(struct ub_timer *timer)
{
	struct nbd_conn *conn = ub_container_of(timer, struct nbd_conn, drain);
	struct nbd_link *link = conn->draining;

	if (!link)
		return;
	if (link->has_progress) {
		link->has_progress = false;
		ub_timer_set(&conn->drain, link_patience_ms(link));
	} else {
		link_give_up(link);
	}
}

/* Something waits for a range. */
static void conn_look_at_fence(struct ub_timer *timer)
{
	struct nbd_conn *conn = ub_container_of(timer, struct nbd_conn, fence);
	uint64_t ms;

	if (!conn->fenced.first)
		return;
	nbd_fence_tend(conn->be);
	ms = nbd_fence_next_ms(conn->be);
	ub_timer_set(&conn->fence, ms < ENGINE_FENCE_MS ? ms + 1 : ENGINE_FENCE_MS);
	if (ms == UINT64_MAX || conn->lacks_memory) /* there are no ranges any more */
		conn_look_at_waiting(conn);
}

/*
 * A link that is of no use but for what it still has to answer: once it has, what it answered is
 * flushed, because a FLUSH on another connection need not cover that, and then it ends. True: it
 * has ended.
 */
static bool conn_check_old_link(struct nbd_conn *conn, struct nbd_link *link)
{
	if (!link->failing) {
		if (link->is_leaving ? link->in_flight.first != NULL : link_has_work(link))
			return false;
		if (link_must_flush(link)) {
			/*
			 * A sign of life may be asked for still: there is one command of our own on
			 * a link.
			 */
			if (link_is_ready(link) && !link->internal.is_busy)
				link_send_internal(link, UB_OP_FLUSH);
			return false;
		}
		link->is_polite = !link->in_flight.first;
		link_fail(link, "its place is taken by another connection");
	}
	conn_retire(conn, link);
	return true;
}

/* ---- events -------------------------------------------------------------- */

/*
 * It works (again), and what waits at others may go over it: they may never get one of their own.
 */
static void conn_set_online(struct nbd_conn *conn)
{
	atomic_store_explicit(&conn->is_stalled, false, memory_order_release);
	ub_timer_set(&conn->patience, 0);
	conn_set_works(conn, true);
	for (unsigned i = 0; i < conn->be->nr_conns; i++) {
		if (&conn->be->conns[i] != conn)
			nbd_engine_kick(&conn->be->conns[i]);
	}
	ub_timer_set(&conn->outage, 0);
}

static void conn_progress(struct nbd_conn *conn)
{
	conn->has_progress = true;
	if (!atomic_load_explicit(&conn->is_stalled, memory_order_relaxed))
		return;
	conn_set_online(conn);
	conn->must_issue = true;
	nbd_connector_wake(conn->be);
}

/* An armed watch came back. False: of a retired link, and nothing is to be done any more. */
static bool link_disarmed(struct nbd_link *link, bool *armed)
{
	struct nbd_backend *be = link->conn->be;
	bool is_current = link->conn->link == link || link->conn->draining == link;

	*armed = false;
	link->conn->home->nr_armed--;
	/* The last one of a retired link gives it free: it must not be touched after that. */
	if (atomic_fetch_sub_explicit(&link->nr_armed, 1, memory_order_acq_rel) == 1 && !is_current)
		nbd_connector_wake(be);
	return is_current;
}

static void link_arm_watch(struct nbd_link *link, struct ub_watch *watch, bool *armed,
			   uint32_t events)
{
	if (*armed)
		return;
	*armed = true;
	link->conn->home->nr_armed++;
	atomic_fetch_add_explicit(&link->nr_armed, 1, memory_order_relaxed);
	ub_watch_arm(watch, link->fd, events);
}

static void link_arm(struct nbd_link *link)
{
	unsigned direction = nbd.aio_get_direction(link->handle);

	/* A command that libnbd took, and died of when it sent it: no event may tell. */
	if (!direction && link_is_dead(link)) {
		nbd_engine_kick(link->conn); /* its retirement is the next turn's */
		return;
	}
	/*
	 * Under TLS there may be bytes that are no reply, such as a session ticket: they wait for
	 * one.
	 */
	if (!link->is_tls || link->nr_in_flight)
		link_arm_watch(link, &link->readable, &link->readable_armed, POLLIN | POLLRDHUP);
	else
		link_arm_watch(link, &link->hung_up, &link->hung_up_armed, POLLRDHUP);
	if (direction & LIBNBD_AIO_DIRECTION_WRITE)
		link_arm_watch(link, &link->writable, &link->writable_armed, POLLOUT);
}

/*
 * Before something is sent. A send needs pages, and while memory is short those that others wait
 * for may become free only by it; nor should it wait for a CPU behind those that look for pages in
 * vain. Not for good: a real-time thread interrupts a program after each request, and gets no
 * batches.
 */
static void queue_look_at_memory(struct nbd_queue *nq)
{
	struct sysinfo info;
	bool is_short;
	uint64_t now;

	if (!nq->may_use_reserve || nq->has_looked)
		return;
	nq->has_looked = true; /* once a batch */
	now = ub_now_ms();
	if (now - nq->memory_seen_ms < ENGINE_MEMORY_MS)
		return;
	nq->memory_seen_ms = now;
	is_short =
		sysinfo(&info) == 0 && (uint64_t)info.freeram * info.mem_unit < nq->be->short_bytes;
	if (is_short != nq->uses_reserve && nbd_thread_use_reserve(is_short) == 0)
		nq->uses_reserve = is_short;
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
static int link_notify_read(struct nbd_link *link)
{
	link->replied_bytes = 0;
	if (nbd.aio_notify_read(link->handle) < 0)
		return -1;
	if (__builtin_expect(link->replied_bytes != 0, 1))
		return 0;
	if (nbd.aio_get_direction(link->handle) != LIBNBD_AIO_DIRECTION_READ ||
	    nbd.aio_is_ready(link->handle))
		return 0;
	return nbd.aio_notify_read(link->handle);
}

/* Reads replies: one, and then as many as are there for certain. */
static void link_read(struct nbd_link *link)
{
	int here = 0;

	if (link_notify_read(link) < 0 || link->is_tls || !link->nr_in_flight ||
	    link_is_dead(link) || ioctl(link->fd, FIONREAD, &here) < 0)
		return;
	while (here >= ENGINE_MIN_REPLY && link->nr_in_flight) {
		if (link_notify_read(link) < 0 || link->failing || !link->replied_bytes)
			return;
		here -= (int)link->replied_bytes;
	}
}

static void link_readable(struct ub_watch *watch, int32_t res)
{
	struct nbd_link *link = ub_container_of(watch, struct nbd_link, readable);

	if (!link_disarmed(link, &link->readable_armed) || link->failing)
		return;
	if (res < 0) {
		link_fail(link, "its socket cannot be polled");
		return;
	}
	/* That it has ended is no progress. */
	if (res & (POLLERR | POLLHUP | POLLRDHUP))
		link_look_at_end(link);
	else if ((res & POLLIN) && !link->is_draining)
		conn_progress(link->conn);
	link_read(link);
	link_is_dead(link);
	link->conn->must_issue = true; /* libnbd may take commands again */
}

static void link_writable(struct ub_watch *watch, int32_t res)
{
	struct nbd_link *link = ub_container_of(watch, struct nbd_link, writable);

	if (!link_disarmed(link, &link->writable_armed) || link->failing)
		return;
	if (res < 0 || (res & (POLLERR | POLLHUP)))
		link_look_at_end(link);
	else if (!link->is_draining)
		conn_progress(link->conn);
	queue_look_at_memory(link->conn->home);
	if (nbd.aio_get_direction(link->handle) & LIBNBD_AIO_DIRECTION_WRITE)
		nbd.aio_notify_write(link->handle);
	link_is_dead(link);
	link->conn->must_issue = true;
}

/* TLS, nothing in flight: the server hung up. */
static void link_hung_up(struct ub_watch *watch, int32_t res)
{
	struct nbd_link *link = ub_container_of(watch, struct nbd_link, hung_up);

	(void)res;
	if (!link_disarmed(link, &link->hung_up_armed) || link->failing || link->nr_in_flight)
		return;
	link_look_at_end(link);
	link_fail(link, "the server closed the connection");
}

/* A part of the stall timeout has passed. */
static void conn_tick(struct ub_timer *timer)
{
	struct nbd_conn *conn = ub_container_of(timer, struct nbd_conn, tick);

	conn->is_ticking = conn->link && conn->link->nr_in_flight;
	if (!conn->is_ticking)
		return;
	ub_timer_set(&conn->tick, conn->stall_timeout_ms / ENGINE_TICKS + 1);
	conn->quiet_ticks = conn->has_progress ? 0 : conn->quiet_ticks + 1;
	conn->has_progress = false;
	if (conn->quiet_ticks != ENGINE_TICKS)
		return;
	/*
	 * A slow server is not cut for nothing: it has as long again, and longer for what was sent
	 * again for that reason. What comes goes over another connection, where the server is safe
	 * for several.
	 */
	atomic_store_explicit(&conn->is_stalled, true, memory_order_release);
	conn_set_works(conn, false);
	ub_timer_set(&conn->patience, link_patience_ms(conn->link));
	conn_arm_outage(conn);
	conn_look_at_waiting(conn); /* what has not been sent may go over others */
	nbd_connector_wake(conn->be);
}

/* The outage limit is over. */
static void conn_outage(struct ub_timer *timer)
{
	struct nbd_conn *conn = ub_container_of(timer, struct nbd_conn, outage);

	uint64_t over = conn_outage_ms(conn);

	if (!over || over < conn->outage_limit_ms)
		conn_arm_outage(conn);
	else if (conn->link)
		link_fail(conn->link, "the server did not answer within the outage limit");
	else
		conn_look_at_waiting(conn);
}

/* The conn has no link: this one is it. */
static void conn_use_link(struct nbd_conn *conn, struct nbd_link *link)
{
	struct nbd_backend *be = conn->be;

	if (!nbd_fence_open(link)) {
		ub_log(UB_LOG_WARNING,
		       "%s: too many old connections are not over yet: no new one is used",
		       be->server);
		link->unused = true;
		nbd_connector_retire(link);
		return;
	}
	/*
	 * What stands behind it may be another server than the last one's: what that had not
	 * flushed may be lost.
	 */
	if (conn->had_link && atomic_load(&be->backend->is_destination))
		atomic_fetch_add_explicit(&be->nr_losses, 1, memory_order_acq_rel);
	conn->link = link;
	atomic_store_explicit(&conn->link_bytes, link->size_bytes, memory_order_release);
	if (conn->had_link)
		ub_stat_add(&conn_stats(conn)->reconnects, 1);
	conn->had_link = true;
	conn->quiet_ticks = 0;
	conn->has_progress = true;
	conn_set_online(conn);
}

static void conn_drop_reserve(struct nbd_conn *conn)
{
	if (!conn->reserve)
		return;
	conn->reserve->unused = true;
	nbd_connector_retire(conn->reserve);
	conn->reserve = NULL;
}

/* Another link for a conn that has one, which has stalled, or knows too little of the export. */
static void conn_take_successor(struct nbd_conn *conn, struct nbd_link *link)
{
	bool is_stalled = atomic_load_explicit(&conn->is_stalled, memory_order_relaxed);

	/* Two connections of a server that is not safe for that are never at work together. */
	if (!is_stalled || !conn->be->first.multi_conn) {
		conn_drop_reserve(conn);
		conn->reserve = link;
		conn->link->is_leaving = true;
		return;
	}
	if (conn->draining) { /* two have stalled, one after the other */
		link_give_up(conn->draining);
		conn_retire(conn, conn->draining);
	}
	if (!link_has_work(conn->link) && !link_must_flush(conn->link)) {
		link_fail(conn->link, "its place is taken by another connection");
		conn_retire(conn, conn->link);
	} else {
		conn_drain(conn);
	}
	conn_use_link(conn, link);
}

static void conn_take_link(struct ub_msg *msg, struct ub_queue *q)
{
	struct nbd_link *link = ub_container_of(msg, struct nbd_link, msg);
	struct nbd_conn *conn = link->conn;

	link->readable = (struct ub_watch){ .queue = q, .ready = link_readable };
	link->writable = (struct ub_watch){ .queue = q, .ready = link_writable };
	link->hung_up = (struct ub_watch){ .queue = q, .ready = link_hung_up };
	if (conn->cancel_error || (conn->link && !conn->link->failing &&
				   !atomic_load_explicit(&conn->is_stalled, memory_order_relaxed) &&
				   conn->link->size_bytes >= link->size_bytes)) {
		link->unused = true;
		nbd_connector_retire(link);
		return;
	}
	if (conn->link && conn->link->failing)
		conn_retire(conn, conn->link);
	if (conn->link)
		conn_take_successor(conn, link);
	else
		conn_use_link(conn, link);
	conn_look_at_waiting(conn);
}

void nbd_engine_give(struct nbd_link *link)
{
	link->msg.fn = conn_take_link;
	ub_queue_post(link->conn->home->bq->queue, &link->msg);
}

/* The time without an answer counts from now. */
static void conn_take_stall_timeout(struct nbd_conn *conn, uint64_t timeout)
{
	conn->stall_timeout_ms = timeout;
	if (conn->is_ticking && !atomic_load_explicit(&conn->is_stalled, memory_order_relaxed))
		conn_start_ticking(conn);
	if (conn->link)
		nbd_session_tune(conn->link->fd, timeout, conn->be->send_bytes);
}

static void conn_take_settings(struct nbd_conn *conn)
{
	uint64_t limit = atomic_load_explicit(&conn->be->outage_limit_ms, memory_order_relaxed);
	uint64_t timeout = atomic_load_explicit(&conn->be->stall_timeout_ms, memory_order_relaxed);

	/* It counts from the beginning of the outage, which may be longer by now. */
	conn->outage_limit_ms = limit;
	conn_arm_outage(conn);
	if (timeout != conn->stall_timeout_ms)
		conn_take_stall_timeout(conn, timeout);
}

static void conn_retire_links(struct nbd_conn *conn, const char *why)
{
	if (conn->draining) {
		link_fail(conn->draining, why);
		conn_retire(conn, conn->draining);
	}
	conn_drop_reserve(conn);
	if (conn->link) {
		link_fail(conn->link, why);
		conn_retire(conn, conn->link);
	}
}

/*
 * All that is in flight, or waits, is given up. A link with writes unanswered is fenced, as any
 * other.
 */
static void conn_reset(struct nbd_conn *conn)
{
	conn->is_resetting = true;
	conn_retire_links(conn, "its requests took too long");
	conn->is_resetting = false;
	conn_fail_waiting(conn, -ENOLINK);
}

void nbd_engine_reset(struct nbd_backend *be)
{
	for (unsigned i = 0; i < be->nr_conns; i++) {
		atomic_store_explicit(&be->conns[i].must_reset, true, memory_order_release);
		nbd_engine_kick(&be->conns[i]);
	}
}

static void conn_kicked(struct ub_msg *msg, struct ub_queue *q)
{
	struct nbd_conn *conn = ub_container_of(msg, struct nbd_conn, kick_msg);

	(void)q;
	/* An exchange: what was changed before a kick that this one stands for is seen below. */
	atomic_exchange_explicit(&conn->is_kicked, false, memory_order_acq_rel);
	conn_take_settings(conn);
	if (atomic_exchange_explicit(&conn->must_reset, false, memory_order_acq_rel))
		conn_reset(conn);
	/* What is in flight will be a sign of life itself, if it was sent late enough. */
	if (atomic_exchange_explicit(&conn->must_probe, false, memory_order_acq_rel) &&
	    conn_works(conn) && link_is_ready(conn->link) && !conn->link->internal.is_busy &&
	    (!conn->link->nr_in_flight || nbd_fence_unproven_ms(conn->be) >= ENGINE_PROBE_MS))
		link_send_internal(conn->link, UB_OP_READ);
	conn_look_at_waiting(conn);
}

void nbd_engine_kick(struct nbd_conn *conn)
{
	if (!conn->home || atomic_exchange_explicit(&conn->is_kicked, true, memory_order_acq_rel))
		return;
	conn->kick_msg.fn = conn_kicked;
	ub_queue_post(conn->home->bq->queue, &conn->kick_msg);
}

/* ---- what the core calls ------------------------------------------------- */

void nbd_engine_start(struct nbd_queue *nq)
{
	nbd_fence_start(nq->be);
	for (unsigned i = 0; i < nq->nr_own; i++) {
		struct nbd_conn *conn = nq->own[i];

		conn->tick = (struct ub_timer){ .queue = nq->bq->queue, .expired = conn_tick };
		conn->outage_limit_ms =
			atomic_load_explicit(&conn->be->outage_limit_ms, memory_order_relaxed);
		conn->stall_timeout_ms =
			atomic_load_explicit(&conn->be->stall_timeout_ms, memory_order_relaxed);
		conn->outage = (struct ub_timer){ .queue = nq->bq->queue, .expired = conn_outage };
		conn->patience = (struct ub_timer){ .queue = nq->bq->queue,
						    .expired = conn_patience_is_over };
		conn->drain = (struct ub_timer){ .queue = nq->bq->queue, .expired = conn_drained };
		conn->fence =
			(struct ub_timer){ .queue = nq->bq->queue, .expired = conn_look_at_fence };
		if (conn->given) /* made when the back end was opened */
			conn_take_link(&conn->given->msg, nq->bq->queue);
	}
	nbd_engine_submit_end(nq); /* watches them: the first I/O may be long in coming */
	if (atomic_fetch_add_explicit(&nq->be->nr_started, 1, memory_order_acq_rel) + 1 ==
	    nq->be->nr_queues)
		nbd_connector_wake(nq->be);
}

/* Those conns that have answered changes which a FLUSH has to cover. */
static uint64_t flush_conns(const struct nbd_backend *be)
{
	uint64_t mask = 0;

	for (unsigned i = 0; i < be->nr_conns && be->nr_conns > 1; i++) {
		if (atomic_load_explicit(&be->conns[i].has_unflushed, memory_order_acquire))
			mask |= 1ULL << i;
	}
	return mask;
}

void nbd_engine_submit(struct nbd_queue *nq, struct ub_io *io)
{
	struct nbd_cmd *cmd = &nq->cmds[io->slot];

	cmd->io = io;
	cmd->link = NULL;
	cmd->is_again = cmd->was_sent = false;
	cmd->was_flushed = cmd->was_old_flushed = false;
	cmd->nr_slow = cmd->nr_wrong = 0;
	cmd->done_bytes = 0;
	cmd->todo = io->op == UB_OP_FLUSH ? flush_conns(nq->be) : 0;
	if (__builtin_expect(atomic_load_explicit(&nq->be->fence.nr_claimable,
						  memory_order_acquire) != 0,
			     0) &&
	    nbd_op_changes(io->op))
		nbd_fence_claim(nq->be, cmd, io);
	queue_look_at_memory(nq);
	queue_route(nq, cmd);
}

void nbd_engine_give_back(struct nbd_queue *nq, const struct ub_io *io)
{
	struct nbd_cmd *cmd = &nq->cmds[io->slot];

	/* The parts that never came may have ranges as well. */
	if (atomic_load_explicit(&nq->be->fence.nr_claimable, memory_order_acquire) != 0)
		nbd_fence_claim(nq->be, cmd, io);
	if (cmd->has_ranges)
		nbd_fence_done(nq->be, cmd);
}

/* Sends what may go, and gives up what has ended. True: that may have changed its neighbours. */
static bool conn_settle(struct nbd_conn *conn)
{
	bool changed = false;

	if (conn->must_issue)
		conn_issue_waiting(conn);
	if (conn->link && (conn->link->failing || conn->link->is_leaving))
		changed = conn_check_old_link(conn, conn->link);
	if (conn->draining)
		changed |= conn_check_old_link(conn, conn->draining);
	return changed;
}

void nbd_engine_submit_end(struct nbd_queue *nq)
{
	bool again;

	queue_look_at_memory(nq);
	/* What one gives up goes to another, and that may be one before it: only then is polled. */
	do {
		again = false;
		for (unsigned i = 0; i < nq->nr_own; i++)
			again |= conn_settle(nq->own[i]);
	} while (again);
	for (unsigned i = 0; i < nq->nr_own; i++) {
		struct nbd_conn *conn = nq->own[i];

		if (conn->link) {
			link_end_batch(conn->link);
			link_arm(conn->link);
		}
		if (conn->draining) {
			link_end_batch(conn->draining);
			link_arm(conn->draining);
		}
	}
	nq->has_looked = false;
}

/* Ends all that the queue's own conns hold, and whatever comes to them from now on. */
static void queue_end_conns(struct nbd_queue *nq, int err, const char *why)
{
	for (unsigned i = 0; i < nq->nr_own; i++) {
		struct nbd_conn *conn = nq->own[i];

		conn->cancel_error = err;
		conn_retire_links(conn, why);
		conn_fail_waiting(conn, err);
	}
}

void nbd_engine_cancel(struct nbd_queue *nq, int err)
{
	/* Nothing is to be reached any more, and nobody to be told. */
	atomic_store_explicit(&nq->be->has_failed, true, memory_order_release);
	queue_end_conns(nq, err, "all I/O was cancelled");
}

bool nbd_engine_leave(struct nbd_queue *nq)
{
	bool is_armed = nq->nr_armed != 0;

	if (!nq->has_left) {
		nq->has_left = true;
		atomic_store(&nq->be->is_leaving, true);
		atomic_store(&nq->be->left_ms, ub_now_ms());
		for (unsigned i = 0; i < nq->nr_own; i++) {
			if (nq->own[i]->link && !nq->own[i]->link->nr_in_flight)
				nq->own[i]->link->is_polite = true;
		}
		queue_end_conns(nq, -ECANCELED, "it is not needed any more");
		nbd_connector_wake(nq->be);
	}
	for (unsigned i = 0; i < nq->nr_own; i++) {
		struct nbd_conn *conn = nq->own[i];

		ub_timer_stop(&conn->tick);
		ub_timer_stop(&conn->outage);
		ub_timer_stop(&conn->patience);
		ub_timer_stop(&conn->drain);
		ub_timer_stop(&conn->fence);
		is_armed |= conn->tick.armed_ns || conn->outage.armed_ns || conn->drain.armed_ns ||
			    conn->patience.armed_ns || conn->fence.armed_ns;
	}
	return !is_armed && nq->nr_armed == 0;
}
