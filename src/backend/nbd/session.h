/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A session: one libnbd handle from its making until it is ready for commands, what the server said
 * of the export, and whether that is still the export that a device was made from.
 *
 * For the main thread while the back end is opened, and for the connector afterwards; never for a
 * queue's thread. Nothing here waits, but libnbd's look-up of names and its reading of
 * certificates. Specification: the NBD protocol's doc/proto.md, "Handshake negotiation", "Block
 * size constraints".
 */
#ifndef UB_BACKEND_NBD_SESSION_H
#define UB_BACKEND_NBD_SESSION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/backend.h>

#include "backend/nbd/address.h"
#include "base/err.h"

struct nbd_handle;

#define NBD_NAME_BYTES 256 /* of a name or a description; longer ones are compared by what fits */

/* What the server said in its negotiation. */
struct nbd_export {
	uint64_t size_bytes;
	uint32_t min_block_bytes;	/* at least 1 */
	uint32_t preferred_block_bytes; /* 0: it did not say */
	uint32_t max_payload_bytes;
	bool read_only, rotational, can_flush, can_fua, can_trim, can_zero, multi_conn;
	bool has_tls, has_structured_replies;
	bool can_status;	   /* of this connection: it tells what is allocated */
	char name[NBD_NAME_BYTES]; /* canonical; "": it did not say */
	char description[NBD_NAME_BYTES];
};

/*
 * Begins to connect. NULL with *err. socket_fd: a connected socket for NBD_SOCKET, which becomes
 * the handle's in every case; else -1. wants_structured_replies: the engine's, engine.h.
 */
struct nbd_handle *nbd_session_start(const struct nbd_address *a, bool wants_structured_replies,
				     int socket_fd, struct ub_err *err);

/* The socket of a ready one; it stays the handle's. */
int nbd_session_fd(struct nbd_handle *handle);

/* The end of one that has become no link. is_polite: of a ready one, the server is told. */
void nbd_session_close(struct nbd_handle *handle, bool is_polite);

/* The descriptor and the events (poll(2)) that it waits for. */
int nbd_session_events(struct nbd_handle *handle, short *events);

/*
 * Goes on after poll(2) returned revents; with 0 before the first poll(2), because the server's
 * answers may have come so quickly that there is no event to wait for. 1: ready for commands, 0: in
 * progress, -errno with *err: it failed, and the handle is good for nbd.close() only.
 */
int nbd_session_continue(struct nbd_handle *handle, short revents, struct ub_err *err);

/*
 * Why libnbd's last call on this thread failed, without the call's name. Good until the next one.
 */
const char *nbd_session_reason(void);

/*
 * Such a text as people need it: once, with the remedy. Of what libnbd says of a connection that
 * cannot be made; other texts are returned as they are, else buf.
 */
const char *nbd_reason_in_words(const char *text, char *buf, size_t len);

/* Reads what a ready handle's server said. 0 or -errno with *err. */
int nbd_session_export(struct nbd_handle *handle, struct nbd_export *export, struct ub_err *err);

/*
 * Keepalive, TCP_NODELAY, TCP_USER_TIMEOUT, and a bound for what the socket holds to be sent;
 * nothing on other sockets. Whether it is TCP.
 */
bool nbd_session_tune(int fd, uint64_t stall_timeout_ms, uint64_t send_bytes);
/*
 * The shortest time from a packet to its acknowledgement so far, TCP_INFO in tcp(7); 0: not TCP, or
 * not told.
 */
uint64_t nbd_session_latency_ns(int fd);

/*
 * The export in words, for whoever opens it when the server cannot be asked; and back. No secrets.
 * The caller's to json_decref(), NULL: no memory. 0 or -errno with *err.
 */
json_t *nbd_export_to_json(const struct nbd_export *export);
int nbd_export_from_json(struct nbd_export *export, json_t *json, struct ub_err *err);

/* Turns it into limits. block_bytes: what --block-size asks for, or 0. 0 or -errno with *err. */
int nbd_export_limits(const struct nbd_export *export, uint32_t block_bytes,
		      struct ub_limits *limits, struct ub_err *err);

/*
 * Whether `now` can stand in for `first`, from which a device with these limits was made, with this
 * many connections. 0, or -ESTALE with *err naming everything that differs.
 */
int nbd_export_compare(const struct nbd_export *first, const struct nbd_export *now,
		       const struct ub_limits *limits, unsigned nr_connections, struct ub_err *err);

#endif
