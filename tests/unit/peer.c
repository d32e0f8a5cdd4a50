/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An NBD server's side of one connection. Any thread. */
#include "peer.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define PEER_OPTION_MAGIC	0x49484156454f5054ULL
#define PEER_OPTION_REPLY_MAGIC 0x3e889045565a9ULL
#define PEER_REQUEST_MAGIC	0x25609513U

enum { PEER_OPT_ABORT = 2, PEER_OPT_INFO = 6, PEER_OPT_GO, PEER_OPT_STRUCTURED };
enum { PEER_REP_ACK = 1, PEER_REP_INFO = 3 };
#define PEER_REP_UNSUPPORTED 0x80000001U

void peer_put16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

void peer_put32(uint8_t *at, uint32_t value)
{
	peer_put16(at, (uint16_t)(value >> 16));
	peer_put16(at + 2, (uint16_t)value);
}

void peer_put64(uint8_t *at, uint64_t value)
{
	peer_put32(at, (uint32_t)(value >> 32));
	peer_put32(at + 4, (uint32_t)value);
}

static uint64_t peer_get(const uint8_t *at, unsigned bytes)
{
	uint64_t value = 0;

	while (bytes--)
		value = value << 8 | *at++;
	return value;
}

bool peer_send_all(struct peer *peer, const void *data, size_t len)
{
	const uint8_t *at = data;

	while (len) {
		ssize_t n = send(peer->fd, at, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += n;
		len -= (size_t)n;
	}
	return true;
}

bool peer_receive_all(struct peer *peer, void *data, size_t len)
{
	uint8_t *at = data;

	while (len) {
		struct pollfd fd = { .fd = peer->fd, .events = POLLIN };
		ssize_t n;

		if (poll(&fd, 1, peer->patience_ms) <= 0)
			return false;
		n = recv(peer->fd, at, len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += n;
		len -= (size_t)n;
	}
	return true;
}

static bool peer_send(struct peer *peer, uint8_t *msg, size_t len)
{
	return peer->send ? peer->send(peer, msg, len) : peer_send_all(peer, msg, len);
}

/* ---- negotiation --------------------------------------------------------- */

static bool peer_reply(struct peer *peer, uint32_t option, uint32_t type, const uint8_t *data,
		       size_t len)
{
	uint8_t msg[20 + 512];

	peer_put64(msg, PEER_OPTION_REPLY_MAGIC);
	peer_put32(msg + 8, option);
	peer_put32(msg + 12, type);
	peer_put32(msg + 16, (uint32_t)len);
	if (len)
		memcpy(msg + 20, data, len);
	return peer_send(peer, msg, 20 + len);
}

static bool peer_reply_text(struct peer *peer, uint32_t option, uint16_t info, const char *text)
{
	uint8_t data[2 + 256];
	size_t len;

	if (!text)
		return true;
	len = strlen(text) < 256 ? strlen(text) : 256;
	peer_put16(data, info);
	memcpy(data + 2, text, len);
	return peer_reply(peer, option, PEER_REP_INFO, data, 2 + len);
}

static bool peer_reply_info(struct peer *peer, uint32_t option)
{
	const struct peer_export *e = peer->export;
	uint8_t data[16] = { 0 };

	peer_put64(data + 2, e->size_bytes);
	peer_put16(data + 10, e->flags);
	if (!peer_reply(peer, option, PEER_REP_INFO, data, 12) ||
	    !peer_reply_text(peer, option, 1, e->name) ||
	    !peer_reply_text(peer, option, 2, e->description))
		return false;
	if (e->min_block_bytes) {
		peer_put16(data, 3);
		peer_put32(data + 2, e->min_block_bytes);
		peer_put32(data + 6, e->preferred_block_bytes);
		peer_put32(data + 10, e->max_payload_bytes);
		if (!peer_reply(peer, option, PEER_REP_INFO, data, 14))
			return false;
	}
	return peer_reply(peer, option, PEER_REP_ACK, NULL, 0);
}

bool peer_negotiate(struct peer *peer)
{
	uint8_t greeting[18] = "NBDMAGIC", flags[4], option[16], data[1024];

	peer_put64(greeting + 8, PEER_OPTION_MAGIC);
	peer_put16(greeting + 16, 3);
	if (!peer_send(peer, greeting, sizeof(greeting)) ||
	    !peer_receive_all(peer, flags, sizeof(flags)))
		return false;
	for (;;) {
		uint32_t type, len;

		if (!peer_receive_all(peer, option, sizeof(option)))
			return false;
		type = (uint32_t)peer_get(option + 8, 4);
		len = (uint32_t)peer_get(option + 12, 4);
		if (len > sizeof(data) || !peer_receive_all(peer, data, len) ||
		    type == PEER_OPT_ABORT)
			return false;
		if (type == PEER_OPT_STRUCTURED && peer->export->has_structured_replies) {
			peer->has_structured_replies = true;
			if (!peer_reply(peer, type, PEER_REP_ACK, NULL, 0))
				return false;
		} else if (type == PEER_OPT_GO || type == PEER_OPT_INFO) {
			if (!peer_reply_info(peer, type))
				return false;
			if (type == PEER_OPT_GO)
				return true;
		} else if (!peer_reply(peer, type, PEER_REP_UNSUPPORTED, NULL, 0)) {
			return false;
		}
	}
}

/* ---- transmission -------------------------------------------------------- */

bool peer_receive(struct peer *peer, struct peer_request *r, uint8_t *data)
{
	uint8_t msg[28];

	if (!peer_receive_all(peer, msg, sizeof(msg)) || peer_get(msg, 4) != PEER_REQUEST_MAGIC)
		return false;
	r->flags = (uint16_t)peer_get(msg + 4, 2);
	r->type = (uint16_t)peer_get(msg + 6, 2);
	r->cookie = peer_get(msg + 8, 8);
	r->offset = peer_get(msg + 16, 8);
	r->len = (uint32_t)peer_get(msg + 24, 4);
	if (r->type == PEER_DISC || (r->type <= PEER_WRITE && r->len > PEER_MAX_BYTES))
		return false;
	return r->type != PEER_WRITE || peer_receive_all(peer, data, r->len);
}

bool peer_send_simple(struct peer *peer, const struct peer_request *r, uint32_t error,
		      const void *data, size_t len)
{
	uint8_t msg[16 + PEER_MAX_BYTES];

	peer_put32(msg, PEER_SIMPLE_MAGIC);
	peer_put32(msg + 4, error);
	peer_put64(msg + 8, r->cookie);
	if (len)
		memcpy(msg + 16, data, len);
	return peer_send(peer, msg, 16 + len);
}

bool peer_send_chunk(struct peer *peer, const struct peer_request *r, uint16_t flags, uint16_t type,
		     uint32_t len_field, const void *payload, size_t len)
{
	uint8_t msg[20 + 8 + PEER_MAX_BYTES];

	peer_put32(msg, PEER_STRUCTURED_MAGIC);
	peer_put16(msg + 4, flags);
	peer_put16(msg + 6, type);
	peer_put64(msg + 8, r->cookie);
	peer_put32(msg + 16, len_field);
	if (len)
		memcpy(msg + 20, payload, len);
	return peer_send(peer, msg, 20 + len);
}

bool peer_answer(struct peer *peer, const struct peer_request *r, uint32_t error, const void *data)
{
	uint8_t payload[8 + PEER_MAX_BYTES] = { 0 };

	if (r->type != PEER_READ || !peer->has_structured_replies)
		return peer_send_simple(peer, r, error, data,
					r->type == PEER_READ && !error ? r->len : 0);
	if (error) {
		peer_put32(payload, error);
		return peer_send_chunk(peer, r, PEER_CHUNK_DONE, PEER_CHUNK_ERROR, 6, payload, 6);
	}
	peer_put64(payload, r->offset);
	memcpy(payload + 8, data, r->len);
	return peer_send_chunk(peer, r, PEER_CHUNK_DONE, PEER_CHUNK_DATA, 8 + r->len, payload,
			       8 + r->len);
}
