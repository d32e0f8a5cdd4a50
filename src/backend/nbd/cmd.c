/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A request's answer, and its end. The home thread of the conn where it is. Nothing is sent here:
 * an engine calls it from wherever it reads answers.
 */
#include "backend/nbd/cmd.h"

#include <errno.h>

#include <ublk-bridge/page.h>

#include "backend/nbd/engine.h"
#include "backend/nbd/fence.h"
#include "backend/nbd/nbd.h"
#include "backend/nbd/route.h"
#include "base/cleanup.h"

/* ---- its end ------------------------------------------------------------- */

static void cmd_internal_done(struct nbd_cmd *cmd, int32_t res)
{
	struct nbd_internal *internal = ub_container_of(cmd, struct nbd_internal, cmd);
	struct nbd_link *link = ub_container_of(internal, struct nbd_link, internal);

	internal->is_busy = false;
	if (internal->io.op == UB_OP_FLUSH && res < 0)
		link->cannot_flush = true;
}

void nbd_cmd_complete(struct nbd_cmd *cmd, int32_t res)
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

/* One of our own, and not the application's. */
static bool cmd_is_ours(const struct nbd_cmd *cmd)
{
	return cmd->is_internal || cmd->io->slot >= cmd->be->depth;
}

void nbd_flush_complete(struct nbd_cmd *cmd)
{
	nbd_cmd_complete(cmd,
			 cmd->is_internal ? 0 : -nbd_fence_flush_error(cmd->be, !cmd_is_ours(cmd)));
}

/* ---- its answer ---------------------------------------------------------- */

static void cmd_note_unflushed(struct nbd_link *link)
{
	atomic_store_explicit(link->unflushed, link->answered_bytes - link->flushed_bytes,
			      memory_order_release);
	nbd_conn_note_unflushed(link->conn);
}

/* Before it is completed: a FLUSH that follows must find it. */
static void cmd_count_answered(struct nbd_link *link, const struct nbd_cmd *cmd)
{
	if ((cmd->io->flags & UB_FUA) || !cmd->be->limits.can_flush)
		return;
	link->answered_bytes += cmd->part_bytes;
	cmd_note_unflushed(link);
}

/* It waits at the head of the line: nothing is sent here. */
static void cmd_put_first(struct nbd_conn *conn, struct nbd_cmd *cmd)
{
	nbd_list_add_first(&conn->waiting, cmd);
	conn->must_issue = true;
}

static void cmd_flush_answered(struct nbd_link *link, struct nbd_cmd *cmd)
{
	struct nbd_conn *conn = link->conn;

	if (cmd->flush_mark > link->flushed_bytes) {
		link->flushed_bytes = cmd->flush_mark;
		cmd_note_unflushed(link);
	}
	if (cmd->is_internal) {
		nbd_cmd_complete(cmd, 0);
		return;
	}
	cmd->was_flushed = true;
	if (link == conn->draining) {
		cmd->was_old_flushed = true;
		cmd_put_first(conn, cmd);
		return;
	}
	cmd->was_old_flushed = false;
	cmd->todo &= ~(1ULL << conn->index);
	/* A FLUSH that was sent before this became due does not cover it. */
	if (conn->is_flush_due &&
	    cmd->losses == atomic_load_explicit(&cmd->be->nr_losses, memory_order_acquire)) {
		conn->is_flush_due = false;
		nbd_conn_note_unflushed(conn);
	}
	if (nbd_route_flush(cmd) || !nbd_flush_is_done(cmd))
		cmd_put_first(conn, cmd);
	else
		nbd_flush_complete(cmd);
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
		nbd_cmd_complete(cmd, -code);
		return;
	}
	if (io->op == UB_OP_FLUSH) {
		cmd_flush_answered(link, cmd);
		return;
	}
	if (changes)
		cmd_count_answered(link, cmd);
	cmd->done_bytes += cmd->part_bytes;
	if (__builtin_expect(cmd->part_bytes == io->len_bytes, 1)) {
		nbd_cmd_complete(cmd, (int32_t)io->len_bytes);
		return;
	}
	if (changes && cmd_has_lost_parts(cmd))
		cmd->done_bytes = 0;
	if (cmd->done_bytes < io->len_bytes)
		cmd_put_first(link->conn, cmd);
	else
		nbd_cmd_complete(cmd, (int32_t)io->len_bytes);
}

static bool cmd_has_all(const struct nbd_cmd *cmd)
{
	/* A simple reply has all of it. */
	if (!cmd->link->has_structured_replies)
		return true;
	return cmd->seen_bytes == cmd->part_bytes &&
	       cmd->seen_edges == nbd_read_edge(cmd->part_bytes) - nbd_read_edge(0);
}

void nbd_cmd_answered(struct nbd_cmd *cmd, int code)
{
	struct nbd_link *link = cmd->link;

	/* No answer: it stays in flight, and is sent again over another connection. */
	if (code == ESHUTDOWN) {
		nbd_link_fail(link, "the server is shutting down");
		return;
	}
	if (__builtin_expect(atomic_load_explicit(&cmd->be->fence.nr_unproven,
						  memory_order_relaxed) != 0,
			     0))
		nbd_fence_prove(cmd->be, cmd->sent_seq);
	if (cmd->io->op == UB_OP_READ && code == 0 && !cmd_has_all(cmd)) {
		cmd->nr_wrong++;
		nbd_link_fail(link,
			      "the server answered a read with too few bytes, or with some twice");
		return;
	}
	link->has_answered = link->has_progress = true;
	link->nr_done_again += cmd->was_sent;
	nbd_cmd_count_wait(cmd, link->conn);
	nbd_list_remove(&link->in_flight, cmd);
	link->nr_in_flight--;
	cmd->link = NULL;
	cmd_take_answer(link, cmd, code);
}
