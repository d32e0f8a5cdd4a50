/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control.sock: what a keeper is asked, and told to do, while it serves. One JSON object a line,
 * request and reply; ublk-bridge-control(7) is its specification.
 *
 * The keeper's main thread. A client can delay neither the keeper nor an I/O: nobody waits for a
 * client, what it sends and what is kept for it is bounded, and the one that was silent longest
 * makes room for a new one.
 */
#ifndef UB_KEEPER_CONTROL_H
#define UB_KEEPER_CONTROL_H

#include <jansson.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "run/ask-keeper.h"

#define UB_CONTROL_MAX_CLIENTS 8
/* the longest line that is taken: a migration's has a command's words */
#define UB_CONTROL_REQUEST_BYTES 16384

struct ub_keeper;

/* A client's place. One request at a time is answered; what comes meanwhile waits in its socket. */
struct ub_control_client {
	struct ub_control *control;
	int fd;		     /* -1: free */
	bool is_awaited;     /* its answer comes later: ub_control_answer() */
	bool is_heard;	     /* its socket is in the loop */
	bool has_ended;	     /* it sends no more: it has gone, or reads what is still to come */
	bool is_taking;	     /* its lines are being taken */
	uint32_t generation; /* of this place: tells its clients apart */
	uint64_t heard_ms;
	size_t len; /* of what has come of a line */
	char line[UB_CONTROL_REQUEST_BYTES];
};

struct ub_verb;

struct ub_control {
	struct ub_keeper *keeper;
	const struct ub_verb *verbs;
	struct ub_loop *loop;
	int listen_fd; /* -1: it is not open */
	struct ub_control_client clients[UB_CONTROL_MAX_CLIENTS];
};

/* Who waits for an answer that is given later. */
struct ub_control_caller {
	unsigned place; /* of the client */
	uint32_t generation;
};

/* Several who wait for the same. Zero it. */
struct ub_control_callers {
	struct ub_control_caller list[UB_CONTROL_MAX_CLIENTS];
	unsigned nr;
};

/*
 * What one verb does. args: the request (borrowed); reply: an object to be filled. 0: it is sent;
 * 1: the answer comes later; -errno: *err is sent. It neither blocks nor waits.
 */
typedef int ub_control_verb(struct ub_keeper *k, struct ub_control_caller caller,
			    const json_t *args, json_t *reply, struct ub_err *err);

struct ub_verb {
	const char *name; /* NULL: behind the last one */
	ub_control_verb *run;
};

#define UB_CONTROL_NONE \
	{ \
		.listen_fd = -1 \
	}

/*
 * Serves listen_fd (a listening stream socket, not blocking; it becomes the control's). The verbs
 * stay the caller's.
 */
void ub_control_open(struct ub_control *c, struct ub_keeper *k, const struct ub_verb *verbs,
		     struct ub_loop *loop, int listen_fd);
void ub_control_close(struct ub_control *c); /* clients too; also one that was never opened */

/*
 * The answer that a verb put off: *err if its code is not 0, else reply (consumed; NULL: an empty
 * one). Nothing happens if whoever asked has gone.
 */
void ub_control_answer(struct ub_control *c, struct ub_control_caller caller, json_t *reply,
		       const struct ub_err *err);

/*
 * The caller's connection, which is no client's any more: for what is no request. -1: it has gone.
 */
int ub_control_take(struct ub_control *c, struct ub_control_caller caller);

/* Whether this caller is still there, as far as it is known. */
bool ub_control_is_awaited(const struct ub_control *c, struct ub_control_caller caller);

/* Forgets those that have gone. How many are left. */
unsigned ub_control_callers_look(const struct ub_control *c, struct ub_control_callers *callers);
/* One more, in the place of those that have gone. 0, or -EBUSY with *err: there are too many. */
int ub_control_callers_add(const struct ub_control *c, struct ub_control_callers *callers,
			   struct ub_control_caller caller, struct ub_err *err);
/* The same answer for all, as ub_control_answer() gives it; they wait no longer. */
void ub_control_callers_answer(struct ub_control *c, struct ub_control_callers *callers,
			       const struct ub_err *err);

#endif
