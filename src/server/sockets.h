/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connections that back ends have told of (ub_backend_hold_socket()), for the server to tell
 * its keeper of: the one it has, and each that adopts it. Any thread; a lock, never taken by a
 * queue's thread.
 */
#ifndef UB_SERVER_SOCKETS_H
#define UB_SERVER_SOCKETS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define UB_SOCKETS_MAX \
	256 /* those beyond have no duplicate: they are reset when this process dies */

struct ub_backend;

/*
 * fd -1: it is closed. The fd is good during the call alone. is_destination: of what the device is
 * being moved to.
 */
typedef void ub_sockets_tell(void *arg, uint32_t id, int fd, bool is_destination);

struct ub_sockets {
	pthread_mutex_t lock; /* for all that follows */
	ub_sockets_tell *tell;
	void *arg;
	uint32_t last_id;
	struct {
		uint32_t id; /* 0: free */
		int fd;
		const struct ub_backend *backend;
	} held[UB_SOCKETS_MAX];
};

/* A zeroed one. There is nothing to be undone. */
void ub_sockets_init(struct ub_sockets *sockets);

/* How many there are. */
unsigned ub_sockets_count(struct ub_sockets *sockets);

/* One more; fd stays the caller's. Its id; 0: there is no room. */
uint32_t ub_sockets_hold(struct ub_sockets *sockets, const struct ub_backend *be, int fd);
/* It closes. One that is not there: nothing. */
void ub_sockets_drop(struct ub_sockets *sockets, uint32_t id);
/* The back end closes: those that it still holds are dropped. */
void ub_sockets_forget(struct ub_sockets *sockets, const struct ub_backend *be);

/* Whether there is somebody to be told: a keeper. */
bool ub_sockets_have_listener(struct ub_sockets *sockets);
/* Whom to tell from now on, and at once of all that there are. NULL: nobody. */
void ub_sockets_set_listener(struct ub_sockets *sockets, ub_sockets_tell *tell, void *arg);

#endif
