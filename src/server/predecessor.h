/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server before this one, as its standby sees it: s->served_pid. The main thread.
 */
#ifndef UB_SERVER_PREDECESSOR_H
#define UB_SERVER_PREDECESSOR_H

#include "base/err.h"

struct server;

/*
 * HOLD: this process has its rings, too, until it is dead. The keeper does so as well; but it may
 * die in the same moment. It asks for this when it has ours: else it would take those of the other
 * one, which are here then, for ours. 0 or -errno with *err: there is none.
 */
int ub_predecessor_hold_rings(struct server *s, struct ub_err *err);

/*
 * The keeper is gone, and this standby alone: once the server before it is dead, it is who knows
 * what the device is made of, and who listens on server.sock.
 */
void ub_predecessor_take_place(struct server *s);

#endif
