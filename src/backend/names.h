/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where names are looked up. The server lets go of mounts that are not its own, so that it keeps
 * none of them busy; but host names, sockets and certificates are found by way of mounts, which may
 * have come after the server. So the thread that looks a name up goes where the keeper is, and
 * comes back.
 */
#ifndef UB_BACKEND_NAMES_H
#define UB_BACKEND_NAMES_H

#include <stdbool.h>

/* The way back. One for each call of ub_names_enter(); the caller's. */
struct ub_names {
	int mounts_fd, root_fd; /* -1: it has not left */
};

/*
 * The other end of this connected unix socket is the keeper (SO_PEERCRED in unix(7)); -1: there is
 * none. The socket stays the caller's. Any thread.
 */
void ub_names_set_keeper(int socket_fd);

/*
 * The calling thread sees the keeper's mounts and root directory until ub_names_leave(), and must
 * make no thread meanwhile. False: it sees its own, because there is no keeper, or it may not;
 * ub_names_leave() is allowed all the same. Never waits.
 */
bool ub_names_enter(struct ub_names *back);
void ub_names_leave(struct ub_names *back);

#endif
