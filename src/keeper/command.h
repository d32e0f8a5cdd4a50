/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD server that the keeper starts itself: [ COMMAND ] and --command.
 *
 * It is the keeper's child and not the server process's, because it must outlive that one. The
 * keeper's main thread. Specification: sd_listen_fds(3) for the socket that is handed over.
 */
#ifndef UB_KEEPER_COMMAND_H
#define UB_KEEPER_COMMAND_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/loop.h"
#include "keeper/output.h"

struct ub_command {
	char *const *argv; /* NULL: there is none */
	/* --command: stdin and stdout are the connection; else a listening socket is its fd 3 */
	bool is_connected;
	bool restarts;
	/* we have no standard error, or will have none soon: what it prints goes to the log */
	bool is_daemon;
	struct ub_loop *loop;
	int oom_score;	/* what it gets, and the keeper had */
	char dir[4096]; /* likewise, the working directory: its arguments may be relative paths */
	int listen_fd;
	char path[108];			/* of the listening socket; "": none */
	int socket_fd;			/* our end of the connection, until it is handed over */
	void (*reconnected)(void *arg); /* socket_fd is a new one */
	void *arg;
	pid_t pid;	 /* its shield's (shield.h), and its process group; 0: it does not run */
	bool is_adopted; /* not our child: nobody says how it ends */
	int pid_fd;
	int timer_fd; /* of a restart */
	unsigned delay_ms;
	bool is_ending;
	uint64_t started_ms;
	char fate[96]; /* how it ended last; "": it did not */
	/* what it prints, where nobody else would see it; -1: it goes to our own standard error */
	int err_fd;
	struct ub_output output;
	bool is_in_use; /* the device is live with it: to start it again would help */
};

#define UB_COMMAND_NONE_YET \
	{ \
		.listen_fd = -1, .socket_fd = -1, .pid_fd = -1, .timer_fd = -1, .err_fd = -1 \
	}

/* Makes the socket, and starts it. The fields above listen_fd are set. 0 or -errno with *err. */
int ub_command_start(struct ub_command *c, struct ub_err *err);

/*
 * Watches one that another keeper has started, with the fields above listen_fd and the path set; 0:
 * it does not run. 0 or -errno with *err.
 */
int ub_command_adopt(struct ub_command *c, struct ub_loop *loop, pid_t pid, struct ub_err *err);

/* The keeper was told to end: a SIGTERM that was meant for all at once shall not end it before. */
void ub_command_hold(struct ub_command *c);
/* Tells it to end, and waits for nothing: c->pid is 0 when it has. */
void ub_command_begin_end(struct ub_command *c);
/* Ends it: SIGTERM, and SIGKILL after a while. Also one that was not started. */
void ub_command_end(struct ub_command *c);

#endif
