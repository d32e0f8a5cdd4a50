/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A hostile NBD server. Its thread's, but for start, opened, stop and join. */
#include "tests/fuzz/hostile.h"

#include <assert.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <ublk-bridge/backend.h>

/* when the client may be waiting for us: what follows would not come */
#define HOSTILE_PATIENCE_MS 20
#define HOSTILE_CORRECT_MS  5000 /* when it is not */

/* ---- decisions ----------------------------------------------------------- */

unsigned input_byte(struct input *in)
{
	return in->at < in->len ? in->data[in->at++] : 0;
}

unsigned input_below(struct input *in, unsigned n)
{
	unsigned high = input_byte(in);

	return (high << 8 | input_byte(in)) % n;
}

bool input_chance(struct input *in, unsigned of_256)
{
	unsigned byte = input_byte(in);

	return byte && 256 - byte <= of_256;
}

uint64_t input_number(struct input *in)
{
	static const uint64_t edges[] = {
		0,
		1,
		2,
		3,
		7,
		8,
		9,
		15,
		16,
		28,
		511,
		512,
		513,
		4095,
		4096,
		4097,
		65535,
		65536,
		65537,
		1 << 20,
		32 << 20,
		(32 << 20) + 1,
		(32 << 20) + 8,
		(32 << 20) + 9,
		(64 << 20),
		INT32_MAX,
		1ULL << 31,
		UINT32_MAX,
		1ULL << 32,
		INT64_MAX,
		1ULL << 63,
		UINT64_MAX - 1,
		UINT64_MAX,
	};
	unsigned what = input_byte(in);
	uint64_t value = edges[input_below(in, sizeof(edges) / sizeof(edges[0]))];

	if (what < 64)
		value += input_byte(in);
	if (what >= 192)
		value = input_byte(in) << 8 | input_byte(in);
	return value;
}

uint8_t hostile_byte(uint64_t offset)
{
	return (uint8_t)((offset * 7 + (offset >> 9) * 13 + (offset >> 18) + 1) & 0x7f);
}

/* ---- what goes wrong in a message ---------------------------------------- */

static void change_bytes(struct hostile *h, uint8_t *msg, size_t len)
{
	unsigned nr = 1 + input_below(&h->in, 3);

	while (nr--) {
		/* In what leads a message there is more to be broken than in what follows. */
		size_t span = input_chance(&h->in, 192) && len > 32 ? 32 : len;

		msg[input_below(&h->in, (unsigned)span)] ^= (uint8_t)(1 + input_below(&h->in, 127));
	}
}

static void change_field(struct hostile *h, uint8_t *msg, size_t len)
{
	static const unsigned sizes[] = { 2, 4, 8 };
	unsigned size = sizes[input_below(&h->in, 3)];
	uint64_t value = input_number(&h->in);
	uint8_t field[8];
	size_t at;

	if (len < size)
		return;
	at = input_below(&h->in, (unsigned)(len - size < 32 ? len - size + 1 : 33)) & ~1U;
	peer_put64(field, value);
	memcpy(msg + at, field + 8 - size, size);
}

static bool send_garbage(struct hostile *h)
{
	uint8_t garbage[300];
	size_t len = 1 + input_below(&h->in, sizeof(garbage));

	for (size_t i = 0; i < len; i++)
		garbage[i] = (uint8_t)(input_byte(&h->in) & 0x7f);
	return peer_send_all(&h->peer, garbage, len);
}

static bool send_in_pieces(struct hostile *h, const uint8_t *msg, size_t len)
{
	size_t at = 0;

	while (at < len) {
		size_t piece = 1 + input_below(&h->in, 24);

		if (piece > len - at || at > 200)
			piece = len - at;
		if (!peer_send_all(&h->peer, msg + at, piece))
			return false;
		at += piece;
		sched_yield();
	}
	return true;
}

/* The hook of the peer: one message in `rate` of 256 does not go as it should. */
static bool hostile_send(struct peer *peer, uint8_t *msg, size_t len)
{
	struct hostile *h = peer->arg;

	if (h->is_correct ||
	    !input_chance(&h->in, h->in_negotiation ? h->negotiation_rate : h->message_rate))
		return peer_send_all(peer, msg, len);
	peer->patience_ms = HOSTILE_PATIENCE_MS;
	atomic_store(&h->lied, true);
	if (h->in_negotiation && atomic_load(&h->nr_connections) == 1)
		atomic_store(&h->first_was_changed, true);
	switch (input_below(&h->in, 8)) {
	case 0:
		peer_send_all(peer, msg, input_below(&h->in, (unsigned)len));
		return false; /* cut, and closed */
	case 1:
		return send_garbage(h) && peer_send_all(peer, msg, len);
	case 2:
		/* NOLINTNEXTLINE: twice */
		return peer_send_all(peer, msg, len) && peer_send_all(peer, msg, len);
	case 3:
		return peer_send_all(peer, msg, len) && send_garbage(h);
	case 4:
		return send_in_pieces(h, msg, len);
	case 5:
		return true; /* it is never said */
	case 6:
		change_bytes(h, msg, len);
		break;
	default:
		change_field(h, msg, len);
	}
	return peer_send_all(peer, msg, len);
}

/* ---- what goes wrong in a reply ------------------------------------------ */

static void fill_data(uint8_t *data, uint64_t offset, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		data[i] = hostile_byte(offset + i);
}

static bool send_data_chunk(struct hostile *h, const struct peer_request *r, uint16_t flags,
			    uint64_t offset, uint32_t len, uint32_t len_field)
{
	uint8_t payload[8 + PEER_MAX_BYTES];

	if (len > PEER_MAX_BYTES)
		len = PEER_MAX_BYTES;
	peer_put64(payload, offset);
	fill_data(payload + 8, offset, len);
	return peer_send_chunk(&h->peer, r, flags, PEER_CHUNK_DATA, len_field, payload, 8 + len);
}

static bool send_hole_chunk(struct hostile *h, const struct peer_request *r, uint16_t flags,
			    uint64_t offset, uint32_t len, uint32_t len_field)
{
	uint8_t payload[12];

	atomic_store(&h->lied, true); /* zeroes are not what the export has */
	peer_put64(payload, offset);
	peer_put32(payload + 8, len);
	return peer_send_chunk(&h->peer, r, flags, PEER_CHUNK_HOLE, len_field, payload,
			       sizeof(payload));
}

static bool send_correct(struct hostile *h, const struct peer_request *r)
{
	uint8_t data[PEER_MAX_BYTES];

	if (r->type == PEER_READ)
		fill_data(data, r->offset, r->len);
	return peer_answer(&h->peer, r, 0, data);
}

/* Correct, but in pieces, of which some are holes; in whatever order. */
static bool send_split(struct hostile *h, const struct peer_request *r)
{
	unsigned nr = 1 + input_below(&h->in, 6), turn = input_below(&h->in, nr);
	uint32_t piece = r->len / nr;

	for (unsigned i = 0; i < nr; i++) {
		unsigned at = (i + turn) % nr;
		uint64_t offset = r->offset + (uint64_t)at * piece;
		uint32_t len = at == nr - 1 ? r->len - at * piece : piece;
		uint16_t flags = i == nr - 1 ? PEER_CHUNK_DONE : 0;
		bool ok = input_chance(&h->in, 64) ?
				  send_hole_chunk(h, r, flags, offset, len, 12) :
				  send_data_chunk(h, r, flags, offset, len, 8 + len);

		if (!ok)
			return false;
	}
	return true;
}

/* Pieces that leave something out, or come twice, or lie outside; then "done". */
static bool send_wrong_pieces(struct hostile *h, const struct peer_request *r)
{
	unsigned nr = 1 + input_below(&h->in, 4);
	uint32_t half = r->len / 2;
	bool ok = true;

	for (unsigned i = 0; ok && i < nr; i++) {
		uint16_t flags = i == nr - 1 ? PEER_CHUNK_DONE : 0;

		switch (input_below(&h->in, 8)) {
		case 0:
		case 1:
			ok = send_data_chunk(h, r, flags, r->offset, half, 8 + half);
			break;
		case 2:
			ok = send_data_chunk(h, r, flags, r->offset + half, half, 8 + half);
			break;
		case 3:
			ok = send_data_chunk(h, r, flags, r->offset + 1, half, 8 + half);
			break;
		case 4:
			ok = send_data_chunk(h, r, flags, r->offset + input_number(&h->in), half,
					     8 + half);
			break;
		case 5:
			ok = send_hole_chunk(h, r, flags, r->offset, (uint32_t)input_number(&h->in),
					     12);
			break;
		case 6: /* what follows may be taken for data */
			atomic_store(&h->lied, true);
			ok = send_data_chunk(h, r, flags, r->offset, half,
					     (uint32_t)input_number(&h->in));
			break;
		default:
			ok = send_data_chunk(h, r, flags, r->offset + half, 0, 8);
		}
	}
	return ok;
}

static bool send_error(struct hostile *h, const struct peer_request *r)
{
	static const uint32_t codes[] = { 0,  1,   5,	12,  22,  28,	     75,
					  95, 107, 108, 110, 255, UINT32_MAX };
	uint32_t code = codes[input_below(&h->in, sizeof(codes) / sizeof(codes[0]))];
	uint8_t payload[6 + 256 + 8] = { 0 };
	uint16_t type = input_chance(&h->in, 128) ? PEER_CHUNK_ERROR_OFFSET : PEER_CHUNK_ERROR;
	uint32_t text = input_below(&h->in, 256), len;

	/* Error 0 is none: what comes next is taken for data. */
	atomic_store(&h->lied, true);
	if (!h->peer.has_structured_replies || input_chance(&h->in, 32))
		return peer_send_simple(&h->peer, r, code, NULL, 0);
	peer_put32(payload, code);
	peer_put16(payload + 4, (uint16_t)(input_chance(&h->in, 32) ? input_number(&h->in) : text));
	peer_put64(payload + 6 + text, input_chance(&h->in, 64) ? input_number(&h->in) : r->offset);
	len = 6 + text + (type == PEER_CHUNK_ERROR_OFFSET ? 8 : 0);
	return peer_send_chunk(&h->peer, r, input_chance(&h->in, 192) ? PEER_CHUNK_DONE : 0, type,
			       input_chance(&h->in, 32) ? (uint32_t)input_number(&h->in) : len,
			       payload, len);
}

static bool send_odd_chunk(struct hostile *h, const struct peer_request *r)
{
	static const uint16_t types[] = { 0,	  1,	  2,	  3,	  5,	  6,
					  0x7fff, 0x8000, 0x8001, 0x8002, 0x8003, 0xffff };
	uint8_t payload[64];
	uint32_t len = input_below(&h->in, sizeof(payload));
	uint16_t type = types[input_below(&h->in, sizeof(types) / sizeof(types[0]))];

	atomic_store(&h->lied, true);
	for (uint32_t i = 0; i < len; i++)
		payload[i] = (uint8_t)(input_byte(&h->in) & 0x7f);
	return peer_send_chunk(&h->peer, r, (uint16_t)input_below(&h->in, 5), type,
			       input_chance(&h->in, 64) ? (uint32_t)input_number(&h->in) : len,
			       payload, len);
}

/* A simple reply where a structured one belongs, and the reverse. */
static bool send_other_kind(struct hostile *h, const struct peer_request *r)
{
	bool ok;

	h->peer.has_structured_replies = !h->peer.has_structured_replies;
	ok = send_correct(h, r);
	h->peer.has_structured_replies = !h->peer.has_structured_replies;
	return ok;
}

static bool send_wrong(struct hostile *h, struct peer_request *r)
{
	switch (input_below(&h->in, 12)) {
	case 0:
	case 1:
		return h->peer.has_structured_replies ? send_split(h, r) : send_correct(h, r);
	case 2:
	case 3:
		return h->peer.has_structured_replies ? send_wrong_pieces(h, r) : send_garbage(h);
	case 4:
		return send_error(h, r);
	case 5:
		return send_odd_chunk(h, r);
	case 6:
		return send_other_kind(h, r);
	case 7:
		return send_correct(h, r) && send_correct(h, r); /* NOLINT: twice */
	case 8:							 /* it may be another request's */
		atomic_store(&h->lied, true);
		r->cookie = input_chance(&h->in, 128) ? input_number(&h->in) : r->cookie + 1;
		return send_correct(h, r);
	case 9:
		return true; /* never answered */
	case 10:	     /* done before anything came */
		return peer_send_chunk(&h->peer, r, PEER_CHUNK_DONE, PEER_CHUNK_NONE, 0, NULL, 0);
	default:
		return false;
	}
}

/* ---- connections --------------------------------------------------------- */

static bool is_readable(const struct hostile *h, int timeout_ms)
{
	struct pollfd fd = { .fd = h->peer.fd, .events = POLLIN };

	return poll(&fd, 1, timeout_ms) == 1;
}

static void serve_requests(struct hostile *h)
{
	uint8_t data[PEER_MAX_BYTES];
	struct peer_request r;

	h->nr_pending = 0;
	h->peer.patience_ms = HOSTILE_CORRECT_MS;
	for (;;) {
		int wait_ms = h->is_correct ? -1 : HOSTILE_PATIENCE_MS;
		unsigned i;

		/* Hoards some, so that there is an order to choose. */
		if (h->nr_pending < HOSTILE_MAX_PENDING &&
		    is_readable(h, h->nr_pending ? input_chance(&h->in, 64) : wait_ms)) {
			if (!peer_receive(&h->peer, &h->pending[h->nr_pending], data))
				return;
			h->nr_pending++;
			if (!h->is_correct && input_chance(&h->in, 128))
				continue;
		}
		if (!h->nr_pending)
			return;
		i = h->is_correct ? 0 : input_below(&h->in, h->nr_pending);
		r = h->pending[i];
		h->nr_pending--;
		memmove(&h->pending[i], &h->pending[i + 1], (h->nr_pending - i) * sizeof(r));
		if (!(!h->is_correct && input_chance(&h->in, h->reply_rate) ? send_wrong(h, &r) :
									      send_correct(h, &r)))
			return;
	}
}

/* It has closed its side, or said that it sends no more. */
static bool client_has_gone(const struct hostile *h)
{
	char byte;

	return recv(h->peer.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static void serve_connection(struct hostile *h, int fd)
{
	bool is_first = atomic_fetch_add(&h->nr_connections, 1) == 0;
	bool ok;

	h->is_correct = atomic_load(&h->nr_connections) > h->nr_hostile;
	h->in_negotiation = true;
	h->peer = (struct peer){ .fd = fd, .export = &h->export, .send = hostile_send, .arg = h };
	h->peer.patience_ms = HOSTILE_CORRECT_MS;
	if (is_first && h->first_is_correct) {
		h->peer.send = NULL;
		ok = peer_negotiate(&h->peer);
		h->peer.send = hostile_send;
	} else {
		ok = peer_negotiate(&h->peer);
	}
	h->in_negotiation = false;
	if (ok)
		serve_requests(h);
	/* An old connection that is left open: nothing but the fence's timeout ends it. */
	if (ok && client_has_gone(h) && !h->is_correct && h->nr_open < HOSTILE_MAX_OPEN &&
	    input_chance(&h->in, 64))
		h->open_fds[h->nr_open++] = fd;
	else
		close(fd);
}

/* The next connection, when the back end is there to take it. -1: no more. */
static int hostile_next(struct hostile *h)
{
	int fds[2] = { -1, -1 }, ret;

	pthread_mutex_lock(&h->lock);
	while (!h->backend && !h->must_end)
		pthread_cond_wait(&h->changed, &h->lock);
	if (!h->must_end) {
		ret = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds);
		assert(ret == 0);
		(void)ret;
		h->backend->ops->take_socket(h->backend, fds[0]);
	}
	pthread_mutex_unlock(&h->lock);
	return fds[1];
}

static void *hostile_main(void *arg)
{
	struct hostile *h = arg;
	int fd = h->first_fd;

	while (fd >= 0) {
		serve_connection(h, fd);
		fd = hostile_next(h);
	}
	while (h->nr_open)
		close(h->open_fds[--h->nr_open]);
	return NULL;
}

int hostile_start(struct hostile *h)
{
	int fds[2], ret;

	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->changed, NULL);
	ret = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds);
	assert(ret == 0);
	h->first_fd = fds[1];
	ret = pthread_create(&h->thread, NULL, hostile_main, h);
	assert(ret == 0);
	(void)ret;
	return fds[0];
}

void hostile_opened(struct hostile *h, struct ub_backend *backend)
{
	pthread_mutex_lock(&h->lock);
	h->backend = backend;
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
}

void hostile_stop(struct hostile *h)
{
	pthread_mutex_lock(&h->lock);
	h->must_end = true;
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
}

void hostile_join(struct hostile *h)
{
	pthread_join(h->thread, NULL);
	pthread_cond_destroy(&h->changed);
	pthread_mutex_destroy(&h->lock);
}
