/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connections of server processes, as their keeper holds them: a duplicate of each (LINK,
 * UNLINK). When a process dies, what it had sent may still be executed at the other ends, and what
 * is on its way may still get there. So each is reset at once, and the ledger is told since when
 * nothing more arrives: the next server counts its time from there. A unix socket, which has no
 * reset, is held until the other end has read or dropped what lies in its queue (base/socket.h).
 *
 * One that is not held here (there were too many, or another keeper had it) counts as reset: its
 * last descriptor went with its process, and SO_LINGER is 0. That is all that there is to know of
 * TCP. Of a unix socket nobody can see any more whether the other end has read what lies in its
 * queue: its time counts from the next sign of life, as it would if the queue were empty.
 *
 * The keeper's main thread. Nothing is allocated.
 */
#ifndef UB_KEEPER_LINKS_H
#define UB_KEEPER_LINKS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ublk-bridge/ledger.h>

#include "base/err.h"
#include "base/loop.h"

#define UB_LINKS_MAX 320 /* two of each connection that the back end of a side may have, and some */

/* A connection of a process's, by the number that it has told. */
struct ub_link {
	pid_t pid;
	uint32_t id;
	int fd;
	enum ub_ledger_conn_kind kind;
	struct ub_ledger_conn *lost; /* of a dead process, and not reset yet; NULL: it lives */
};

struct ub_links {
	struct ub_ledger *ledger; /* NULL: none is mapped */
	struct ub_loop *loop;
	int timer_fd; /* for those that are not reset yet, in whichever loop somebody waits */
	unsigned nr;
	struct ub_link held[UB_LINKS_MAX];
};

#define UB_LINKS_NONE \
	{ \
		.timer_fd = -1 \
	}

/* Once, before the first of them. 0 or -errno with *err. */
int ub_links_open(struct ub_links *l, struct ub_loop *loop, struct ub_err *err);

void ub_links_add(struct ub_links *l, pid_t pid, uint32_t id, int fd); /* fd is taken */
void ub_links_drop(struct ub_links *l, pid_t pid, uint32_t id); /* not there: nothing happens */

/*
 * This process is dead: its connections are reset, on both sides of the ledger, and those that the
 * ledger does not know.
 */
void ub_links_server_died(struct ub_links *l, pid_t pid);

/*
 * The ledger is another keeper's, which has gone, and so has what it held. live_pid: of the one
 * process whose connections live; 0: none.
 */
void ub_links_inherit(struct ub_links *l, pid_t live_pid);

/* Lets go of all of them, and of the ledger: the device goes, or is another keeper's. */
void ub_links_clear(struct ub_links *l);

#endif
