/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The plainest ublk server on memory that can be written: the baseline for `mem`.
 *
 * One queue, one thread, copy mode; fetch, memcpy, commit. What ublk-bridge does beyond that has to
 * pay for itself in bench/run's table. The parent sends every control command, the child serves: a
 * process that waits for START of a device that it serves can end unkillable. Shares the kernel's
 * ABI header with the product and nothing else.
 *
 *   plain [-d DEPTH] [-f none|coop|defer] [-r] SIZE-IN-MIB
 *
 * Prints the device when it takes I/O, and serves until SIGINT or SIGTERM. -f: the ring's flags,
 * -r: registers the ring's descriptor and the device's.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ublk-bridge/ublk-abi.h>

#define MAX_IO_BYTES (1U << 20)
#define SECTOR_SHIFT 9

struct plain {
	unsigned depth, ring_flags;
	bool registered;
	uint64_t size_bytes;
	struct io_uring ctrl; /* the parent's */
	struct ublksrv_ctrl_dev_info info;

	/* The child's. */
	struct io_uring ring;
	int cdev_fd;
	const struct ublksrv_io_desc *descs;
	char *buffers, *store;
	unsigned nr_gone;
};

static _Noreturn void fail(const char *what, int code)
{
	fprintf(stderr, "plain: %s: %s\n", what, strerror(code < 0 ? -code : code));
	exit(1);
}

/* Populated: page faults are no part of what is measured. */
static void *map_memory(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		fail("memory", errno);
	return p;
}

/* ---- the child: serves --------------------------------------------------- */

static void send_io_cmd(struct plain *p, unsigned op, unsigned tag, int result)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&p->ring);
	struct ublksrv_io_cmd *cmd;

	if (!sqe)
		abort(); /* there is one for every tag */
	cmd = (struct ublksrv_io_cmd *)((char *)sqe + 48);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = p->registered ? 0 : p->cdev_fd;
	sqe->flags = p->registered ? IOSQE_FIXED_FILE : 0;
	sqe->off = op;
	sqe->user_data = tag;
	cmd->tag = (uint16_t)tag;
	cmd->result = result;
	cmd->addr = (uintptr_t)p->buffers + (size_t)tag * MAX_IO_BYTES;
}

static int carry_out(struct plain *p, const struct ublksrv_io_desc *desc, char *buffer)
{
	char *at = p->store + (desc->start_sector << SECTOR_SHIFT);
	size_t len = (size_t)desc->nr_sectors << SECTOR_SHIFT;

	switch (desc->op_flags & 0xff) {
	case UBLK_IO_OP_READ:
		memcpy(buffer, at, len);
		return (int)len;
	case UBLK_IO_OP_WRITE:
		memcpy(at, buffer, len);
		return (int)len;
	case UBLK_IO_OP_FLUSH:
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

static void turn(struct plain *p)
{
	struct io_uring_cqe *cqe;
	unsigned head, nr = 0;
	int ret = io_uring_submit_and_wait(&p->ring, 1);

	if (ret < 0 && ret != -EINTR)
		fail("cannot wait for I/O", ret);
	io_uring_for_each_cqe(&p->ring, head, cqe) {
		unsigned tag = (unsigned)cqe->user_data;

		nr++;
		if (cqe->res == UBLK_IO_RES_OK)
			send_io_cmd(p, UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag,
				    carry_out(p, &p->descs[tag],
					      p->buffers + (size_t)tag * MAX_IO_BYTES));
		else
			p->nr_gone++;
	}
	io_uring_cq_advance(&p->ring, nr);
}

static void open_device(struct plain *p)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t bytes = (p->depth * sizeof(*p->descs) + page - 1) & ~(page - 1);
	char path[32];
	void *map;

	snprintf(path, sizeof(path), "/dev/ublkc%u", p->info.dev_id);
	p->cdev_fd = open(path, O_RDWR | O_CLOEXEC);
	if (p->cdev_fd < 0)
		fail(path, errno);
	map = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, p->cdev_fd, 0);
	if (map == MAP_FAILED)
		fail("descriptors", errno);
	p->descs = map;
}

static void make_ring(struct plain *p)
{
	struct io_uring_params params = { .flags = p->ring_flags };
	int ret = io_uring_queue_init_params(p->depth, &p->ring, &params);

	if (ret < 0)
		fail("ring", ret);
	if (!p->registered)
		return;
	ret = io_uring_register_ring_fd(&p->ring);
	if (ret != 1)
		fail("ring's descriptor", ret);
	ret = io_uring_register_files(&p->ring, &p->cdev_fd, 1);
	if (ret < 0)
		fail("device's descriptor", ret);
}

static _Noreturn void serve(struct plain *p, int ready_fd)
{
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	p->store = map_memory(p->size_bytes);
	p->buffers = map_memory((size_t)p->depth * MAX_IO_BYTES);
	open_device(p);
	make_ring(p);
	for (unsigned tag = 0; tag < p->depth; tag++)
		send_io_cmd(p, UBLK_U_IO_FETCH_REQ, tag, 0);
	if (io_uring_submit(&p->ring) < 0 || write(ready_fd, "", 1) != 1)
		fail("cannot fetch", EIO);
	while (p->nr_gone < p->depth)
		turn(p);
	exit(0);
}

/* ---- the parent: control ------------------------------------------------- */

static int try_control(struct plain *p, uint32_t op, void *addr, uint16_t len, uint64_t data)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&p->ctrl);
	struct ublksrv_ctrl_cmd *cmd;
	struct io_uring_cqe *cqe;
	int ret;

	if (!sqe)
		abort();
	cmd = (struct ublksrv_ctrl_cmd *)((char *)sqe + 48);
	memset(sqe, 0, 128);
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->off = op;
	cmd->dev_id = p->info.dev_id;
	cmd->queue_id = UINT16_MAX;
	cmd->addr = (uintptr_t)addr;
	cmd->len = len;
	cmd->data[0] = data;
	ret = io_uring_submit(&p->ctrl);
	if (ret >= 0)
		ret = io_uring_wait_cqe(&p->ctrl, &cqe);
	if (ret == 0) {
		ret = cqe->res;
		io_uring_cqe_seen(&p->ctrl, cqe);
	}
	return ret;
}

static void control(struct plain *p, const char *what, uint32_t op, void *addr, uint16_t len,
		    uint64_t data)
{
	int ret = try_control(p, op, addr, len, data);

	if (ret < 0) {
		try_control(p, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
		fail(what, ret);
	}
}

static void add_device(struct plain *p)
{
	struct ublk_params params = {
		.len = sizeof(params),
		.types = UBLK_PARAM_TYPE_BASIC,
		.basic = {
			.logical_bs_shift = 9,
			.physical_bs_shift = 12,
			.io_opt_shift = 12,
			.io_min_shift = 9,
			.max_sectors = MAX_IO_BYTES >> SECTOR_SHIFT,
			.dev_sectors = p->size_bytes >> SECTOR_SHIFT,
		},
	};
	int fd = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
	int ret;

	if (fd < 0)
		fail("/dev/ublk-control", errno);
	ret = io_uring_queue_init(4, &p->ctrl, IORING_SETUP_SQE128);
	if (ret == 0)
		ret = io_uring_register_files(&p->ctrl, &fd, 1);
	if (ret < 0)
		fail("control ring", ret);
	p->info = (struct ublksrv_ctrl_dev_info){
		.nr_hw_queues = 1,
		.queue_depth = (uint16_t)p->depth,
		.max_io_buf_bytes = MAX_IO_BYTES,
		.dev_id = UINT32_MAX,
	};
	ret = try_control(p, UBLK_U_CMD_ADD_DEV, &p->info, sizeof(p->info), 0);
	if (ret < 0)
		fail("ADD_DEV", ret);
	p->depth = p->info.queue_depth;
	control(p, "SET_PARAMS", UBLK_U_CMD_SET_PARAMS, &params, sizeof(params), 0);
}

static pid_t start_server(struct plain *p)
{
	int fds[2];
	char ready;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		fail("pipe", errno);
	pid = fork();
	if (pid < 0)
		fail("fork", errno);
	if (pid == 0) {
		close(fds[0]);
		serve(p, fds[1]);
	}
	close(fds[1]);
	if (read(fds[0], &ready, 1) != 1) {
		try_control(p, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
		fail("the server", EIO);
	}
	close(fds[0]);
	return pid;
}

static void read_options(struct plain *p, int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "d:f:r")) != -1) {
		if (c == 'd')
			p->depth = (unsigned)atoi(optarg);
		else if (c == 'r')
			p->registered = true;
		else if (c == 'f' && strcmp(optarg, "coop") == 0)
			p->ring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN;
		else if (c == 'f' && strcmp(optarg, "defer") == 0)
			p->ring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
		else if (c != 'f' || strcmp(optarg, "none") != 0)
			exit(2);
	}
	if (optind + 1 == argc)
		p->size_bytes = strtoull(argv[optind], NULL, 10) << 20;
	if (!p->size_bytes || !p->depth) {
		fprintf(stderr, "usage: plain [-d DEPTH] [-f none|coop|defer] [-r] SIZE-IN-MIB\n");
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct plain p = { .depth = 128 };
	sigset_t ends;
	pid_t pid;
	int sig;

	read_options(&p, argc, argv);
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	sigprocmask(SIG_BLOCK, &ends, NULL);
	add_device(&p);
	pid = start_server(&p);
	control(&p, "START_DEV", UBLK_U_CMD_START_DEV, NULL, 0, (uint64_t)pid);
	printf("/dev/ublkb%u\n", p.info.dev_id);
	fflush(stdout);
	sigwait(&ends, &sig);
	try_control(&p, UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
	waitpid(pid, NULL, 0);
	try_control(&p, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	return 0;
}
