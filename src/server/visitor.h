/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * server.sock: a verb that needs the server itself, such as a forced detach, or a keeper that
 * adopts it. One visitor at a time. The main thread.
 */
#ifndef UB_SERVER_VISITOR_H
#define UB_SERVER_VISITOR_H

struct server;

/* From now on it is this server that is meant by server.sock. */
void ub_visitor_listen(struct server *s);

#endif
