/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a new process to a device that is live, word by word, and what the device's queues say on
 * the way and later. The server's main thread.
 *
 * Each: 0, or -errno with *err, and the server cannot go on.
 */
#ifndef UB_SERVER_SERVE_H
#define UB_SERVER_SERVE_H

#include <ublk-bridge/message.h>

#include "base/err.h"

struct server;

/*
 * CONFIG: opens the back end, and answers LIMITS. The descriptors that it needs are taken out of
 * fds.
 */
int ub_serve_configure(struct server *s, struct ub_msg_config *msg, int fds[], struct ub_err *err);
/*
 * SERVE: makes all that takes memory; READY follows when the queues' threads are there. Likewise.
 */
int ub_serve_prepare(struct server *s, const struct ub_msg_serve *msg, int fds[],
		     struct ub_err *err);
/* TAKE: opens the device, says TAKING, and has every tag fetched; FETCHING follows. */
int ub_serve_take(struct server *s, struct ub_err *err);
/* LIVE, perhaps again: it serves without a keeper, too, and says so. */
int ub_serve_live(struct server *s, struct ub_err *err);

#endif
