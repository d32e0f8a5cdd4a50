/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An engine: what carries commands to a server and brings the answers, over a connection that has
 * been negotiated. What is sent when, and what follows from an answer or from none, is others' (the
 * policy): an engine knows no fence, no outage and no other connection.
 *
 *   policy (conn.c …) ── struct nbd_engine ──► engine-libnbd.c
 *          ◄── nbd_cmd_answered, nbd_cmd_data, nbd_link_ended, nbd_conn_progress ──┘
 */
#ifndef UB_BACKEND_NBD_ENGINE_H
#define UB_BACKEND_NBD_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/io.h>

#include "backend/nbd/cmd.h"

struct nbd_conn;
struct nbd_handle;
struct nbd_link;

/* A connection as it was negotiated: ready for commands, and nothing was sent yet. */
struct nbd_wire {
	struct nbd_handle *handle;
	int fd; /* the handle's */
};

/* Home thread, but for what is marked. Nothing here blocks; nothing allocates but take(). */
struct nbd_engine {
	const char *name; /* for messages */
	/* Before connecting: whether the server is asked for structured replies. */
	bool wants_structured_replies;
	/*
	 * Whoever makes the link: the wire is the engine's from now on. 0; -errno: it cannot drive
	 * such a one, which stays the caller's.
	 */
	int (*take)(struct nbd_link *link, const struct nbd_wire *wire);
	/*
	 * Sends a command, or the part of it that begins at done_bytes and has part_bytes: only
	 * while link->is_ready. 0: it is on its way, or the link has ended (nbd_link_ended() was
	 * called) and the command is to be sent elsewhere. Else nothing of it was sent, and the
	 * link goes on: -EAGAIN: there was no memory; another -errno: what the request ends with.
	 */
	int (*send)(struct nbd_link *link, struct nbd_cmd *cmd);
	/* The end of a turn: what was sent goes out, and the ring is asked to wait for events. */
	void (*end_batch)(struct nbd_link *link);
	/* Any thread, of one that is retired: nothing of it is in the ring any more. */
	bool (*is_idle)(const struct nbd_link *link);
	/* A last word to the server, if it can be said at once. Or whoever frees the back end. */
	void (*bye)(struct nbd_link *link);
	/* Whoever frees the link: it is idle. The wire is closed. */
	void (*close)(struct nbd_link *link);
};

extern const struct nbd_engine nbd_engine_libnbd;

/* What engine-libnbd.c keeps of a link. */
struct nbd_libnbd {
	struct nbd_handle *handle;
	struct ub_watch readable, writable, hung_up;
	bool readable_armed, writable_armed, hung_up_armed;
	unsigned nr_sent; /* commands, since the batch began */
	/* of the replies that were read since it was set to 0: at the most so many */
	uint32_t replied_bytes;
};

/* ---- what an engine calls: the home thread ------------------------------- */

/*
 * A command was answered. code: 0, or the errno that the server's error is; ESHUTDOWN counts as no
 * answer. It may be somebody else's when this returns. Nothing is sent meanwhile, so that it may be
 * called from anywhere.
 */
void nbd_cmd_answered(struct nbd_cmd *cmd, int code);

/*
 * The connection has ended, or cannot be used any more: it will be retired at the end of the turn.
 * `why` is copied. is_wrong: because of what the server said.
 */
void nbd_link_ended(struct nbd_link *link, const char *why, bool is_wrong);

/* The server has shown a sign of life, and before its answers are read. */
void nbd_conn_progress(struct nbd_link *link);

/*
 * A number for each place in a READ, of which no sums are alike by chance. Pieces of data are
 * summed up as edge(end) - edge(begin): that is edge(length) - edge(0) when each piece begins where
 * another one ends, and so only when they cover everything, and nothing twice. Their order does not
 * matter.
 */
static inline uint64_t nbd_read_edge(uint64_t at)
{
	at = (at + 1) * 0x9e3779b97f4a7c15ULL;
	at = (at ^ at >> 32) * 0xd6e8feb86659fd93ULL;
	return at ^ at >> 32;
}

/* len bytes of a READ's data have come, offset behind where the part in flight begins. */
static inline void nbd_cmd_data(struct nbd_cmd *cmd, uint64_t offset, uint32_t len)
{
	cmd->seen_bytes += len;
	cmd->seen_edges += nbd_read_edge(offset + len) - nbd_read_edge(offset);
}

#endif
