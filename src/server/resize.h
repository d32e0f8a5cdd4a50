/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* RESIZE: another size for a device that is live. The server's main thread. */
#ifndef UB_SERVER_RESIZE_H
#define UB_SERVER_RESIZE_H

#include <ublk-bridge/message.h>

struct server;

/* RESIZE. The answer (RESIZED) says that it was done, or why not; never waits. */
void ub_resize_begin(struct server *s, const struct ub_msg_resize *msg);
/* The device has said something: the queues may have confirmed it. */
void ub_resize_continue(struct server *s);

#endif
