/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages between keeper and server: contents, descriptors, and everything a peer may get wrong.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <ublk-bridge/message.h>

struct pair {
	int fds[2];
	uint64_t buf[UB_MESSAGE_MAX_BYTES / 8];
	int got[UB_MESSAGE_MAX_FDS];
};

static int pair_setup(void **state)
{
	struct pair *p = calloc(1, sizeof(*p));

	*state = p;
	return p ? socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p->fds) : -1;
}

static int pair_teardown(void **state)
{
	struct pair *p = *state;

	for (unsigned i = 0; i < 2; i++) {
		if (p->fds[i] >= 0)
			close(p->fds[i]);
	}
	free(p);
	return 0;
}

static int pair_receive(struct pair *p)
{
	return ub_message_receive(p->fds[1], p->buf, p->got, MSG_DONTWAIT);
}

/* Sends any bytes and descriptors, as a peer might that is not ours. */
static void send_raw(int sock, const void *bytes, size_t len, const int *fds, unsigned nr_fds)
{
	char control[CMSG_SPACE((UB_MESSAGE_MAX_FDS + 4) * sizeof(int))]
		__attribute__((aligned(8))) = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nr_fds) {
		struct cmsghdr *cmsg = (struct cmsghdr *)(void *)control;

		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(nr_fds * sizeof(int));
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(nr_fds * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, nr_fds * sizeof(int));
	}
	assert_int_equal(sendmsg(sock, &msg, MSG_NOSIGNAL), (ssize_t)len);
}

static void a_message_arrives_as_it_was_sent(void **state)
{
	struct pair *p = *state;
	struct ub_msg_limits sent = { 0 }, *got = (void *)p->buf;

	sent.header.type = UB_MSG_LIMITS;
	sent.header.len_bytes = sizeof(sent);
	sent.limits.size_bytes = 0x123456789abcdef0ULL;
	sent.caps = UB_CAP_PLACE;
	assert_int_equal(ub_message_send(p->fds[0], &sent.header, NULL, 0, 0), 0);
	assert_int_equal(pair_receive(p), 0);
	assert_int_equal(got->header.type, UB_MSG_LIMITS);
	assert_int_equal(got->header.frame, UB_MESSAGE_FRAME);
	assert_memory_equal(got, &sent, sizeof(sent));
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		assert_int_equal(p->got[i], -1);
}

static void messages_keep_their_borders_and_order(void **state)
{
	struct pair *p = *state;
	const struct ub_msg_header *header = (void *)p->buf;

	assert_int_equal(ub_message_send_type(p->fds[0], UB_MSG_HELLO), 0);
	assert_int_equal(ub_message_send_type(p->fds[0], UB_MSG_LIVE), 0);
	assert_int_equal(pair_receive(p), 0);
	assert_int_equal(header->type, UB_MSG_HELLO);
	assert_int_equal(header->len_bytes, sizeof(*header));
	assert_int_equal(pair_receive(p), 0);
	assert_int_equal(header->type, UB_MSG_LIVE);
	assert_int_equal(pair_receive(p), -EAGAIN);
}

static void the_largest_message_passes(void **state)
{
	struct pair *p = *state;
	static uint64_t big[UB_MESSAGE_MAX_BYTES / 8];
	struct ub_msg_header *header = (void *)big;

	memset(big, 0x5a, sizeof(big));
	header->type = UB_MSG_SERVE;
	header->len_bytes = sizeof(big);
	assert_int_equal(ub_message_send(p->fds[0], header, NULL, 0, 0), 0);
	assert_int_equal(pair_receive(p), 0);
	assert_memory_equal(p->buf, big, sizeof(big));
}

static void oversize_is_refused_by_the_sender(void **state)
{
	struct pair *p = *state;
	struct ub_msg_header header = { .type = UB_MSG_SERVE,
					.len_bytes = UB_MESSAGE_MAX_BYTES + 1 };
	int fds[UB_MESSAGE_MAX_FDS + 1] = { 0, 0, 0 };

	assert_int_equal(ub_message_send(p->fds[0], &header, NULL, 0, 0), -EINVAL);
	header.len_bytes = sizeof(header);
	assert_int_equal(ub_message_send(p->fds[0], &header, fds, UB_MESSAGE_MAX_FDS + 1, 0),
			 -EINVAL);
	assert_int_equal(pair_receive(p), -EAGAIN);
}

static void descriptors_travel_and_are_closed_on_exec(void **state)
{
	struct pair *p = *state;
	struct ub_msg_header header = { .type = UB_MSG_CONFIG, .len_bytes = sizeof(header) };
	int mem = memfd_create("message", MFD_CLOEXEC), fds[2];
	struct stat want, got;

	assert_true(mem >= 0);
	fds[0] = mem;
	fds[1] = p->fds[0];
	assert_int_equal(ub_message_send(p->fds[0], &header, fds, 2, 0), 0);
	assert_int_equal(pair_receive(p), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(fstat(fds[i], &want), 0); /* still the sender's */
		assert_int_equal(fstat(p->got[i], &got), 0);
		assert_int_equal(got.st_ino, want.st_ino);
		assert_int_equal(fcntl(p->got[i], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
		close(p->got[i]);
	}
	assert_int_equal(ub_message_send(p->fds[0], &header, &mem, 1, 0), 0);
	assert_int_equal(pair_receive(p), 0);
	assert_true(p->got[0] >= 0);
	assert_int_equal(p->got[1], -1);
	close(p->got[0]);
	close(mem);
}

static void assert_refused_without_a_leak(struct pair *p, const void *bytes, size_t len,
					  unsigned nr_fds, int want)
{
	unsigned before = unit_nr_fds();
	int fds[UB_MESSAGE_MAX_FDS + 4];

	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS + 4; i++)
		fds[i] = p->fds[0];

	send_raw(p->fds[0], bytes, len, fds, nr_fds);
	assert_int_equal(pair_receive(p), want);
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		assert_int_equal(p->got[i], -1);
	assert_int_equal(unit_nr_fds(), before);
}

static void another_frame_is_refused(void **state)
{
	struct ub_msg_header header = { UB_MSG_HELLO, UB_MESSAGE_FRAME + 1, sizeof(header) };

	assert_refused_without_a_leak(*state, &header, sizeof(header), 0, -EPROTO);
	assert_refused_without_a_leak(*state, &header, sizeof(header), 2, -EPROTO);
	header.frame = 0;
	assert_refused_without_a_leak(*state, &header, sizeof(header), 1, -EPROTO);
}

/* ---- versions ------------------------------------------------------------ */

/* Sends a HELLO that is bytes long and says this version; what is to be spoken then. */
static unsigned version_after_hello(struct pair *p, size_t bytes, uint32_t version)
{
	struct {
		struct ub_msg_hello hello;
		uint64_t more;
	} msg = { .hello = { .header = { .type = UB_MSG_HELLO } }, .more = UINT64_MAX };

	msg.hello.version = version;
	msg.hello.header.len_bytes = (uint32_t)bytes;
	memset(p->buf, 0xff, sizeof(p->buf));
	assert_int_equal(ub_message_send(p->fds[0], &msg.hello.header, NULL, 0, 0), 0);
	assert_int_equal(pair_receive(p), 0);
	return ub_message_hello_version((const struct ub_msg_header *)p->buf);
}

static void the_lower_version_is_spoken(void **state)
{
	struct pair *p = *state;

	assert_int_equal(ub_message_send_hello(p->fds[0]), 0);
	assert_int_equal(pair_receive(p), 0);
	assert_int_equal(ub_message_hello_version((const struct ub_msg_header *)p->buf),
			 UB_MESSAGE_VERSION);
	assert_int_equal(version_after_hello(p, sizeof(struct ub_msg_hello),
					     UB_MESSAGE_VERSION + 1),
			 UB_MESSAGE_VERSION);
	assert_int_equal(version_after_hello(p, sizeof(struct ub_msg_hello) + 8, UINT32_MAX),
			 UB_MESSAGE_VERSION);
	assert_int_equal(version_after_hello(p, sizeof(struct ub_msg_hello), UB_MESSAGE_V3),
			 UB_MESSAGE_V3);
}

static void whoever_says_no_version_speaks_3(void **state)
{
	struct pair *p = *state;

	/* As programs of version 3 send it, whatever was in the buffer before. */
	assert_int_equal(version_after_hello(p, UB_V3_BYTES_HELLO, 77), UB_MESSAGE_V3);
	assert_int_equal(version_after_hello(p, sizeof(struct ub_msg_hello), 0), UB_MESSAGE_V3);
	assert_int_equal(version_after_hello(p, sizeof(struct ub_msg_hello), 2), UB_MESSAGE_V3);
}

/* Of any kind: as if the text had been appended since version 3 had a SET without it. */
static void a_message_that_grew_is_cut_for_version_3(void **state)
{
	struct ub_msg_text msg = { .header = { .type = UB_MSG_SET } };

	(void)state;
	msg.header.len_bytes = sizeof(msg);
	ub_message_fit(&msg.header, UB_MESSAGE_VERSION, UB_V3_BYTES_SET);
	assert_int_equal(msg.header.len_bytes, sizeof(msg));
	ub_message_fit(&msg.header, UB_MESSAGE_V3, UB_V3_BYTES_SET);
	assert_int_equal(msg.header.len_bytes, 32);
	ub_message_fit(&msg.header, UB_MESSAGE_V3, UB_V3_BYTES_TEXT);
	assert_int_equal(msg.header.len_bytes, 32);
}

static void what_a_short_message_lacks_is_zero(void **state)
{
	struct pair *p = *state;
	struct ub_msg_resize msg = { .header = { .type = UB_MSG_RESIZE }, .id = 7 };
	const char *behind = (const char *)p->buf + offsetof(struct ub_msg_resize, flags);
	const struct ub_msg_resize *got = (void *)p->buf;

	msg.header.len_bytes = offsetof(struct ub_msg_resize, flags);
	memset(p->buf, 0xff, sizeof(p->buf));
	assert_int_equal(ub_message_send(p->fds[0], &msg.header, NULL, 0, 0), 0);
	assert_int_equal(pair_receive(p), 0);
	assert_int_equal(got->id, 7);
	for (unsigned i = 0; i < UB_MESSAGE_ROOM_BYTES; i++)
		assert_int_equal(behind[i], 0);
	assert_int_equal((unsigned char)behind[UB_MESSAGE_ROOM_BYTES], 0xff);
}

static void what_is_behind_a_long_message_is_ignored(void **state)
{
	struct pair *p = *state;
	struct {
		struct ub_msg_link link;
		uint64_t more[4];
	} msg = { .link = { .header = { .type = UB_MSG_LINK }, .id = 9 }, .more = { 1, 2, 3, 4 } };
	const struct ub_msg_link *got = (void *)p->buf;

	msg.link.header.len_bytes = sizeof(msg);
	assert_int_equal(ub_message_send(p->fds[0], &msg.link.header, NULL, 0, 0), 0);
	assert_int_equal(pair_receive(p), 0);
	assert_int_equal(got->id, 9);
	assert_int_equal(got->header.len_bytes, sizeof(msg));
}

static void zeroes_end_where_the_room_does(void **state)
{
	struct pair *p = *state;
	static uint64_t big[UB_MESSAGE_MAX_BYTES / 8 - 1];
	struct ub_msg_header *header = (void *)big;

	header->type = UB_MSG_SERVE;
	header->len_bytes = sizeof(big);
	memset(p->got, 0x5a, sizeof(p->got)); /* they lie behind the buffer */
	p->buf[UB_MESSAGE_MAX_BYTES / 8 - 1] = UINT64_MAX;
	assert_int_equal(ub_message_send(p->fds[0], header, NULL, 0, 0), 0);
	assert_int_equal(pair_receive(p), 0);
	assert_int_equal(p->buf[UB_MESSAGE_MAX_BYTES / 8 - 1], 0);
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		assert_int_equal(p->got[i], -1);
}

static void strings_are_found_by_their_number(void **state)
{
	struct {
		struct ub_msg_header header;
		char strings[16];
	} msg = { .strings = "one\0\0three" };
	const size_t at = sizeof(msg.header);

	(void)state;
	msg.header.len_bytes = sizeof(msg.header) + sizeof("one\0\0three");
	assert_string_equal(ub_message_string(&msg.header, at, 0), "one");
	assert_string_equal(ub_message_string(&msg.header, at, 1), "");
	assert_string_equal(ub_message_string(&msg.header, at, 2), "three");
	assert_null(ub_message_string(&msg.header, at, 3));
	assert_null(ub_message_string(&msg.header, at, 1000));
	msg.header.len_bytes--; /* the last one has no end */
	assert_string_equal(ub_message_string(&msg.header, at, 1), "");
	assert_null(ub_message_string(&msg.header, at, 2));
	msg.header.len_bytes = sizeof(msg.header);
	assert_null(ub_message_string(&msg.header, at, 0));
	assert_null(ub_message_string(&msg.header, at + 4, 0)); /* shorter than its fixed part */
}

static void version_3_gets_the_descriptors_that_it_knows(void **state)
{
	const int all[6] = { -1, 11, -1, 13, 14, 15 };
	int packed[UB_MESSAGE_MAX_FDS];
	uint32_t mask;

	(void)state;
	assert_int_equal(ub_message_pack_fds(all, 6, UB_MESSAGE_V3, packed, &mask), 2);
	assert_int_equal(mask, 1U << 1 | 1U << 3);
	assert_int_equal(packed[0], 11);
	assert_int_equal(packed[1], 13);
	assert_int_equal(ub_message_pack_fds(all, 6, UB_MESSAGE_VERSION, packed, &mask), 4);
	assert_int_equal(mask, 1U << 1 | 1U << 3 | 1U << 4 | 1U << 5);
	assert_int_equal(packed[3], 15);
}

static void eight_descriptors_travel_by_name(void **state)
{
	struct pair *p = *state;
	struct ub_msg_header header = { .type = UB_MSG_CONFIG, .len_bytes = sizeof(header) };
	int all[UB_MESSAGE_MAX_FDS], packed[UB_MESSAGE_MAX_FDS];
	unsigned before = unit_nr_fds(), nr;
	struct stat want, got;
	uint32_t mask;

	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		all[i] = memfd_create("named", MFD_CLOEXEC);
	nr = ub_message_pack_fds(all, UB_MESSAGE_MAX_FDS, UB_MESSAGE_VERSION, packed, &mask);
	assert_int_equal(nr, 8);
	assert_int_equal(ub_message_send(p->fds[0], &header, packed, nr, 0), 0);
	assert_int_equal(pair_receive(p), 0);
	ub_message_unpack_fds(p->got, mask & ~(1U << 2)); /* one that the reader does not know */
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		assert_int_equal(p->got[i] >= 0, i != 2);
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++) {
		close(all[i]);
		if (p->got[i] >= 0)
			close(p->got[i]);
	}
	/* Without its end, the one before is found by its name. */
	all[0] = all[1] = -1;
	all[2] = memfd_create("named", MFD_CLOEXEC);
	nr = ub_message_pack_fds(all, 3, UB_MESSAGE_VERSION, packed, &mask);
	assert_int_equal(ub_message_send(p->fds[0], &header, packed, nr, 0), 0);
	assert_int_equal(pair_receive(p), 0);
	ub_message_unpack_fds(p->got, mask);
	assert_int_equal(fstat(all[2], &want), 0);
	assert_int_equal(fstat(p->got[2], &got), 0);
	assert_int_equal(got.st_ino, want.st_ino);
	close(all[2]);
	close(p->got[2]);
	assert_int_equal(unit_nr_fds(), before);
}

static void a_wrong_length_is_refused(void **state)
{
	struct {
		struct ub_msg_header header;
		char more[8];
	} msg = { .header = { UB_MSG_HELLO, UB_MESSAGE_FRAME, sizeof(msg) } };

	/* Cut short, with more than it says, and shorter than a header. */
	assert_refused_without_a_leak(*state, &msg, sizeof(msg) - 1, 0, -EPROTO);
	msg.header.len_bytes = sizeof(msg.header);
	assert_refused_without_a_leak(*state, &msg, sizeof(msg), 1, -EPROTO);
	msg.header.len_bytes = 7;
	assert_refused_without_a_leak(*state, &msg, 7, 1, -EPROTO);
	assert_refused_without_a_leak(*state, &msg, 1, 0, -EPROTO);
}

static void a_truncated_message_is_refused(void **state)
{
	static char big[UB_MESSAGE_MAX_BYTES + 8];
	struct ub_msg_header *header = (void *)big;

	*header = (struct ub_msg_header){ UB_MSG_SERVE, UB_MESSAGE_FRAME, sizeof(big) };
	assert_refused_without_a_leak(*state, big, sizeof(big), 0, -EPROTO);
	/* Even when what is left of it looks whole. */
	header->len_bytes = UB_MESSAGE_MAX_BYTES;
	assert_refused_without_a_leak(*state, big, sizeof(big), 1, -EPROTO);
}

static void too_many_descriptors_are_refused(void **state)
{
	struct ub_msg_header header = { UB_MSG_HELLO, UB_MESSAGE_FRAME, sizeof(header) };

	assert_refused_without_a_leak(*state, &header, sizeof(header), UB_MESSAGE_MAX_FDS + 1,
				      -EPROTO);
	assert_refused_without_a_leak(*state, &header, sizeof(header), UB_MESSAGE_MAX_FDS + 4,
				      -EPROTO);
}

static void an_empty_datagram_leaks_nothing(void **state)
{
	assert_refused_without_a_leak(*state, "", 0, 2, -ENOTCONN);
}

static void after_a_bad_message_a_good_one_is_read(void **state)
{
	struct pair *p = *state;

	assert_refused_without_a_leak(p, "garbage, and not short", 22, 0, -EPROTO);
	assert_int_equal(ub_message_send_type(p->fds[0], UB_MSG_LIVE), 0);
	assert_int_equal(pair_receive(p), 0);
}

static void a_peer_that_is_gone_is_told(void **state)
{
	struct pair *p = *state;

	assert_int_equal(ub_message_send_type(p->fds[0], UB_MSG_HELLO), 0);
	close(p->fds[0]);
	p->fds[0] = -1;
	assert_int_equal(pair_receive(p), 0); /* what it sent before is not lost */
	assert_int_equal(pair_receive(p), -ENOTCONN);
	assert_int_equal(ub_message_send_type(p->fds[1], UB_MSG_EXIT), -EPIPE); /* and no SIGPIPE */
}

/* A stream of ours that died with unread data resets the connection: that is "gone" too. */
static void a_peer_that_died_with_unread_data_is_gone(void **state)
{
	struct pair *p = *state;

	assert_int_equal(ub_message_send_type(p->fds[1], UB_MSG_HELLO), 0);
	close(p->fds[0]);
	p->fds[0] = -1;
	assert_int_equal(pair_receive(p), -ENOTCONN);
}

static void a_full_socket_does_not_block_with_dontwait(void **state)
{
	struct pair *p = *state;
	struct ub_msg_text text = { .header = { .type = UB_MSG_LOG, .len_bytes = sizeof(text) } };
	int ret = 0;

	alarm(30);
	for (unsigned i = 0; i < 100000 && ret == 0; i++)
		ret = ub_message_send(p->fds[0], &text.header, NULL, 0, MSG_DONTWAIT);
	alarm(0);
	assert_int_equal(ret, -EAGAIN);
}

static void a_closed_descriptor_is_an_error(void **state)
{
	struct pair *p = *state;

	assert_int_equal(ub_message_send_type(-1, UB_MSG_HELLO), -EBADF);
	assert_int_equal(ub_message_receive(-1, p->buf, p->got, 0), -EBADF);
}

#define PAIR_TEST(f) cmocka_unit_test_setup_teardown(f, pair_setup, pair_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		PAIR_TEST(a_message_arrives_as_it_was_sent),
		PAIR_TEST(messages_keep_their_borders_and_order),
		PAIR_TEST(the_largest_message_passes),
		PAIR_TEST(oversize_is_refused_by_the_sender),
		PAIR_TEST(descriptors_travel_and_are_closed_on_exec),
		PAIR_TEST(another_frame_is_refused),
		PAIR_TEST(the_lower_version_is_spoken),
		PAIR_TEST(whoever_says_no_version_speaks_3),
		PAIR_TEST(a_message_that_grew_is_cut_for_version_3),
		PAIR_TEST(what_a_short_message_lacks_is_zero),
		PAIR_TEST(what_is_behind_a_long_message_is_ignored),
		PAIR_TEST(zeroes_end_where_the_room_does),
		PAIR_TEST(strings_are_found_by_their_number),
		PAIR_TEST(version_3_gets_the_descriptors_that_it_knows),
		PAIR_TEST(eight_descriptors_travel_by_name),
		PAIR_TEST(a_wrong_length_is_refused),
		PAIR_TEST(a_truncated_message_is_refused),
		PAIR_TEST(too_many_descriptors_are_refused),
		PAIR_TEST(an_empty_datagram_leaks_nothing),
		PAIR_TEST(after_a_bad_message_a_good_one_is_read),
		PAIR_TEST(a_peer_that_is_gone_is_told),
		PAIR_TEST(a_peer_that_died_with_unread_data_is_gone),
		PAIR_TEST(a_full_socket_does_not_block_with_dontwait),
		PAIR_TEST(a_closed_descriptor_is_an_error),
	};

	return cmocka_run_group_tests_name("message", tests, NULL, NULL);
}
