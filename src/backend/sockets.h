/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connections that a back end has told of (ub_backend_hold_socket()), for the server to tell
 * its keeper of: the one it has, and each that adopts it. Any thread; a lock, never taken by a
 * queue's thread.
 */
#ifndef UB_BACKEND_SOCKETS_H
#define UB_BACKEND_SOCKETS_H

#include <stdbool.h>
#include <stdint.h>

struct ub_backend;

/*
 * fd -1: it is closed. The fd is good during the call alone. is_destination: of what the device is
 * being moved to.
 */
typedef void ub_sockets_tell(uint32_t id, int fd, bool is_destination);

/* How many there are. */
unsigned ub_sockets_count(void);

/* The back end closes: those that it still holds are dropped. */
void ub_sockets_forget(const struct ub_backend *be);

/* Whether there is somebody to be told: a keeper. */
bool ub_sockets_have_listener(void);

/* Whom to tell from now on, and at once of all that there are. NULL: nobody. */
void ub_sockets_set_listener(ub_sockets_tell *tell);

#endif
