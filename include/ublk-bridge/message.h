/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What keeper and server say to each other: one message a datagram on a SOCK_SEQPACKET socket, with
 * descriptors beside it where noted. Both are one binary's two faces, but an upgraded keeper may meet an
 * older server: the version is checked in HELLO, and sizes are exact.
 *
 *      keeper                             server
 *        │ ◄──────────────── HELLO ────────│  it was executed
 *        │── CONFIG + store or socket ────►│  opens the back end
 *        │ ◄──────────────── LIMITS ───────│
 *        │  ADD_DEV, SET_PARAMS            │
 *        │── SERVE + stats, server.sock ──►│  opens /dev/ublkcN, starts the queues
 *        │ ◄──────────────── FETCHING ─────│
 *        │  START_DEV                      │
 *        │  first look, partitions         │
 *        │── LIVE ────────────────────────►│  from now on it serves without a keeper too
 *        │ ◄──────────────── LIVE ─────────│
 *        │── SOCKET + socket ─────────────►│  the command was started again
 *        │── SET ─────────────────────────►│  changes what can be changed
 *        │ ◄────────────────── SET ────────│  done, or why not; in the order of the SETs
 *        │── CANCEL ──────────────────────►│  fails all I/O: a forced detach
 *        │── EXIT ────────────────────────►│  ends, whatever it holds (not for a live device)
 *        │ ◄──────────────── FAILED, LOG ──│  at any time
 *
 * When the driver has aborted every tag (a STOP by whomever), the server ends with status 0.
 * On server.sock a server takes CANCEL from a verb, after a HELLO from each side; HEALTH it answers with
 * one of its own, that says how the back end is.
 */
#ifndef UBLK_BRIDGE_MESSAGE_H
#define UBLK_BRIDGE_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "backend.h"

#define UB_MESSAGE_VERSION 1
#define UB_MESSAGE_MAX_FDS 2
#define UB_MESSAGE_MAX_BYTES 32768

enum ub_message_type {
	UB_MSG_HELLO = 1,
	UB_MSG_CONFIG, /* descriptors: the store of mem, or a connected socket of nbd */
	UB_MSG_LIMITS,
	UB_MSG_SERVE, /* descriptors: the statistics page, the listening server.sock */
	UB_MSG_FETCHING,
	UB_MSG_LIVE,
	UB_MSG_CANCEL,
	UB_MSG_EXIT,
	UB_MSG_FAILED,
	UB_MSG_LOG,
	UB_MSG_HEALTH,
	UB_MSG_SOCKET, /* descriptors: the next connected socket, of a command that was started again */
	UB_MSG_SET, /* the answer is a text */
};

struct ub_msg_header {
	uint16_t type; /* enum ub_message_type */
	uint16_t version;
	uint32_t len_bytes; /* with this header */
};

struct ub_msg_config {
	struct ub_msg_header header;
	uint64_t size_bytes;
	uint32_t logical_block_bytes;
	uint32_t nr_queues;
	uint8_t read_only;
	uint8_t has_fd;
	uint8_t core_dump; /* --core */
	uint8_t log_level;
	uint32_t reserved;
	char kind[16];
	char options[]; /* to the end of the message, with a 0 */
};

struct ub_msg_limits {
	struct ub_msg_header header;
	struct ub_limits limits;
	uint32_t caps;
	uint32_t reserved;
};

struct ub_msg_serve {
	struct ub_msg_header header;
	uint32_t dev_id;
	uint32_t nr_queues;
	uint32_t depth;
	uint32_t max_io_bytes;
	uint32_t data_path; /* enum ub_data_path */
	uint32_t mask_bytes; /* of each queue's CPU mask: they follow, one a queue, cut behind the last CPU */
	uint8_t masks[];
};

struct ub_msg_set {
	struct ub_msg_header header;
	struct ub_settings settings;
};

struct ub_msg_text {
	struct ub_msg_header header;
	uint32_t value; /* LOG: the level; FAILED: the errno; HEALTH: enum ub_health; SET: the errno, 0: done */
	char text[508];
};

/*
 * Sends a message of header->len_bytes; version is filled in. flags: MSG_DONTWAIT or 0.
 * The descriptors stay the caller's. 0 or -errno. Any thread.
 */
int ub_message_send(int sock, struct ub_msg_header *header, const int *fds, unsigned nr_fds, int flags);

/* One with nothing but its type. */
int ub_message_send_type(int sock, enum ub_message_type type);

/*
 * Receives one message into buf (8-byte aligned, UB_MESSAGE_MAX_BYTES), and its descriptors (the
 * caller's from now on, -1 where there is none). 0, -ENOTCONN: the other side is gone, -EPROTO: not a
 * message of this version, -EAGAIN with MSG_DONTWAIT, or another errno.
 */
int ub_message_receive(int sock, void *buf, int fds[UB_MESSAGE_MAX_FDS], int flags);

#endif
