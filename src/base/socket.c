/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How connections end. Any thread; knows nobody. */
#include "base/socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/sockios.h>

enum ub_ledger_conn_kind ub_socket_kind(int fd)
{
	int domain = 0;
	socklen_t len = sizeof(domain);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
		return UB_CONN_OTHER;
	if (domain == AF_INET || domain == AF_INET6)
		return UB_CONN_TCP;
	return domain == AF_UNIX ? UB_CONN_UNIX : UB_CONN_OTHER;
}

static int socket_tcp_state(int fd)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 ? info.tcpi_state : -1;
}

/*
 * ECONNRESET: a reset; EPIPE: one behind a FIN. All other errors are our own side's view, such as a
 * time-out.
 */
static bool socket_tcp_was_reset(int fd)
{
	int code = 0;
	socklen_t len = sizeof(code);

	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len) == 0 &&
	       (code == ECONNRESET || code == EPIPE);
}

bool ub_socket_is_closed_by_peer(int fd, enum ub_ledger_conn_kind kind)
{
	struct pollfd pfd = { .fd = fd, .events = POLLRDHUP };
	int state;

	if (kind == UB_CONN_TCP) {
		state = socket_tcp_state(fd);
		return state == TCP_CLOSE_WAIT || (state == TCP_CLOSE && socket_tcp_was_reset(fd));
	}
	return kind == UB_CONN_UNIX && poll(&pfd, 1, 0) == 1 &&
	       (pfd.revents & (POLLRDHUP | POLLHUP));
}

bool ub_socket_reset(int fd, enum ub_ledger_conn_kind kind)
{
	static const struct sockaddr nowhere = { .sa_family = AF_UNSPEC };
	int unread = 0;

	if (kind == UB_CONN_TCP) {
		ub_socket_set_linger(fd, true);
		return connect(fd, &nowhere, sizeof(nowhere)) == 0 &&
		       socket_tcp_state(fd) == TCP_CLOSE;
	}
	shutdown(fd, SHUT_RDWR);
	return kind != UB_CONN_UNIX || (ioctl(fd, SIOCOUTQ, &unread) == 0 && unread == 0);
}

void ub_socket_get_ends(int fd, struct ub_socket_ends *ends)
{
	socklen_t here = sizeof(ends->here), there = sizeof(ends->there);

	ends->len = 0;
	if (getsockname(fd, (struct sockaddr *)&ends->here, &here) == 0 &&
	    getpeername(fd, (struct sockaddr *)&ends->there, &there) == 0 && here == there &&
	    here <= sizeof(ends->here))
		ends->len = here;
}

int ub_socket_knock(const struct ub_socket_ends *ends)
{
	static const int on = 1;
	int fd = socket(ends->here.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
	    ret = 0;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	ub_socket_set_linger(fd, true);
	if (bind(fd, (const struct sockaddr *)&ends->here, ends->len) < 0 ||
	    (connect(fd, (const struct sockaddr *)&ends->there, ends->len) < 0 &&
	     errno != EINPROGRESS))
		ret = -errno;
	if (ret)
		close(fd);
	return ret ? ret : fd;
}

void ub_socket_set_linger(int fd, bool resets)
{
	const struct linger linger = { .l_onoff = resets, .l_linger = 0 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}
