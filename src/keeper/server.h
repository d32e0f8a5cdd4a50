/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A server as its keeper sees it: a process, its messages and its end. The keeper's main thread. */
#ifndef UB_KEEPER_SERVER_H
#define UB_KEEPER_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ublk-bridge/message.h>

#include "base/err.h"
#include "base/log.h"
#include "base/process.h"

struct ub_keeper;

/* How far a standby is. */
enum ub_standby_stage {
	UB_STANDBY_NEW,
	UB_STANDBY_OPENING,
	UB_STANDBY_PREPARING,
	UB_STANDBY_READY
};

/* A server process. */
struct ub_server {
	struct ub_keeper *keeper;
	pid_t pid;	   /* 0: none */
	int pidfd, fd;	   /* -1: none */
	unsigned version;  /* of the messages: what is spoken with it */
	bool is_child;	   /* not adopted: the kernel says how it ends */
	bool is_dismissed; /* its end is wanted */
	bool gone;
	int status;	   /* of waitpid, once a child is gone */
	unsigned nr_links; /* LINKs that it has sent */
	unsigned last_msg; /* enum ub_message_type of the newest that tells how far it is */
	struct ub_err err; /* what it gave up with */
	enum ub_standby_stage stage;
	struct ub_held_rings rings;    /* its queues', on Linux 6.12 */
	struct ub_msg_yielded yielded; /* to a YIELD; len_bytes 0: it has said nothing */
	struct ub_log_limit log;
	uint64_t began_ms;
};

#define UB_SERVER_NONE \
	{ \
		.pidfd = -1, .fd = -1, .version = UB_MESSAGE_V3 \
	}

int ub_server_spawn(struct ub_keeper *k, struct ub_server *server, struct ub_err *err);
/*
 * Watches one that runs already: pid's, at the other end of fd, which is the server's from now on.
 * Its version stays.
 */
int ub_server_watch(struct ub_server *server, pid_t pid, int fd, struct ub_err *err);
/* Whether this kernel takes it badly when the rings of a dead server go at once. */
bool ub_server_must_hold_rings(const struct ub_keeper *k);

/* Where it must be: keeps the rings of a server until it is gone. Its standby does so, too. */
void ub_server_hold_rings(struct ub_server *server);
/*
 * Waits for a message of this type. 0; -ECHILD: the server failed or died (*err says how),
 * -ETIMEDOUT, -EINTR: a signal asks us to end.
 */
int ub_server_await(struct ub_server *server, enum ub_message_type type, int64_t timeout_ms,
		    const char *what, struct ub_err *err);
/* Whether it lives. One that has begun to end does not, and is waited for, at most timeout_ms. */
bool ub_server_lives(struct ub_server *server, int64_t timeout_ms);
/* Waits until it is gone, at most timeout_ms; then kills it. */
void ub_server_end(struct ub_server *server, int64_t timeout_ms);
/* Lets go of one that is gone, and of what it said. */
void ub_server_forget(struct ub_server *server);
/* "was killed by signal 9", "ended with status 1" */
const char *ub_server_fate(const struct ub_server *server, char *buf, size_t len);

#endif
