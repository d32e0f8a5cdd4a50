/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An NBD server's side of one connection, for tests that need a server which does what no real one
 * would. A correct one by itself; a test changes what is sent through the `send` hook.
 * Specification: the NBD protocol's doc/proto.md.
 */
#ifndef UB_TESTS_PEER_H
#define UB_TESTS_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	PEER_READ,
	PEER_WRITE,
	PEER_DISC,
	PEER_FLUSH,
	PEER_TRIM,
	PEER_ZEROES = 6,
};

enum {
	PEER_HAS_FLAGS = 1 << 0,
	PEER_READ_ONLY = 1 << 1,
	PEER_CAN_FLUSH = 1 << 2,
	PEER_CAN_FUA = 1 << 3,
	PEER_CAN_TRIM = 1 << 5,
	PEER_CAN_ZERO = 1 << 6,
	PEER_MULTI_CONN = 1 << 8,
	PEER_ALL = PEER_HAS_FLAGS | PEER_CAN_FLUSH | PEER_CAN_FUA | PEER_CAN_TRIM | PEER_CAN_ZERO,
};

enum {
	PEER_CHUNK_NONE,
	PEER_CHUNK_DATA,
	PEER_CHUNK_HOLE,
	PEER_CHUNK_ERROR = 0x8001,
	PEER_CHUNK_ERROR_OFFSET
};
enum { PEER_CHUNK_DONE = 1 };

#define PEER_SIMPLE_MAGIC     0x67446698U
#define PEER_STRUCTURED_MAGIC 0x668e33efU
#define PEER_MAX_BYTES	      (64U << 10) /* of one message, and of a write's data */

struct peer_export {
	uint64_t size_bytes;
	uint16_t flags;
	uint32_t min_block_bytes, preferred_block_bytes, max_payload_bytes; /* 0: says nothing */
	bool has_structured_replies;
	const char *name, *description; /* NULL: says nothing */
};

struct peer {
	int fd;
	const struct peer_export *export;
	bool has_structured_replies; /* agreed */
	int patience_ms;	     /* for what the client sends; -1: for ever */
	/* Sends or changes a message. False: the connection is over. NULL: it goes as it is. */
	bool (*send)(struct peer *peer, uint8_t *msg, size_t len);
	void *arg;
};

struct peer_request {
	uint64_t cookie, offset;
	uint32_t len;
	uint16_t flags, type;
};

void peer_put16(uint8_t *at, uint16_t value);
void peer_put32(uint8_t *at, uint32_t value);
void peer_put64(uint8_t *at, uint64_t value);

/* As it is. False: the connection is over. */
bool peer_send_all(struct peer *peer, const void *data, size_t len);
bool peer_receive_all(struct peer *peer, void *data, size_t len);

/* Until the client is ready to send requests. */
bool peer_negotiate(struct peer *peer);

/*
 * The next request, with a WRITE's data in `data` (of PEER_MAX_BYTES). False: the connection is
 * over.
 */
bool peer_receive(struct peer *peer, struct peer_request *r, uint8_t *data);

/* One message of a reply through the hook. len_field: the chunk's length as it is said to be. */
bool peer_send_simple(struct peer *peer, const struct peer_request *r, uint32_t error,
		      const void *data, size_t len);
bool peer_send_chunk(struct peer *peer, const struct peer_request *r, uint16_t flags, uint16_t type,
		     uint32_t len_field, const void *payload, size_t len);

/* The whole of a correct answer. data: of a READ. */
bool peer_answer(struct peer *peer, const struct peer_request *r, uint32_t error, const void *data);

#endif
