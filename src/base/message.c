/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages between keeper and server, with descriptors. Any thread; knows nobody. */
#include <ublk-bridge/message.h>

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"

#define MESSAGE_CONTROL_BYTES CMSG_SPACE(UB_MESSAGE_MAX_FDS * sizeof(int))

int ub_message_send(int sock, struct ub_msg_header *header, const int *fds, unsigned nr_fds,
		    int flags)
{
	char control[MESSAGE_CONTROL_BYTES] __attribute__((aligned(8)));
	struct iovec iov = { .iov_base = header, .iov_len = header->len_bytes };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (nr_fds > UB_MESSAGE_MAX_FDS || header->len_bytes > UB_MESSAGE_MAX_BYTES)
		return -EINVAL;
	header->frame = UB_MESSAGE_FRAME;
	if (nr_fds) {
		struct cmsghdr *cmsg;

		memset(control, 0, sizeof(control));
		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(nr_fds * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(nr_fds * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, nr_fds * sizeof(int));
	}
	do {
		n = sendmsg(sock, &msg, flags | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

unsigned ub_message_pack_fds(const int all[], unsigned nr_all, unsigned version,
			     int packed[UB_MESSAGE_MAX_FDS], uint32_t *mask)
{
	unsigned max = version <= UB_MESSAGE_V3 ? UB_MESSAGE_V3_FDS : UB_MESSAGE_MAX_FDS, nr = 0;

	*mask = 0;
	for (unsigned i = 0; i < nr_all && i < max; i++) {
		if (all[i] < 0)
			continue;
		packed[nr++] = all[i];
		*mask |= 1U << i;
	}
	return nr;
}

void ub_message_unpack_fds(int fds[UB_MESSAGE_MAX_FDS], uint32_t mask)
{
	int packed[UB_MESSAGE_MAX_FDS];
	unsigned nr = 0;

	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		packed[i] = fds[i];
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		fds[i] = mask & 1U << i ? packed[nr++] : -1;
	while (nr < UB_MESSAGE_MAX_FDS)
		ub_close(&packed[nr++]);
}

int ub_message_send_type(int sock, enum ub_message_type type)
{
	struct ub_msg_header header = { .type = (uint16_t)type, .len_bytes = sizeof(header) };

	return ub_message_send(sock, &header, NULL, 0, 0);
}

int ub_message_send_hello(int sock)
{
	struct ub_msg_hello hello = { .header = { .type = UB_MSG_HELLO,
						  .len_bytes = sizeof(hello) } };

	hello.version = UB_MESSAGE_VERSION;
	return ub_message_send(sock, &hello.header, NULL, 0, 0);
}

unsigned ub_message_hello_version(const struct ub_msg_header *hello)
{
	unsigned version = ((const struct ub_msg_hello *)hello)->version;

	if (version <= UB_MESSAGE_V3)
		return UB_MESSAGE_V3;
	return version < UB_MESSAGE_VERSION ? version : UB_MESSAGE_VERSION;
}

const char *ub_message_string(const struct ub_msg_header *header, size_t offset, unsigned i)
{
	const char *at = (const char *)header + offset,
		   *end = (const char *)header + header->len_bytes;

	for (;;) {
		const char *zero = at < end ? memchr(at, '\0', (size_t)(end - at)) : NULL;

		if (!zero || !i--)
			return zero ? at : NULL;
		at = zero + 1;
	}
}

/* Takes the descriptors out; those beyond what we expect are closed. */
static void message_take_fds(struct msghdr *msg, int fds[UB_MESSAGE_MAX_FDS])
{
	unsigned nr = 0;

	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		size_t count;

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(fd));
			if (nr < UB_MESSAGE_MAX_FDS)
				fds[nr++] = fd;
			else
				close(fd);
		}
	}
}

int ub_message_receive(int sock, void *buf, int fds[UB_MESSAGE_MAX_FDS], int flags)
{
	char control[MESSAGE_CONTROL_BYTES] __attribute__((aligned(8)));
	struct iovec iov = { .iov_base = buf, .iov_len = UB_MESSAGE_MAX_BYTES };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control };
	struct ub_msg_header *header = buf;
	size_t room;
	ssize_t n;

	msg.msg_controllen = sizeof(control);
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		fds[i] = -1;
	do {
		n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == ECONNRESET ? -ENOTCONN : -errno;
	message_take_fds(&msg, fds);
	if ((size_t)n < sizeof(*header) || header->len_bytes != (size_t)n ||
	    header->frame != UB_MESSAGE_FRAME || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
		for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
			ub_close(&fds[i]); /* an empty datagram may have some too */
		return n == 0 ? -ENOTCONN : -EPROTO;
	}
	room = UB_MESSAGE_MAX_BYTES - (size_t)n;
	memset((char *)buf + n, 0, room < UB_MESSAGE_ROOM_BYTES ? room : UB_MESSAGE_ROOM_BYTES);
	return 0;
}
