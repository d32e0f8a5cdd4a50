/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD back end's engine and connector, on a core without a kernel: against nbdkit, and against
 * servers that do by script what no real one can be made to do.
 */
#include "unit.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "backend/nbd/library.h"
#include "backend/nbd/nbd.h"
#include "backend/nbd/options.h"
#include "backend/backend.h"
#include "base/fence.h"
#include "base/loop.h"
#include "core.h"
#include "peer.h"

#define DISK_BYTES (1U << 20)
#define NR_IOS	   64
#define IO_BYTES   16384
#define WAIT_MS	   20000 /* what takes longer hangs */

const struct ub_backend_ops *const ub_backends[] = { &ub_backend_nbd, NULL };

void __wrap_nbd_library_lock(void); /* NOLINT(bugprone-reserved-identifier) */

void __wrap_nbd_library_lock(void)
{
}

static char dir[] = "/tmp/test-nbd-engine.XXXXXX";
static char socket_path[64], disk_path[64];

/* ---- nbdkit -------------------------------------------------------------- */

static pid_t server_pid;

static bool server_answers(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), ret;

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	ret = connect(fd, (struct sockaddr *)&addr, sizeof(addr));
	close(fd);
	return ret == 0;
}

/* nbdkit with these filters and parameters (at most four) in front of its file plugin. */
static void server_start(const char *const extra[])
{
	const char *argv[16] = { "nbdkit", "-f", "-U", socket_path, "file", disk_path };
	unsigned nr = 6;
	uint64_t deadline = ub_now_ms() + WAIT_MS;

	while (extra && *extra)
		argv[nr++] = *extra++;
	unlink(socket_path);
	server_pid = fork();
	if (server_pid == 0) {
		int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

		dup2(fd, STDERR_FILENO);
		execvp(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	assert_true(server_pid > 0);
	while (!server_answers()) {
		if (waitpid(server_pid, NULL, WNOHANG) == server_pid || ub_now_ms() > deadline) {
			server_pid = 0;
			skip(); /* there is no nbdkit, or it lacks the filter */
		}
		poll(NULL, 0, 5);
	}
}

static void server_kill(void)
{
	if (server_pid <= 0)
		return;
	kill(server_pid, SIGKILL);
	waitpid(server_pid, NULL, 0);
	server_pid = 0;
}

/* ---- the device's side --------------------------------------------------- */

static struct core core;
static struct core_io ios[NR_IOS];
static uint8_t bufs[NR_IOS][IO_BYTES], model[DISK_BYTES];
static struct nbd_options options;
static bool is_moved_there; /* the device is only being moved to that server */
/* of the server process that the next device_open() comes after; NULL: it is the first */
static char *identity;

static int test_setup(void **state)
{
	int fd = open(disk_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	close(fd);
	memset(model, 0, sizeof(model));
	nbd_options_init(&options);
	options.address.transport = NBD_UNIX;
	options.address.path = strdup(socket_path);
	return 0;
}

static int test_teardown(void **state)
{
	(void)state;
	server_kill();
	nbd_options_destroy(&options);
	return 0;
}

static void device_open(unsigned nr_queues, int fd)
{
	char *json = nbd_options_to_json(&options);
	const struct ub_backend_config cfg = { .kind = "nbd",
					       .options = json,
					       .nr_queues = nr_queues,
					       .fd = fd,
					       .cancel_fd = -1,
					       .identity = identity };
	struct ub_err err = { 0 };

	if (core_open(&core, &cfg, NR_IOS, &err) != 0)
		fail_msg("%s", err.text);
	free(json);
	core_set_live(&core);
}

static void io_start(unsigned i, unsigned op, uint64_t offset, uint32_t len, unsigned flags)
{
	memset(&ios[i], 0, sizeof(ios[i]));
	ios[i].io.op = (uint8_t)op;
	ios[i].io.flags = (uint8_t)flags;
	ios[i].io.slot = (uint16_t)i;
	ios[i].io.offset_bytes = offset;
	ios[i].io.len_bytes = len;
	if (op == UB_OP_READ || op == UB_OP_WRITE)
		ios[i].io.buf = bufs[i];
	core_start_io(&core, i % core.nr_queues, &ios[i]);
}

/* Waits for it, and sees it completed once. */
static int32_t io_result(unsigned i)
{
	if (!core_wait_io(&core, &ios[i], WAIT_MS))
		fail_msg("I/O %u is not completed", i);
	assert_int_equal(ios[i].nr_done, 1);
	return ios[i].io.result;
}

static void await(const char *what, _Atomic int *value, int wanted)
{
	uint64_t deadline = ub_now_ms() + WAIT_MS;

	while (atomic_load(value) != wanted) {
		if (ub_now_ms() > deadline)
			fail_msg("%s is not %d", what, wanted);
		poll(NULL, 0, 2);
	}
}

/* One batch of I/O that does not overlap, checked against the model. */
static void run_batch(uint64_t *seed, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		uint64_t offset = (uint64_t)i * IO_BYTES;
		uint32_t len = 512 * (1 + (uint32_t)(unit_random(seed) % (IO_BYTES / 512)));

		switch (unit_random(seed) % 8) {
		case 0:
		case 1:
		case 2:
			memset(bufs[i], (int)(unit_random(seed) % 255 + 1), IO_BYTES);
			memcpy(model + offset, bufs[i], len);
			io_start(i, UB_OP_WRITE, offset, len, unit_random(seed) % 2 ? UB_FUA : 0);
			break;
		case 3:
			memset(model + offset, 0, len);
			io_start(i, UB_OP_WRITE_ZEROES, offset, len,
				 unit_random(seed) % 2 ? UB_NOUNMAP : UB_FUA);
			break;
		case 4:
			io_start(i, UB_OP_FLUSH, 0, 0, 0);
			break;
		default:
			memset(bufs[i], 0xee, IO_BYTES);
			io_start(i, UB_OP_READ, offset, len, 0);
		}
	}
	for (unsigned i = 0; i < nr; i++) {
		const struct ub_io *io = &ios[i].io;

		assert_int_equal(io_result(i), io->len_bytes);
		if (io->op == UB_OP_READ)
			assert_memory_equal(bufs[i], model + io->offset_bytes, io->len_bytes);
	}
}

/* A word of all queues together. */
static uint64_t stat_sum(size_t offset)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < core.nr_queues; i++)
		sum += ub_stat_read(
			(_Atomic uint64_t *)(void *)((char *)&core.queue_stats[i] + offset));
	return sum;
}

#define STAT_SUM(field) stat_sum(offsetof(struct ub_backend_queue_stats, field))

static void assert_disk_is_model(void)
{
	static uint8_t disk[DISK_BYTES];
	int fd = open(disk_path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, disk, sizeof(disk), 0), sizeof(disk));
	close(fd);
	assert_memory_equal(disk, model, sizeof(disk));
}

/* ---- nbdkit: data -------------------------------------------------------- */

static void io_matches_a_model(void **state)
{
	uint64_t seed = 1;

	(void)state;
	server_start(NULL);
	device_open(1, -1);
	for (unsigned i = 0; i < 20; i++)
		run_batch(&seed, NR_IOS);
	io_start(0, UB_OP_DISCARD, 0, DISK_BYTES / 2, 0);
	assert_int_equal(io_result(0), DISK_BYTES / 2);
	assert_int_equal(STAT_SUM(requests), 20 * NR_IOS + 1);
	assert_int_equal(STAT_SUM(retries) + STAT_SUM(reconnects), 0);
	assert_int_equal(STAT_SUM(nr_online), 1);
	assert_true(STAT_SUM(wait_ns) > 0);
	core_close(&core);
	assert_int_equal(ub_stat_read(&core.stats.nr_connections), 1);
	assert_int_equal(ub_stat_read(&core.stats.nr_outages), 0);
	assert_int_equal(ub_stat_outage_ns(&core.stats, UINT64_MAX), 0);
	memset(model, 0, DISK_BYTES / 2); /* a file's trimmed part reads as zeroes */
	assert_disk_is_model();
}

static void io_is_split_where_the_server_wants_less(void **state)
{
	static const char *const small[] = {
		"--filter=blocksize-policy",	"blocksize-minimum=512",
		"blocksize-preferred=512",	"blocksize-maximum=1024",
		"blocksize-error-policy=error", NULL
	};
	uint64_t seed = 2;

	(void)state;
	server_start(small);
	device_open(1, -1);
	assert_int_equal(core.backend.limits.max_io_bytes, 4096);
	for (unsigned i = 0; i < 5; i++)
		run_batch(&seed, NR_IOS);
	core_close(&core);
	assert_disk_is_model();
}

static void more_queues_than_connections_share_them(void **state)
{
	uint64_t seed = 3;

	(void)state;
	server_start(NULL);
	options.nr_connections = 2;
	device_open(5, -1);
	assert_int_equal(core.backend.limits.nr_queues, 2);
	for (unsigned i = 0; i < 20; i++)
		run_batch(&seed, NR_IOS);
	core_close(&core);
	assert_disk_is_model();
}

/* ---- nbdkit: outages ----------------------------------------------------- */

static const char *const slow[] = { "--filter=delay", "rdelay=20ms", "wdelay=20ms", NULL };

/* Nothing closes it today: what has to come first on a new connection will. */
static void behind_a_closed_gate_everything_waits(void **state)
{
	struct nbd_conn *conn;

	(void)state;
	server_start(NULL);
	device_open(1, -1);
	conn = &((struct nbd_backend *)core.backend.priv)->conns[0];
	conn->gate.is_closed = true;
	io_start(0, UB_OP_READ, 0, 512, 0);
	io_start(1, UB_OP_WRITE, 512, 512, 0);
	io_start(2, UB_OP_FLUSH, 0, 0, 0);
	for (unsigned i = 0; i < 3; i++)
		assert_false(core_wait_io(&core, &ios[i], 50));
	conn->gate.is_closed = false;
	nbd_conn_kick(conn);
	assert_int_equal(io_result(0), 512);
	assert_int_equal(io_result(1), 512);
	assert_int_equal(io_result(2), 0);
	core_close(&core);
}

static void a_killed_server_costs_no_io(void **state)
{
	uint64_t seed = 4;

	(void)state;
	server_start(slow);
	options.nr_connections = 3;
	/* what dies here is a server of this machine's own files */
	options.fence_policy = NBD_FENCE_CLOSE;
	device_open(2, -1);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < NR_IOS; i++) {
			memset(bufs[i], (int)(unit_random(&seed) % 255 + 1), IO_BYTES);
			memcpy(model + (size_t)i * IO_BYTES, bufs[i], IO_BYTES);
			io_start(i, UB_OP_WRITE, (uint64_t)i * IO_BYTES, IO_BYTES, 0);
		}
		io_result(0); /* some are answered, others not */
		server_kill();
		server_start(slow);
		for (unsigned i = 0; i < NR_IOS; i++)
			assert_int_equal(io_result(i), IO_BYTES);
		/*
		 * Each was answered once: what was sent more often was sent again, over one that
		 * died, too, perhaps.
		 */
		assert_int_equal(STAT_SUM(requests),
				 (uint64_t)(round + 1) * NR_IOS + STAT_SUM(retries));
		assert_in_range(STAT_SUM(retries), 1, (uint64_t)(round + 1) * 3 * NR_IOS);
		assert_in_range(STAT_SUM(reconnects), round + 1, (uint64_t)(round + 1) * 3);
	}
	assert_true(atomic_load(&core_nr_reports[UB_HEALTH_OFFLINE]) > 0);
	core_close(&core);
	assert_disk_is_model();
}

static _Atomic int slow_connect; /* 1: the next connect takes long; 2: it is in it; 3: it goes on */
static int (*real_connect_unix)(struct nbd_handle *, const char *);

static int slowly_connect_unix(struct nbd_handle *handle, const char *path)
{
	int one = 1;

	if (atomic_compare_exchange_strong(&slow_connect, &one, 2)) {
		while (atomic_load(&slow_connect) == 2)
			usleep(1000);
	}
	return real_connect_unix(handle, path);
}

/*
 * A name server does not answer, and the device moves away meanwhile: who waits for the answer
 * frees what is left.
 */
static void a_look_up_that_outlives_the_back_end_touches_nothing_of_it(void **state)
{
	(void)state;
	server_start(NULL);
	real_connect_unix = nbd.aio_connect_unix;
	/* for good: nobody says when the last connector is over */
	nbd.aio_connect_unix = slowly_connect_unix;
	device_open(1, -1);
	atomic_store(&slow_connect, 1);
	server_kill();
	while (atomic_load(&slow_connect) != 2)
		usleep(1000);
	core_close(&core);
	memset(&core, 0x5a, sizeof(core)); /* as freed memory is */
	atomic_store(&slow_connect, 3);
	usleep(300000);
}

static int failing_writes; /* as many pwrites of libnbd's fail for want of memory */
static int64_t (*real_pwrite)(struct nbd_handle *, const void *, size_t, uint64_t,
			      nbd_completion_callback, uint32_t);
static int (*real_get_errno)(void);

static int64_t failing_pwrite(struct nbd_handle *handle, const void *buf, size_t count,
			      uint64_t offset, nbd_completion_callback done, uint32_t flags)
{
	if (!failing_writes)
		return real_pwrite(handle, buf, count, offset, done, flags);
	failing_writes--;
	return -1;
}

static int no_memory(void)
{
	return failing_writes >= 0 ? ENOMEM : real_get_errno();
}

static void what_libnbd_has_no_memory_to_send_is_tried_again(void **state)
{
	(void)state;
	server_start(NULL);
	real_pwrite = nbd.aio_pwrite;
	real_get_errno = nbd.get_errno;
	failing_writes = 3;
	nbd.aio_pwrite = failing_pwrite;
	nbd.get_errno = no_memory;
	device_open(1, -1);
	for (unsigned i = 0; i < 2; i++)
		io_start(i, UB_OP_WRITE, i * 4096ULL, 4096, 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(io_result(i), 4096);
	assert_int_equal(failing_writes, 0);
	core_close(&core);
	nbd.aio_pwrite = real_pwrite;
	nbd.get_errno = real_get_errno;
}

static void cancel_completes_what_waits_and_what_comes(void **state)
{
	(void)state;
	server_start(slow);
	device_open(3, -1);
	for (unsigned i = 0; i < NR_IOS / 2; i++)
		io_start(i, UB_OP_READ, 0, 512, 0);
	server_kill();
	await("health", &core_health, UB_HEALTH_OFFLINE);
	for (unsigned i = NR_IOS / 2; i < NR_IOS - 3; i++)
		io_start(i, UB_OP_READ, 0, 512, 0);
	core_cancel(&core, -EIO);
	for (unsigned i = NR_IOS - 3; i < NR_IOS; i++) /* one on each queue */
		io_start(i, UB_OP_READ, 0, 512, 0);
	for (unsigned i = 0; i < NR_IOS; i++) {
		int32_t res = io_result(i);

		assert_true(res == -EIO || (i < NR_IOS / 2 && res == 512));
	}
	core_close(&core);
}

static void an_outage_longer_than_its_limit_fails_io_and_ends(void **state)
{
	(void)state;
	server_start(NULL);
	options.outage_limit_ms = 150;
	device_open(1, -1);
	io_start(0, UB_OP_READ, 0, 512, 0);
	assert_int_equal(io_result(0), 512);
	server_kill();
	await("health", &core_health, UB_HEALTH_OFFLINE);
	io_start(0, UB_OP_READ, 0, 512, 0);
	assert_int_equal(io_result(0), -EIO);
	io_start(0, UB_OP_WRITE, 0, 512, 0); /* and what comes then, at once */
	assert_int_equal(io_result(0), -EIO);
	server_start(NULL);
	await("health", &core_health, UB_HEALTH_ONLINE);
	io_start(0, UB_OP_READ, 0, 512, 0);
	assert_int_equal(io_result(0), 512);
	/* The outage lasted as long as the limit at least, and is over. */
	assert_int_equal(ub_stat_read(&core.stats.nr_outages), 1);
	assert_true(ub_stat_read(&core.stats.failed_attempts) > 0);
	assert_in_range(ub_stat_read(&core.stats.outage), 140000000, 20000000000);
	assert_int_equal(STAT_SUM(reconnects), 1);
	core_close(&core);
}

static int set_outage_limit(uint64_t ms)
{
	const struct ub_settings settings = { .which = UB_SET_OUTAGE_LIMIT, .outage_limit_ms = ms };
	struct ub_err err = { 0 };

	return core.backend.ops->set(&core.backend, &settings, &err);
}

static void an_outage_limit_set_in_an_outage_counts_from_its_beginning(void **state)
{
	(void)state;
	server_start(NULL);
	device_open(1, -1);
	server_kill();
	await("health", &core_health, UB_HEALTH_OFFLINE);
	io_start(0, UB_OP_READ, 0, 512, 0);
	usleep(300000);
	/* Longer than the outage by now: it goes on waiting. */
	assert_int_equal(set_outage_limit(600000), 0);
	assert_false(core_wait_io(&core, &ios[0], 100));
	/* Over already. */
	assert_int_equal(set_outage_limit(200), 0);
	assert_int_equal(io_result(0), -EIO);
	io_start(0, UB_OP_READ, 0, 512, 0);
	assert_int_equal(io_result(0), -EIO);
	/* And none: what comes waits again, until the server is back. */
	assert_int_equal(set_outage_limit(NBD_NO_LIMIT), 0);
	usleep(50000);
	io_start(0, UB_OP_READ, 0, 512, 0);
	assert_false(core_wait_io(&core, &ios[0], 300));
	server_start(NULL);
	assert_int_equal(io_result(0), 512);
	core_close(&core);
}

/* ---- servers by script --------------------------------------------------- */

static struct peer_export export;
static int listen_fd;

static int script_setup(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	test_setup(state);
	export = (struct peer_export){ .size_bytes = DISK_BYTES, .flags = PEER_ALL };
	export.has_structured_replies = true;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	unlink(socket_path);
	listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listen_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(listen_fd, 8), 0);
	return 0;
}

static int script_teardown(void **state)
{
	close(listen_fd);
	return test_teardown(state);
}

/* Accepts a connection and negotiates. */
static void *peer_accept(void *arg)
{
	struct peer *peer = arg;
	struct pollfd fd = { .fd = listen_fd, .events = POLLIN };

	*peer = (struct peer){ .export = &export, .patience_ms = WAIT_MS };
	peer->fd = poll(&fd, 1, WAIT_MS) == 1 ? accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC) : -1;
	return peer->fd >= 0 && peer_negotiate(peer) ? peer : NULL;
}

static void peer_open_device(struct peer *peer)
{
	pthread_t thread;
	void *ok;

	pthread_create(&thread, NULL, peer_accept, peer);
	device_open(1, -1);
	pthread_join(thread, &ok);
	assert_non_null(ok);
}

static void peer_expect(struct peer *peer, struct peer_request *r, unsigned type)
{
	static uint8_t data[PEER_MAX_BYTES];

	if (!peer_receive(peer, r, data))
		fail_msg("no request comes");
	assert_int_equal(r->type, type);
}

static bool peer_has_request(const struct peer *peer, int timeout_ms)
{
	struct pollfd fd = { .fd = peer->fd, .events = POLLIN };

	return poll(&fd, 1, timeout_ms) == 1;
}

/* A write that a stalled connection holds, and another connection beside it. */
static void stall_a_write(struct peer *old, struct peer *new)
{
	struct peer_request r;

	options.stall_timeout_ms = 100;
	export.flags |= PEER_MULTI_CONN;
	peer_open_device(old);
	io_start(0, UB_OP_WRITE, 0, 4096, 0);
	peer_expect(old, &r, PEER_WRITE);
	assert_non_null(peer_accept(new));
	/* A read is no danger, and shows that this one is in use. */
	io_start(1, UB_OP_READ, 0, 512, 0);
	peer_expect(new, &r, PEER_READ);
	assert_true(peer_answer(new, &r, 0, bufs[2]));
	assert_int_equal(io_result(1), 512);
}

/* With the default nothing would be tried for half a minute. */
static void a_stall_timeout_set_while_a_request_is_unanswered_holds_for_it(void **state)
{
	const struct ub_settings too_short = { .which = UB_SET_STALL_TIMEOUT,
					       .stall_timeout_ms = 99 };
	const struct ub_settings settings = { .which = UB_SET_STALL_TIMEOUT,
					      .stall_timeout_ms = 100 };
	struct ub_err err = { 0 };
	struct peer old, new;
	struct peer_request r;

	(void)state;
	export.flags |= PEER_MULTI_CONN;
	peer_open_device(&old);
	io_start(0, UB_OP_READ, 0, 512, 0);
	peer_expect(&old, &r, PEER_READ);
	assert_int_equal(core.backend.ops->set(&core.backend, &too_short, &err), -ERANGE);
	assert_int_equal(poll(&(struct pollfd){ .fd = listen_fd, .events = POLLIN }, 1, 300), 0);
	assert_int_equal(core.backend.ops->set(&core.backend, &settings, &err), 0);
	assert_non_null(peer_accept(&new));
	peer_expect(&new, &r, PEER_READ);
	assert_true(peer_answer(&new, &r, 0, bufs[2]));
	assert_int_equal(io_result(0), 512);
	core_close(&core);
	close(old.fd);
	close(new.fd);
}

static void answer_a_write(struct peer *peer, unsigned i)
{
	static uint8_t data[PEER_MAX_BYTES];
	struct peer_request r;

	/* A read in between asks for nothing but a sign of life. */
	do {
		if (!peer_receive(peer, &r, data))
			fail_msg("write %u does not come", i);
		if (r.type == PEER_READ)
			assert_true(peer_answer(peer, &r, 0, data));
	} while (r.type == PEER_READ);
	assert_int_equal(r.type, PEER_WRITE);
	assert_int_equal(r.offset, ios[i].io.offset_bytes);
	assert_true(peer_answer(peer, &r, 0, NULL));
	assert_int_equal(io_result(i), r.len);
}

static void answer_in_pieces(struct peer *peer, const struct peer_request *r, uint32_t unit,
			     const int *order);

/* Only reads that ask for a sign of life. */
static void assert_no_write(struct peer *peer, uint64_t ms)
{
	static uint8_t data[PEER_MAX_BYTES];
	uint64_t until = ub_now_ms() + ms, now;
	struct peer_request r;

	while ((now = ub_now_ms()) < until && peer_has_request(peer, (int)(until - now))) {
		assert_true(peer_receive(peer, &r, data));
		assert_int_equal(r.type, PEER_READ);
		assert_true(peer_answer(peer, &r, 0, data));
	}
}

/*
 * How many times a server gets a request that is not answered for so long, on however many
 * connections.
 */
struct patient {
	struct peer peers[64];
	struct peer_request requests[64];
	uint64_t sent_ms[64];
	bool is_answered[64];
	unsigned nr, nr_sent, nr_answered;
};

static void patient_turn(struct patient *p, uint64_t takes_ms)
{
	static uint8_t data[PEER_MAX_BYTES];
	struct pollfd fd = { .fd = listen_fd, .events = POLLIN };

	if (poll(&fd, 1, 5) == 1 && p->nr < 64 && peer_accept(&p->peers[p->nr]))
		p->nr++;
	for (unsigned i = 0; i < p->nr; i++) {
		p->peers[i].patience_ms = 0;
		if (!p->sent_ms[i] && peer_has_request(&p->peers[i], 0) &&
		    peer_receive(&p->peers[i], &p->requests[i], data)) {
			p->sent_ms[i] = ub_now_ms();
			p->nr_sent++;
		}
		if (p->sent_ms[i] && !p->is_answered[i] &&
		    ub_now_ms() - p->sent_ms[i] >= takes_ms) {
			p->is_answered[i] = true;
			p->nr_answered++;
			peer_answer(&p->peers[i], &p->requests[i], 0, NULL);
		}
	}
}

static void assert_takes_long(uint16_t flags)
{
	static struct patient p;
	uint64_t began = ub_now_ms();

	p = (struct patient){ .nr = 1 };
	export.flags |= flags;
	options.stall_timeout_ms = 300;
	options.fence_timeout_ms = 100;
	peer_open_device(&p.peers[0]);
	io_start(0, UB_OP_WRITE_ZEROES, 0, 65536, 0);
	while (ub_now_ms() - began < 8000 && !atomic_load(&ios[0].is_done))
		patient_turn(&p, 1000);
	assert_int_equal(io_result(0), 65536);
	assert_in_range(p.nr_sent, 1, 3); /* once more for each doubling */
	core_close(&core);
	for (unsigned i = 0; i < p.nr; i++)
		close(p.peers[i].fd);
}

static void a_request_that_takes_longer_than_every_timeout_completes(void **state)
{
	(void)state;
	assert_takes_long(0);
}

static void so_it_does_where_several_connections_are_safe(void **state)
{
	(void)state;
	assert_takes_long(PEER_MULTI_CONN);
}

/* ---- the fence ----------------------------------------------------------- */

static void a_stalled_connection_keeps_its_write_and_is_read_on(void **state)
{
	struct peer old, new;
	struct peer_request r = { 0 };

	(void)state;
	options.stall_timeout_ms = 1000;
	export.flags |= PEER_MULTI_CONN;
	peer_open_device(&old);
	io_start(0, UB_OP_WRITE, 0, 4096, 0);
	peer_expect(&old, &r, PEER_WRITE);
	assert_non_null(peer_accept(&new));
	assert_false(peer_has_request(&new, 300)); /* in flight on one connection only */
	assert_true(peer_answer(&old, &r, 0, NULL));
	assert_int_equal(io_result(0), 4096);
	/* What it answered is flushed there, and then it goes. */
	peer_expect(&old, &r, PEER_FLUSH);
	assert_true(peer_answer(&old, &r, 0, NULL));
	{
		static uint8_t data[PEER_MAX_BYTES];

		assert_false(peer_receive(&old, &r, data));
		assert_int_equal(r.type, PEER_DISC);
	}
	/* An answered change is no range. */
	io_start(1, UB_OP_WRITE, 0, 512, 0);
	answer_a_write(&new, 1);
	core_close(&core);
	close(old.fd);
	close(new.fd);
}

static void without_multi_conn_no_other_connection_is_made_beside_a_stalled_one(void **state)
{
	struct pollfd fd = { .fd = listen_fd, .events = POLLIN };
	struct peer_request r;
	struct peer old, new;
	char byte;

	(void)state;
	options.stall_timeout_ms = 300;
	peer_open_device(&old);
	io_start(0, UB_OP_WRITE, 0, 4096, 0);
	peer_expect(&old, &r, PEER_WRITE);
	fd.fd = listen_fd;
	assert_int_equal(poll(&fd, 1, 450), 0);
	assert_non_null(peer_accept(&new));
	assert_int_equal(recv(old.fd, &byte, 1, 0), 0); /* it was given up first */
	answer_a_write(&new, 0);
	core_close(&core);
	close(old.fd);
	close(new.fd);
}

/* The first write is in flight on `old`, which is given up, and sent again on `new`. */
static void give_a_write_up(struct peer *old, struct peer *new)
{
	stall_a_write(old, new);
	answer_a_write(new, 0);
}

static void only_newer_changes_that_overlap_wait(void **state)
{
	struct peer old, new;
	uint64_t began;

	(void)state;
	options.fence_timeout_ms = 1000;
	give_a_write_up(&old, &new);
	began = ub_now_ms();
	io_start(2, UB_OP_WRITE, 512, 512, 0); /* within what may still land */
	io_start(3, UB_OP_WRITE, 8192, 512, 0);
	answer_a_write(&new, 3);
	io_start(4, UB_OP_READ, 0, 512, 0);
	assert_true(peer_has_request(&new, WAIT_MS));
	{
		struct peer_request r;

		peer_expect(&new, &r, PEER_READ);
		assert_true(peer_answer(&new, &r, 0, bufs[5]));
		assert_int_equal(io_result(4), 512);
		io_start(4, UB_OP_FLUSH, 0, 0, 0);
		peer_expect(&new, &r, PEER_FLUSH);
		assert_true(peer_answer(&new, &r, 0, NULL));
		assert_int_equal(io_result(4), 0);
	}
	assert_true(ub_now_ms() - began < 800);
	answer_a_write(&new, 2);
	assert_true(ub_now_ms() - began >= 900);
	core_close(&core);
	close(old.fd);
	close(new.fd);
}

/* What lies in the old server's queue is read by it some day. */
static void no_clock_runs_while_the_old_server_has_not_read_everything(void **state)
{
	static uint8_t data[PEER_MAX_BYTES];
	struct peer old, new;
	struct peer_request r;

	(void)state;
	options.fence_timeout_ms = 200;
	options.stall_timeout_ms = 100;
	export.flags |= PEER_MULTI_CONN;
	peer_open_device(&old);
	io_start(0, UB_OP_WRITE, 0, 4096, 0);
	assert_true(peer_has_request(&old, WAIT_MS)); /* and leaves it there */
	assert_non_null(peer_accept(&new));
	io_start(1, UB_OP_READ, 0, 512, 0);
	peer_expect(&new, &r, PEER_READ);
	assert_true(peer_answer(&new, &r, 0, bufs[2]));
	answer_a_write(&new, 0);
	io_start(2, UB_OP_WRITE, 0, 512, 0);
	assert_no_write(&new, 800);
	assert_true(peer_receive(&old, &r, data));
	/* A sign of life is asked for: nobody else asks for anything. */
	peer_expect(&new, &r, PEER_READ);
	assert_true(peer_answer(&new, &r, 0, bufs[2]));
	answer_a_write(&new, 2);
	core_close(&core);
	close(old.fd);
	close(new.fd);
}

/* It dies with a write in its hands. */
static void close_a_write(struct peer *old, struct peer *new)
{
	struct peer_request r;

	peer_open_device(old);
	io_start(0, UB_OP_WRITE, 0, 4096, 0);
	peer_expect(old, &r, PEER_WRITE);
	close(old->fd);
	assert_non_null(peer_accept(new));
	answer_a_write(new, 0);
}

static void a_close_by_the_server_ends_nothing_by_itself(void **state)
{
	struct peer old, new;
	uint64_t began;

	(void)state;
	options.fence_timeout_ms = 500;
	close_a_write(&old, &new);
	began = ub_now_ms();
	io_start(1, UB_OP_WRITE, 0, 4096, 0);
	answer_a_write(&new, 1);
	assert_true(ub_now_ms() - began >= 400);
	core_close(&core);
	close(new.fd);
}

static void a_close_by_the_server_ends_a_range_where_it_is_trusted(void **state)
{
	struct peer old, new;

	(void)state;
	options.fence_policy = NBD_FENCE_CLOSE;
	options.fence_timeout_ms = 1000ULL * WAIT_MS;
	close_a_write(&old, &new);
	io_start(1, UB_OP_WRITE, 0, 4096, 0);
	answer_a_write(&new, 1);
	core_close(&core);
	close(new.fd);
}

/* … but only one that it made by itself. */
static void our_own_cut_is_no_close(void **state)
{
	struct peer old, new;

	(void)state;
	options.fence_policy = NBD_FENCE_CLOSE;
	options.fence_timeout_ms = 500;
	give_a_write_up(&old, &new);
	close(old.fd);
	io_start(2, UB_OP_WRITE, 0, 512, 0);
	assert_no_write(&new, 300);
	answer_a_write(&new, 2);
	core_close(&core);
	close(new.fd);
}

/* ---- after a death of ours ----------------------------------------------- */

/*
 * A server process has died with these blocks unanswered, each in a write of its own; the next one
 * serves.
 */
static void die_with_writes(struct peer *peer, unsigned first, unsigned nr)
{
	const unsigned nr_slots = NR_IOS + UB_INTERNAL_SLOTS;

	peer_open_device(peer);
	identity = core.backend.ops->get_identity(&core.backend);
	assert_non_null(identity);
	core_close(&core);
	close(peer->fd);
	core_ledger = calloc(1, ub_ledger_bytes(1, nr_slots));
	assert_non_null(core_ledger);
	ub_ledger_init(core_ledger, 1, nr_slots);
	ub_ledger_conn(core_ledger, 0, 0)->pid = 1;
	atomic_store(&ub_ledger_conn(core_ledger, 0, 0)->state, UB_CONN_OPEN);
	for (unsigned i = first; i < first + nr; i++)
		ub_fence_send(ub_ledger_sent(core_ledger, 0, 0, i), 0, UB_OP_WRITE, i * 4096ULL,
			      4096);
	peer_open_device(peer);
}

static void end_after_death(struct peer *peer)
{
	core_close(&core);
	close(peer->fd);
	free(identity);
	identity = NULL;
	free(core_ledger);
	core_ledger = NULL;
}

static void give_back(unsigned slot, uint64_t offset, uint32_t len)
{
	const struct ub_io io = {
		.op = UB_OP_WRITE, .slot = (uint16_t)slot, .offset_bytes = offset, .len_bytes = len
	};

	core_give_back(&core, 0, &io);
}

/* As the core does with a change that it has to send in parts. */
static void start_part(unsigned i, uint64_t offset, uint32_t rest)
{
	memset(&ios[i], 0, sizeof(ios[i]));
	ios[i].io = (struct ub_io){ .op = UB_OP_WRITE,
				    .flags = UB_PART,
				    .slot = (uint16_t)i,
				    .offset_bytes = offset,
				    .len_bytes = 4096,
				    .rest_bytes = rest,
				    .buf = bufs[i] };
	core_start_io(&core, 0, &ios[i]);
}

/*
 * What is refused before it is sent was perhaps what the dead process had sent: no newer change may
 * take its place.
 */
static void what_is_refused_when_it_comes_again_lets_no_newer_change_pass(void **state)
{
	struct peer peer;

	(void)state;
	options.fence_timeout_ms = 1000;
	die_with_writes(&peer, 0, 2);
	io_start(3, UB_OP_WRITE, 4096, 4096, 0); /* that one comes again: it goes at once */
	answer_a_write(&peer, 3);
	give_back(2, 0, 4096);
	io_start(4, UB_OP_WRITE, 0, 4096, 0);
	assert_no_write(&peer, 500);
	answer_a_write(&peer, 4);
	end_after_death(&peer);
}

static void each_part_of_what_comes_again_goes_at_once(void **state)
{
	uint64_t began;
	struct peer peer;

	(void)state;
	options.fence_timeout_ms = 1000ULL * WAIT_MS;
	die_with_writes(&peer, 0, 3);
	began = ub_now_ms();
	for (unsigned i = 0; i < 3; i++) {
		start_part(0, i * 4096ULL, (2 - i) * 4096);
		answer_a_write(&peer, 0);
	}
	assert_true(ub_now_ms() - began < WAIT_MS / 2);
	/* the kernel does not send that before it has the first one back */
	io_start(1, UB_OP_WRITE, 8192, 4096, 0);
	assert_no_write(&peer, 300);
	give_back(0, 0, 12288);
	core.backend.ops->fenced(&core.backend, UINT64_MAX);
	answer_a_write(&peer, 1);
	end_after_death(&peer);
}

/* … also the parts that never come, because one before them has failed. */
static void parts_that_never_come_let_no_newer_change_pass(void **state)
{
	static uint8_t data[PEER_MAX_BYTES];
	struct peer_request r;
	struct peer peer;

	(void)state;
	options.fence_timeout_ms = 1000;
	die_with_writes(&peer, 0, 3);
	start_part(0, 0, 8192);
	do {
		assert_true(peer_receive(&peer, &r, data));
		assert_true(
			peer_answer(&peer, &r, r.type == PEER_READ ? 0 : 28 /* ENOSPC */, data));
	} while (r.type == PEER_READ);
	assert_int_equal(io_result(0), -ENOSPC);
	give_back(0, 0, 12288);
	io_start(1, UB_OP_WRITE, 8192, 4096, 0);
	assert_no_write(&peer, 500);
	answer_a_write(&peer, 1);
	end_after_death(&peer);
}

/*
 * Its first part was answered, then its server was lost: it begins anew, and what it had in hand is
 * its own.
 */
static void a_change_in_parts_that_begins_anew_goes_at_once(void **state)
{
	struct peer_request r;
	struct peer peer;
	uint64_t began;

	(void)state;
	options.fence_timeout_ms = 1000ULL * WAIT_MS;
	peer_open_device(&peer);
	start_part(0, 0, 4096);
	answer_a_write(&peer, 0);
	start_part(0, 4096, 0);
	peer_expect(&peer, &r, PEER_WRITE);
	close(peer.fd);
	assert_non_null(peer_accept(&peer));
	began = ub_now_ms();
	answer_a_write(&peer, 0);
	assert_true(ios[0].io.losses > 0);
	for (unsigned i = 0; i < 2; i++) {
		start_part(0, i * 4096ULL, (1 - i) * 4096);
		answer_a_write(&peer, 0);
	}
	assert_true(ub_now_ms() - began < WAIT_MS / 2);
	give_back(0, 0, 8192);
	core_close(&core);
	close(peer.fd);
}

/* ---- losses -------------------------------------------------------------- */

static void a_part_is_sent_again_when_its_server_is_lost(void **state)
{
	struct peer_request r;
	struct peer peer;

	(void)state;
	export.max_payload_bytes = 4096;
	export.min_block_bytes = 512;
	export.preferred_block_bytes = 4096;
	peer_open_device(&peer);
	io_start(0, UB_OP_WRITE, 0, 8192, 0);
	peer_expect(&peer, &r, PEER_WRITE);
	assert_int_equal(r.offset, 0);
	assert_true(peer_answer(&peer, &r, 0, NULL));
	peer_expect(&peer, &r, PEER_WRITE);
	assert_int_equal(r.offset, 4096);
	close(peer.fd); /* power fails */
	assert_non_null(peer_accept(&peer));
	for (unsigned i = 0; i < 2; i++) {
		peer_expect(&peer, &r, PEER_WRITE);
		assert_int_equal(r.offset, (uint64_t)i * 4096);
		assert_true(peer_answer(&peer, &r, 0, NULL));
	}
	assert_int_equal(io_result(0), 8192);
	assert_false(peer_has_request(&peer, 100));
	core_close(&core);
	close(peer.fd);
}

static void a_flush_goes_to_every_connection_that_has_answered_changes(void **state)
{
	struct peer peers[2];
	struct peer_request r;
	pthread_t threads[2];
	void *ok;

	(void)state;
	export.flags |= PEER_MULTI_CONN;
	options.nr_connections = 2;
	for (unsigned i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, peer_accept, &peers[i]);
	device_open(2, -1);
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(threads[i], &ok);
		assert_non_null(ok);
	}
	/* A write on each queue, and so on each connection. */
	for (unsigned i = 0; i < 2; i++) {
		struct peer *peer;

		io_start(i, UB_OP_WRITE, (uint64_t)i * 8192, 4096, 0);
		peer = peer_has_request(&peers[0], 500) ? &peers[0] : &peers[1];
		answer_a_write(peer, i);
	}
	io_start(2, UB_OP_FLUSH, 0, 0, 0);
	for (unsigned i = 0; i < 2; i++) {
		struct peer *peer = peer_has_request(&peers[0], 500) ? &peers[0] : &peers[1];

		assert_false(atomic_load(&ios[2].is_done));
		peer_expect(peer, &r, PEER_FLUSH);
		assert_true(peer_answer(peer, &r, 0, NULL));
	}
	assert_int_equal(io_result(2), 0);
	/* All is flushed: one is enough. */
	io_start(2, UB_OP_FLUSH, 0, 0, 0);
	peer_expect(peer_has_request(&peers[0], 500) ? &peers[0] : &peers[1], &r, PEER_FLUSH);
	assert_true(
		peer_answer(peer_has_request(&peers[0], 0) ? &peers[1] : &peers[0], &r, 0, NULL) ||
		true);
	core_cancel(&core, -EIO);
	core_close(&core);
	close(peers[0].fd);
	close(peers[1].fd);
}

/* ---- clocks and loops ---------------------------------------------------- */

static void an_outage_is_one_when_no_connection_works(void **state)
{
	struct peer a, b, *zero, *one;
	struct peer_request r;
	pthread_t ta, tb;
	uint64_t began;
	void *ok;

	(void)state;
	export.flags |= PEER_MULTI_CONN;
	options.nr_connections = 2;
	options.outage_limit_ms = 1000;
	pthread_create(&ta, NULL, peer_accept, &a);
	usleep(100000);
	pthread_create(&tb, NULL, peer_accept, &b);
	device_open(2, -1);
	pthread_join(ta, &ok);
	assert_non_null(ok);
	pthread_join(tb, &ok);
	assert_non_null(ok);
	io_start(0, UB_OP_READ, 0, 512, 0);
	zero = peer_has_request(&a, 500) ? &a : &b;
	one = zero == &a ? &b : &a;
	peer_expect(zero, &r, PEER_READ);
	assert_true(peer_answer(zero, &r, 0, bufs[2]));
	assert_int_equal(io_result(0), 512);
	close(one->fd);	 /* and is never made again */
	usleep(1500000); /* longer than the limit */
	io_start(1, UB_OP_READ, 0, 512, 0);
	peer_expect(zero, &r, PEER_READ);
	assert_true(peer_answer(zero, &r, 0, bufs[2]));
	assert_int_equal(io_result(1), 512);
	close(zero->fd); /* only now is there an outage */
	began = ub_now_ms();
	usleep(100000);
	for (unsigned i = 2; i < 4; i++) /* on both queues */
		io_start(i, UB_OP_READ, 0, 512, 0);
	for (unsigned i = 2; i < 4; i++) {
		assert_int_equal(io_result(i), -EIO);
		assert_in_range(ub_now_ms() - began, 950, 3000);
	}
	core_close(&core);
}

static void a_wrong_answer_that_never_ends_fails_the_request(void **state)
{
	static const int wrong[] = { 0, 1, 2, -1 };
	struct peer_request r;
	struct peer peer;
	unsigned nr = 0;

	(void)state;
	peer_open_device(&peer);
	io_start(0, UB_OP_READ, 8192, 4096, 0);
	for (;;) {
		peer_expect(&peer, &r, PEER_READ);
		answer_in_pieces(&peer, &r, 1024, wrong);
		nr++;
		if (core_wait_io(&core, &ios[0], nr < 3 ? 20 : 200))
			break;
		assert_in_range(nr, 1, 20);
		close(peer.fd);
		assert_non_null(peer_accept(&peer));
	}
	assert_int_equal(io_result(0), -EIO);
	assert_in_range(nr, 3, 10);
	core_close(&core);
	close(peer.fd);
}

static void before_it_is_live_a_lost_connection_is_final(void **state)
{
	struct ub_backend_config cfg = { .kind = "nbd", .nr_queues = 1, .fd = -1, .cancel_fd = -1 };
	char *json = nbd_options_to_json(&options);
	struct ub_err err = { 0 };
	struct peer peer;
	pthread_t thread;

	(void)state;
	cfg.options = json;
	pthread_create(&thread, NULL, peer_accept, &peer);
	assert_int_equal(core_open(&core, &cfg, NR_IOS, &err), 0);
	free(json);
	pthread_join(thread, NULL);
	io_start(0, UB_OP_READ, 0, 512, 0);
	close(peer.fd);
	assert_int_equal(io_result(0), -EIO);
	await("health", &core_health, UB_HEALTH_FAILED);
	core_close(&core);
}

static void *socket_negotiate(void *arg)
{
	return peer_negotiate(arg) ? arg : NULL;
}

static void the_end_of_a_socket_that_was_handed_over_is_final(void **state)
{
	struct peer peer = { .export = &export, .patience_ms = WAIT_MS };
	pthread_t thread;
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	peer.fd = fds[1];
	options.address.transport = NBD_SOCKET;
	pthread_create(&thread, NULL, socket_negotiate, &peer);
	device_open(1, fds[0]);
	close(fds[0]);
	pthread_join(thread, NULL);
	io_start(0, UB_OP_READ, 0, 512, 0);
	close(peer.fd);
	assert_int_equal(io_result(0), -EIO);
	await("health", &core_health, UB_HEALTH_FAILED);
	io_start(0, UB_OP_READ, 0, 512, 0);
	assert_int_equal(io_result(0), -EIO);
	core_close(&core);
}

static struct {
	uint8_t data[1024];
	size_t len;
} recorded;

static bool record(struct peer *peer, uint8_t *msg, size_t len)
{
	assert_true(recorded.len + len <= sizeof(recorded.data));
	memcpy(recorded.data + recorded.len, msg, len);
	recorded.len += len;
	return peer_send_all(peer, msg, len);
}

/* All of the server's part of the negotiation is there before the client says a word. */
static void a_server_that_is_quicker_than_we_are_is_no_silent_one(void **state)
{
	struct peer peer = { .export = &export, .patience_ms = WAIT_MS, .send = record };
	struct peer_request r;
	uint64_t start;
	pthread_t thread;
	uint8_t skipped[4 + 16 + 16 + 64];
	int fds[2];

	(void)state;
	export.has_structured_replies = false;
	options.address.transport = NBD_SOCKET;
	options.restarts = true;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	peer.fd = fds[1];
	pthread_create(&thread, NULL, socket_negotiate, &peer);
	device_open(1, fds[0]);
	close(fds[0]);
	pthread_join(thread, NULL);
	peer.send = NULL;
	for (unsigned round = 0; round < 2; round++) {
		close(peer.fd);
		if (round == 1)
			core_close(&core);
		start = ub_now_ms();
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
		peer.fd = fds[1];
		assert_true(peer_send_all(&peer, recorded.data, recorded.len));
		if (round == 1) {
			device_open(1, fds[0]);
			close(fds[0]);
		} else {
			core.backend.ops->take_socket(&core.backend, fds[0]);
		}
		io_start(0, UB_OP_WRITE, 0, 512, 0);
		/* The client's flags, two options, of which one has a name's length and no name. */
		assert_true(peer_receive_all(&peer, skipped, 4 + 16 + 16 + 6 + 2 * 3));
		peer_expect(&peer, &r, PEER_WRITE);
		assert_true(peer_answer(&peer, &r, 0, NULL));
		assert_int_equal(io_result(0), 512);
		assert_true(ub_now_ms() - start < 10000); /* an attempt gets 15 s */
	}
	core_close(&core);
	close(peer.fd);
}

/* ---- nothing to be read -------------------------------------------------- */

/*
 * Over a socket pair: of what the client sends so many bytes fit, or as many as the kernel likes.
 */
static void peer_open_device_on_pair(struct peer *peer, int bytes)
{
	pthread_t thread;
	int fds[2];

	*peer = (struct peer){ .export = &export, .patience_ms = WAIT_MS };
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	if (bytes)
		assert_int_equal(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)),
				 0);
	peer->fd = fds[1];
	options.address.transport = NBD_SOCKET;
	pthread_create(&thread, NULL, socket_negotiate, peer);
	device_open(1, fds[0]);
	close(fds[0]);
	pthread_join(thread, NULL);
}

static void start_write(unsigned i, uint8_t byte)
{
	memset(bufs[i], byte, IO_BYTES);
	io_start(i, UB_OP_WRITE, (uint64_t)i * IO_BYTES, IO_BYTES, 0);
}

static void answer_whole_write(struct peer *peer, unsigned i, uint8_t byte)
{
	static uint8_t data[PEER_MAX_BYTES];
	struct peer_request r;

	if (!peer_receive(peer, &r, data))
		fail_msg("write %u does not come", i);
	assert_int_equal(r.type, PEER_WRITE);
	assert_int_equal(r.offset, (uint64_t)i * IO_BYTES);
	assert_int_equal(r.len, IO_BYTES);
	for (unsigned at = 0; at < IO_BYTES; at++)
		assert_int_equal(data[at], byte);
	assert_true(peer_answer(peer, &r, 0, NULL));
	assert_int_equal(io_result(i), IO_BYTES);
}

static void an_idle_connection_that_is_woken_for_nothing_sends_what_comes(void **state)
{
	struct peer peer;

	(void)state;
	peer_open_device_on_pair(&peer, 0);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i <= round; i++)
			core_wake_falsely(&core, 0);
		start_write(round, 7);
		answer_whole_write(&peer, round, 7);
	}
	core_close(&core);
	close(peer.fd);
}

static void what_is_sent_half_goes_on_after_a_waking_for_nothing(void **state)
{
	struct peer peer;

	(void)state;
	for (unsigned nr = 1; nr <= 4; nr += 3) {
		peer_open_device_on_pair(&peer, 4608);
		for (unsigned i = 0; i < nr; i++)
			start_write(i, (uint8_t)(i + 1));
		assert_true(peer_has_request(&peer, WAIT_MS));
		for (unsigned i = 0; i < nr; i++)
			core_wake_falsely(&core, 0);
		for (unsigned i = 0; i < nr; i++)
			answer_whole_write(&peer, i, (uint8_t)(i + 1));
		core_close(&core);
		close(peer.fd);
	}
}

/* What comes is sent beside it, and does not wait for its answer. */
static void a_request_behind_a_waking_for_nothing_is_sent_at_once(void **state)
{
	struct peer_request first, second;
	struct peer peer;

	(void)state;
	peer_open_device_on_pair(&peer, 0);
	io_start(0, UB_OP_FLUSH, 0, 0, 0);
	peer_expect(&peer, &first, PEER_FLUSH);
	core_wake_falsely(&core, 0);
	io_start(1, UB_OP_READ, 0, 512, 0);
	peer_expect(&peer, &second, PEER_READ);
	core_wake_falsely(&core, 0);
	assert_true(peer_answer(&peer, &second, 0, bufs[2]));
	assert_int_equal(io_result(1), 512);
	assert_true(peer_answer(&peer, &first, 0, NULL));
	assert_int_equal(io_result(0), 0);
	core_close(&core);
	close(peer.fd);
}

/*
 * An answer that comes byte by byte while a request is sent half, and wakings for nothing between
 * its bytes.
 */
static void an_answer_in_single_bytes_beside_a_request_that_is_sent_half(void **state)
{
	struct peer_request r;
	struct peer peer;
	uint8_t answer[16];

	(void)state;
	peer_open_device_on_pair(&peer, 4608);
	io_start(0, UB_OP_FLUSH, 0, 0, 0);
	peer_expect(&peer, &r, PEER_FLUSH);
	start_write(1, 9);
	assert_true(peer_has_request(&peer, WAIT_MS));
	peer_put32(answer, PEER_SIMPLE_MAGIC);
	peer_put32(answer + 4, 0);
	peer_put64(answer + 8, r.cookie);
	for (unsigned i = 0; i < sizeof(answer); i++) {
		core_wake_falsely(&core, 0);
		assert_true(peer_send_all(&peer, answer + i, 1));
		core_wake_falsely(&core, 0);
	}
	assert_int_equal(io_result(0), 0);
	answer_whole_write(&peer, 1, 9);
	core_close(&core);
	close(peer.fd);
}

static bool hold(struct peer *peer, uint8_t *msg, size_t len)
{
	(void)peer;
	assert_true(recorded.len + len <= sizeof(recorded.data));
	memcpy(recorded.data + recorded.len, msg, len);
	recorded.len += len;
	return true;
}

static void send_held(struct peer *peer)
{
	peer->send = NULL;
	assert_true(peer_send_all(peer, recorded.data, recorded.len));
}

/*
 * Five answers of twenty bytes are not six of sixteen: the request that comes then is sent, though
 * more are in flight.
 */
static void long_answers_are_not_taken_for_more_than_they_are(void **state)
{
	static const uint8_t error[6 + 40] = { 0, 0, 0, EIO, 0, 40 };
	struct peer_request rs[8], r;
	struct peer peer;

	(void)state;
	peer_open_device_on_pair(&peer, 0);
	for (unsigned kind = 0; kind < 2; kind++) {
		for (unsigned i = 0; i < 8; i++) {
			io_start(i, UB_OP_FLUSH, 0, 0, 0);
			peer_expect(&peer, &rs[i], PEER_FLUSH);
		}
		recorded.len = 0;
		peer.send = hold;
		for (unsigned i = 0; i < 5; i++)
			assert_true(kind ? peer_send_chunk(&peer, &rs[i], PEER_CHUNK_DONE,
							   PEER_CHUNK_ERROR, sizeof(error), error,
							   sizeof(error)) :
					   peer_send_chunk(&peer, &rs[i], PEER_CHUNK_DONE,
							   PEER_CHUNK_NONE, 0, NULL, 0));
		send_held(&peer);
		for (unsigned i = 0; i < 5; i++)
			assert_int_equal(io_result(i), kind ? -EIO : 0);
		io_start(8, UB_OP_READ, 0, 512, 0);
		peer_expect(&peer, &r, PEER_READ);
		assert_true(peer_answer(&peer, &r, 0, bufs[9]));
		assert_int_equal(io_result(8), 512);
		for (unsigned i = 5; i < 8; i++) {
			assert_true(peer_answer(&peer, &rs[i], 0, NULL));
			assert_int_equal(io_result(i), 0);
		}
	}
	core_close(&core);
	close(peer.fd);
}

/* ---- a read's pieces ----------------------------------------------------- */

static uint8_t pattern(uint64_t offset)
{
	return (uint8_t)(offset * 31 + offset / 512 + 1);
}

/* Answers with pieces of `unit` bytes in this order; -1 ends it. */
static void answer_in_pieces(struct peer *peer, const struct peer_request *r, uint32_t unit,
			     const int *order)
{
	uint8_t payload[8 + 4096];

	for (; *order >= 0; order++) {
		uint64_t offset = r->offset + (uint64_t)*order * unit;

		peer_put64(payload, offset);
		for (uint32_t i = 0; i < unit; i++)
			payload[8 + i] = pattern(offset + i);
		assert_true(peer_send_chunk(peer, r, order[1] < 0 ? PEER_CHUNK_DONE : 0,
					    PEER_CHUNK_DATA, 8 + unit, payload, 8 + unit));
	}
}

static void assert_read_is_whole(uint64_t offset, uint32_t len)
{
	assert_int_equal(io_result(0), len);
	for (uint32_t i = 0; i < len; i++)
		assert_int_equal(bufs[0][i], pattern(offset + i));
}

static void pieces_of_a_read_come_in_any_order(void **state)
{
	static const int orders[][9] = { { 0, 1, 2, 3, 4, 5, 6, 7, -1 },
					 { 7, 6, 5, 4, 3, 2, 1, 0, -1 },
					 { 0, 2, 4, 6, 1, 3, 5, 7, -1 },
					 { 7, 1, 5, 3, 0, 2, 6, 4, -1 },
					 { 3, 4, 0, 7, 1, 6, 2, 5, -1 } };
	struct peer_request r;
	struct peer peer;

	(void)state;
	peer_open_device(&peer);
	for (unsigned i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
		memset(bufs[0], 0xee, 4096);
		io_start(0, UB_OP_READ, 4096, 4096, 0);
		peer_expect(&peer, &r, PEER_READ);
		answer_in_pieces(&peer, &r, 512, orders[i]);
		assert_read_is_whole(4096, 4096);
	}
	assert_int_equal(core_nr_reports[UB_HEALTH_OFFLINE], 0);
	core_close(&core);
	close(peer.fd);
}

static void a_read_with_a_piece_missing_is_sent_again(void **state)
{
	static const int all[] = { 0, 1, 2, 3, -1 };
	static const int wrong[][9] = {
		{ 0, 1, 0, 1, -1 }, { 0, 1, 2, -1 }, { 1, 2, 3, 3, -1 }, { 3, 0, 1, 0, -1 }
	};
	struct peer_request r;
	struct peer peer;

	(void)state;
	peer_open_device(&peer);
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		memset(bufs[0], 0xee, 4096);
		io_start(0, UB_OP_READ, 8192, 4096, 0);
		peer_expect(&peer, &r, PEER_READ);
		answer_in_pieces(&peer, &r, 1024, wrong[i]);
		close(peer.fd);
		assert_non_null(peer_accept(&peer));
		peer_expect(&peer, &r, PEER_READ);
		answer_in_pieces(&peer, &r, 1024, all);
		assert_read_is_whole(8192, 4096);
	}
	core_close(&core);
	close(peer.fd);
}

/* ---- flushes, and innocent neighbours ------------------------------------ */

/* Opens two connections, one a queue, to what may be two servers. */
static void open_two(struct peer peers[2])
{
	pthread_t threads[2];
	void *ok;

	export.flags |= PEER_MULTI_CONN;
	options.nr_connections = 2;
	for (unsigned i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, peer_accept, &peers[i]);
	device_open(2, -1);
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(threads[i], &ok);
		assert_non_null(ok);
	}
}

/* A FLUSH is not done before it was where the changes are. */
static void a_flush_whose_connection_ends_is_sent_again(void **state)
{
	struct peer peers[2], again, *zero, *one;
	struct peer_request r;

	(void)state;
	open_two(peers);
	for (unsigned i = 0; i < 2; i++) {
		io_start(i, UB_OP_WRITE, (uint64_t)i * 8192, 4096, 0);
		answer_a_write(peer_has_request(&peers[0], 500) ? &peers[0] : &peers[1], i);
	}
	io_start(2, UB_OP_FLUSH, 0, 0, 0);
	zero = peer_has_request(&peers[0], 500) ? &peers[0] : &peers[1];
	one = zero == &peers[0] ? &peers[1] : &peers[0];
	peer_expect(zero, &r, PEER_FLUSH);
	assert_true(peer_answer(zero, &r, 0, NULL));
	peer_expect(one, &r, PEER_FLUSH);
	assert_false(atomic_load(&ios[2].is_done));
	/* the connection; behind it is a server that lives, and has flushed nothing */
	close(one->fd);
	assert_non_null(peer_accept(&again));
	if (core_wait_io(&core, &ios[2], 300) && !peer_has_request(&again, 0) &&
	    !peer_has_request(zero, 0))
		fail_msg("FLUSH is answered with %d: no FLUSH was sent to where the change of "
			 "queue 1 is",
			 ios[2].io.len_bytes);
	core_cancel(&core, -EIO);
	core_close(&core);
	close(zero->fd);
	close(again.fd);
}

/* what is sent again goes at once, however often. */
static void what_is_sent_again_never_waits(void **state)
{
	const unsigned nr = 60;
	struct peer_request r;
	struct peer peer;
	uint64_t began;

	(void)state;
	options.fence_timeout_ms = 6000;
	peer_open_device(&peer);
	for (unsigned i = 0; i < nr; i++)
		io_start(i, UB_OP_WRITE, (uint64_t)i * 16384, 4096, 0);
	for (unsigned round = 0; round < 10; round++) {
		began = ub_now_ms();
		for (unsigned i = 0; i < nr; i++) {
			static uint8_t data[PEER_MAX_BYTES];

			do {
				if (!peer_receive(&peer, &r, data))
					fail_msg("round %u: write %u of %u does not come", round, i,
						 nr);
				if (r.type == PEER_READ)
					assert_true(peer_answer(&peer, &r, 0, data));
			} while (r.type == PEER_READ);
			if (ub_now_ms() - began > 3000)
				fail_msg("round %u: write %u of %u was held for %llu ms", round, i,
					 nr, (unsigned long long)(ub_now_ms() - began));
		}
		close(peer.fd);
		assert_non_null(peer_accept(&peer));
	}
	core_cancel(&core, -EIO);
	core_close(&core);
	close(peer.fd);
}

/* a slow write beside a read that is never answered rightly. */
static void a_wrong_answer_fails_nobody_else(void **state)
{
	static const uint8_t garbage[16] = { 1, 2, 3 };
	static uint8_t data[PEER_MAX_BYTES];
	struct peer_request r;
	struct peer peer;

	(void)state;
	options.fence_timeout_ms = 0;
	peer_open_device(&peer);
	io_start(0, UB_OP_READ, 8192, 4096, 0);
	io_start(1, UB_OP_WRITE, 0, 4096, 0); /* takes long */
	io_start(2, UB_OP_FLUSH, 0, 0, 0);    /* so does this */
	for (unsigned round = 0; round < 20; round++) {
		bool has_read = false;

		/* All of them at first, and one by one once each of them may be the one. */
		while (!has_read || peer_has_request(&peer, 50)) {
			assert_true(peer_receive(&peer, &r, data));
			has_read |= r.type == PEER_READ;
		}
		assert_true(peer_send_all(&peer, garbage, sizeof(garbage)));
		assert_non_null(peer_accept(&peer));
		if (core_wait_io(&core, &ios[0], 20))
			break;
	}
	assert_int_equal(io_result(0), -EIO);
	for (unsigned i = 1; i < 3; i++) {
		peer_expect(&peer, &r, i == 1 ? PEER_WRITE : PEER_FLUSH);
		assert_true(peer_answer(&peer, &r, 0, NULL));
		assert_int_equal(io_result(i), i == 1 ? 4096 : 0);
	}
	core_close(&core);
	close(peer.fd);
}

/* the server says once that what it had answered is lost. */
/*
 * A sign of life was asked for on a connection that then stalls. It answers the write, and is
 * flushed before it ends.
 */
static void one_command_of_our_own_is_in_flight_on_a_link(void **state)
{
	static uint8_t data[PEER_MAX_BYTES];
	struct peer one, two, three;
	struct peer_request write, probe, r;

	(void)state;
	options.stall_timeout_ms = 1500;
	export.flags |= PEER_MULTI_CONN;
	peer_open_device(&one);
	io_start(0, UB_OP_WRITE, 0, 4096, 0);
	peer_expect(&one, &r, PEER_WRITE);
	assert_non_null(peer_accept(&two));
	peer_expect(&two, &write, PEER_WRITE); /* the first one was given up */
	peer_expect(&two, &probe, PEER_READ);
	assert_non_null(peer_accept(&three)); /* the second one has stalled */
	usleep(100000);
	assert_true(peer_answer(&two, &write, 0, NULL));
	assert_int_equal(io_result(0), 4096);
	assert_false(peer_has_request(&two, 300));
	assert_true(peer_answer(&two, &probe, 0, data));
	peer_expect(&two, &r, PEER_FLUSH);
	assert_true(peer_answer(&two, &r, 0, NULL));
	io_start(1, UB_OP_READ, 0, 512, 0);
	do {
		peer_expect(&three, &r, PEER_READ);
		assert_true(peer_answer(&three, &r, 0, data));
	} while (!atomic_load(&ios[1].is_done) && peer_has_request(&three, 300));
	assert_int_equal(io_result(1), 512);
	core_close(&core);
	close(one.fd);
	close(two.fd);
	close(three.fd);
}

/*
 * A connection has stalled, and answers late: it is flushed by ourselves, and the server says that
 * something is lost.
 */
static void fail_our_own_flush(struct peer *old, struct peer *new)
{
	static uint8_t data[PEER_MAX_BYTES];
	struct peer_request r, write;

	options.stall_timeout_ms = 100;
	export.flags |= PEER_MULTI_CONN;
	peer_open_device(old);
	io_start(0, UB_OP_WRITE, 0, 4096, 0);
	answer_a_write(old, 0); /* acknowledged */
	io_start(1, UB_OP_WRITE, 8192, 4096, 0);
	peer_expect(old, &write, PEER_WRITE);
	assert_non_null(peer_accept(new)); /* it has stalled */
	usleep(50000);
	assert_true(peer_answer(old, &write, 0, NULL));
	assert_int_equal(io_result(1), 4096);
	assert_true(peer_receive(old, &r, data)); /* our own */
	assert_int_equal(r.type, PEER_FLUSH);
	atomic_store(&core.backend.is_destination, is_moved_there);
	assert_true(peer_answer(old, &r, 5 /* EIO: write 0 is lost */, NULL));
	usleep(100000);
}

static void an_error_of_our_own_flush_is_not_swallowed(void **state)
{
	struct peer old, new;
	struct peer_request r;

	(void)state;
	fail_our_own_flush(&old, &new);
	io_start(2, UB_OP_FLUSH, 0, 0, 0);
	if (peer_has_request(&new, 500)) {
		peer_expect(&new, &r, PEER_FLUSH);
		assert_true(peer_answer(&new, &r, 0, NULL)); /* it has said so already */
	}
	assert_int_equal(io_result(2), -EIO);
	core_close(&core);
	close(old.fd);
	close(new.fd);
}

/* Nobody hears of it but the mirror, which copies anew what may be lost. */
static void at_a_destination_it_is_a_loss(void **state)
{
	struct peer old, new;

	(void)state;
	is_moved_there = true;
	fail_our_own_flush(&old, &new);
	is_moved_there = false;
	assert_true(core.backend.ops->nr_losses(&core.backend) > 0);
	core_close(&core);
	close(old.fd);
	close(new.fd);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define NBDKIT_TEST(fn) cmocka_unit_test_setup_teardown(fn, test_setup, test_teardown)
#define SCRIPT_TEST(fn) cmocka_unit_test_setup_teardown(fn, script_setup, script_teardown)
		NBDKIT_TEST(io_matches_a_model),
		NBDKIT_TEST(io_is_split_where_the_server_wants_less),
		NBDKIT_TEST(more_queues_than_connections_share_them),
		NBDKIT_TEST(behind_a_closed_gate_everything_waits),
		NBDKIT_TEST(a_killed_server_costs_no_io),
		NBDKIT_TEST(what_libnbd_has_no_memory_to_send_is_tried_again),
		NBDKIT_TEST(a_look_up_that_outlives_the_back_end_touches_nothing_of_it),
		NBDKIT_TEST(cancel_completes_what_waits_and_what_comes),
		NBDKIT_TEST(an_outage_longer_than_its_limit_fails_io_and_ends),
		NBDKIT_TEST(an_outage_limit_set_in_an_outage_counts_from_its_beginning),
		SCRIPT_TEST(a_request_that_takes_longer_than_every_timeout_completes),
		SCRIPT_TEST(so_it_does_where_several_connections_are_safe),
		SCRIPT_TEST(a_stalled_connection_keeps_its_write_and_is_read_on),
		SCRIPT_TEST(without_multi_conn_no_other_connection_is_made_beside_a_stalled_one),
		SCRIPT_TEST(only_newer_changes_that_overlap_wait),
		SCRIPT_TEST(no_clock_runs_while_the_old_server_has_not_read_everything),
		SCRIPT_TEST(a_close_by_the_server_ends_nothing_by_itself),
		SCRIPT_TEST(a_close_by_the_server_ends_a_range_where_it_is_trusted),
		SCRIPT_TEST(our_own_cut_is_no_close),
		SCRIPT_TEST(what_is_refused_when_it_comes_again_lets_no_newer_change_pass),
		SCRIPT_TEST(each_part_of_what_comes_again_goes_at_once),
		SCRIPT_TEST(parts_that_never_come_let_no_newer_change_pass),
		SCRIPT_TEST(a_change_in_parts_that_begins_anew_goes_at_once),
		SCRIPT_TEST(a_part_is_sent_again_when_its_server_is_lost),
		SCRIPT_TEST(a_flush_goes_to_every_connection_that_has_answered_changes),
		SCRIPT_TEST(an_outage_is_one_when_no_connection_works),
		SCRIPT_TEST(a_wrong_answer_that_never_ends_fails_the_request),
		SCRIPT_TEST(a_stall_timeout_set_while_a_request_is_unanswered_holds_for_it),
		SCRIPT_TEST(before_it_is_live_a_lost_connection_is_final),
		SCRIPT_TEST(the_end_of_a_socket_that_was_handed_over_is_final),
		SCRIPT_TEST(a_server_that_is_quicker_than_we_are_is_no_silent_one),
		SCRIPT_TEST(an_idle_connection_that_is_woken_for_nothing_sends_what_comes),
		SCRIPT_TEST(what_is_sent_half_goes_on_after_a_waking_for_nothing),
		SCRIPT_TEST(a_request_behind_a_waking_for_nothing_is_sent_at_once),
		SCRIPT_TEST(an_answer_in_single_bytes_beside_a_request_that_is_sent_half),
		SCRIPT_TEST(long_answers_are_not_taken_for_more_than_they_are),
		SCRIPT_TEST(pieces_of_a_read_come_in_any_order),
		SCRIPT_TEST(a_read_with_a_piece_missing_is_sent_again),
		SCRIPT_TEST(a_flush_whose_connection_ends_is_sent_again),
		SCRIPT_TEST(what_is_sent_again_never_waits),
		SCRIPT_TEST(a_wrong_answer_fails_nobody_else),
		SCRIPT_TEST(one_command_of_our_own_is_in_flight_on_a_link),
		SCRIPT_TEST(an_error_of_our_own_flush_is_not_swallowed),
		SCRIPT_TEST(at_a_destination_it_is_a_loss),
	};
	struct ub_err err;
	int ret;

	if (nbd_library_load(&err) != 0) {
		printf("skip: %s\n", err.text);
		return 77;
	}
	if (getenv("UB_VERBOSE"))
		core_be_verbose();
	signal(SIGPIPE, SIG_IGN);
	if (!mkdtemp(dir))
		return 1;
	snprintf(socket_path, sizeof(socket_path), "%s/socket", dir);
	snprintf(disk_path, sizeof(disk_path), "%s/disk", dir);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	ret = cmocka_run_group_tests_name("nbd-engine", tests, NULL, NULL);
	unlink(socket_path);
	unlink(disk_path);
	rmdir(dir);
	return ret;
}
