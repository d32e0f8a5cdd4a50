/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ending a connection so that it is known what can still arrive at its other end. Any thread;
 * nothing waits.
 *
 * What libraries say of an error is not looked at: they read the socket's error before us, and say
 * it of another call, or of none.
 */
#ifndef UB_BASE_SOCKET_H
#define UB_BASE_SOCKET_H

#include <stdbool.h>
#include <sys/socket.h>

#include <ublk-bridge/ledger.h>

enum ub_ledger_conn_kind ub_socket_kind(int fd);

/*
 * Whether the other end has closed it, or reset it: to be asked before anything is done that could
 * be the cause. False also where that can no longer be known, because the error was read by
 * somebody else, and for what is neither TCP nor AF_UNIX.
 */
bool ub_socket_is_closed_by_peer(int fd, enum ub_ledger_conn_kind kind);

/*
 * Ends it for all its duplicates. True: the other end has all of it that it will ever get. TCP: a
 * reset, and what was on its way is purged (tcp(7): connect() to AF_UNSPEC). AF_UNIX has none: what
 * lies in the other end's queue stays there, and is read by a server that comes to it later. To be
 * called again while it is false.
 */
bool ub_socket_reset(int fd, enum ub_ledger_conn_kind kind);

/* Both ends of a TCP connection. */
struct ub_socket_ends {
	struct sockaddr_storage here, there;
	socklen_t len; /* of either; 0: they are not known */
};

void ub_socket_get_ends(int fd, struct ub_socket_ends *ends);

/*
 * A reset is sent once, and can be lost: then the other end keeps a connection that is over, and a
 * server with one place for clients that place. Begins to connect once more from the same port: the
 * other end answers that with a challenge (RFC 5961, 4.2), our kernel that with a reset, and this
 * one finds its mark. The new socket, to be closed some seconds later, or -errno.
 */
int ub_socket_knock(const struct ub_socket_ends *ends);

/*
 * Whether a last close, by our death too, is a reset (true), or says goodbye and sends what is left
 * (false). TCP.
 */
void ub_socket_set_linger(int fd, bool resets);

#endif
