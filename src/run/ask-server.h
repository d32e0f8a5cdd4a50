/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The other end of server.sock: a server is asked for what it serves, how it is, or to become the
 * server of another keeper. Control plane; blocks for a short while.
 */
#ifndef UB_RUN_ASK_SERVER_H
#define UB_RUN_ASK_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <ublk-bridge/message.h>

/* A server that has a keeper again. The descriptors are the caller's. */
struct ub_adoption {
	uint32_t state;	  /* enum ub_adopted */
	unsigned version; /* of the messages: what is spoken with it */
	pid_t pid;
	uint32_t nr_links; /* so many LINKs follow there */
	int fd;
	int fds[UB_MESSAGE_MAX_FDS]; /* enum ub_serve_fd */
};

/*
 * Becomes the keeper of NAME's server, or of the standby that has outlived it. *a is filled in in
 * either case. 0 or -errno: -ENOENT, -ECONNREFUSED: there is none, -ENOTCONN: it has a keeper, or
 * is ending, -ETIMEDOUT: it does not answer.
 */
int ub_rundir_adopt(const char *name, struct ub_adoption *a);

/*
 * Asks NAME's server how its back end is, for at most half a second. 0 with *health (enum
 * ub_health) and why in words, or -errno.
 */
int ub_rundir_ask_health(const char *name, unsigned *health, char *why, size_t len);

/* Has NAME's server fail all that it holds, and all that comes. 0: it does so, or -errno. */
int ub_rundir_cancel_io(const char *name);

/* True while NAME's server waits for what stands behind it, or has given it up; why in words. */
bool ub_rundir_is_offline(const char *name, char *why, size_t len);

#endif
