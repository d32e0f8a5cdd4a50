/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a keeper says. The server's main thread. */
#ifndef UB_SERVER_WORDS_H
#define UB_SERVER_WORDS_H

struct server;

/*
 * A ub_loop callback for s->keeper_fd; arg: struct server *. Hears one message, or that it is gone.
 */
void ub_words_hear(void *arg);

/* For ub_move_init(): a MIGRATE that came too early is heard now. */
void ub_words_migration_is_over(struct server *s);

#endif
