/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a migration does that may block: a thread of its own opens the destination, and closes what
 * is left behind. One at a time. The main thread's, but for what is marked.
 */
#ifndef UB_SERVER_MOVE_THREAD_H
#define UB_SERVER_MOVE_THREAD_H

#include <stdbool.h>

#include "base/err.h"

struct server;
struct ub_backend;
struct ub_move;

/*
 * Opens the destination that s->move names, compares it with the device, and makes its parts and
 * the mirror's: thread_result is 0, or -errno with s->move.err. 0 or -errno with *err: no thread.
 */
int ub_move_start_opening(struct server *s, struct ub_err *err);

/*
 * Takes the mirror apart, and the side that is s->move.leaving, once nothing in the queues' rings
 * refers to it, and nothing that was sent there can still be executed. 0 or -errno with *err.
 */
int ub_move_start_closing(struct server *s, struct ub_err *err);

/* True once, for each that was started: what it has done is the main thread's. */
bool ub_move_thread_has_ended(struct server *s);

/*
 * Whether nothing that was sent there can still be executed; tells it first what somebody knows of
 * it (FENCED). Either thread, whichever has the side.
 */
bool ub_move_has_settled(struct server *s, struct ub_backend *be);
/* FENCED came, and be is of the side that it is about; NULL: nobody is to be told. Likewise. */
void ub_move_pass_on_fenced(struct ub_move *m, struct ub_backend *be);

#endif
