/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A hostile NBD server: what it does is decided by a string of bytes, and repeats with it.
 *
 * It runs on a thread of its own and hands its sockets to the back end one after another. Those
 * after the hostile ones are a correct server's, so that every I/O can end.
 */
#ifndef UB_TESTS_HOSTILE_H
#define UB_TESTS_HOSTILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/unit/peer.h"

struct ub_backend;

/* Bytes that decide: 0 when there are no more, and 0 is always what a correct server does. */
struct input {
	const uint8_t *data;
	size_t len, at;
};

unsigned input_byte(struct input *in);
unsigned input_below(struct input *in, unsigned n);
bool input_chance(struct input *in, unsigned of_256);
uint64_t input_number(struct input *in); /* one that is at an edge of something, mostly */

#define HOSTILE_MAX_PENDING 64
#define HOSTILE_MAX_OPEN    16

struct hostile {
	struct input in; /* the thread's, once it runs */
	struct peer_export export;
	unsigned nr_hostile; /* connections before it is a correct server */
	unsigned negotiation_rate, reply_rate, message_rate; /* of 256: how much goes wrong */
	bool first_is_correct;				     /* its negotiation */

	/* The thread's; the others look when it has ended, or where it is atomic. */
	struct peer peer;
	bool in_negotiation, is_correct;
	struct peer_request pending[HOSTILE_MAX_PENDING];
	unsigned nr_pending;
	int open_fds[HOSTILE_MAX_OPEN]; /* connections that it does not close */
	unsigned nr_open;
	int first_fd;
	_Atomic bool lied; /* data was sent that is not the export's */
	_Atomic bool first_was_changed;
	_Atomic unsigned nr_connections;
	pthread_t thread;

	/* The test's. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct ub_backend *backend; /* open; under the lock */
	bool must_end;
};

/* The export's data. */
uint8_t hostile_byte(uint64_t offset);

/*
 * Starts it. The client's end of the first connection, which is the caller's. The plan is made
 * before.
 */
int hostile_start(struct hostile *h);
void hostile_opened(struct hostile *h, struct ub_backend *backend);
/* No more sockets. Before the back end is closed. */
void hostile_stop(struct hostile *h);
void hostile_join(struct hostile *h); /* after that */

#endif
