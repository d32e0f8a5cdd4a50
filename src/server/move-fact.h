/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A migration's fact: the cookie in NAME/side (message.h, UB_FD_SIDE), and the note in the ledger
 * that a cutover is under way. The server's main thread.
 */
#ifndef UB_SERVER_MOVE_FACT_H
#define UB_SERVER_MOVE_FACT_H

#include <stdint.h>

#include "base/err.h"

struct server;

/*
 * Both sides are flushed, and nothing is in flight. 0: from here on the destination is what counts,
 * whoever dies. -errno with *err: nothing was written, and the source counts.
 */
int ub_move_write_fact(struct server *s, struct ub_err *err);

/* For the keeper, should this process die in a cutover. cookie: the migration's; 0: it is over. */
void ub_move_note_cut(struct server *s, uint64_t cookie);

#endif
