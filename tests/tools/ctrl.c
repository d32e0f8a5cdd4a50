/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another program that uses ublk, as far as tests need one: `ublk-bridge-test --ctrl VERB ID`.
 *
 *   add    makes a device and leaves it: nobody serves it
 *   serve  makes a device of zeroes, prints its path when it is live, serves it from one thread,
 *          and deletes it when it was stopped
 *   stop   STOP_DEV
 *   del    DEL_DEV
 *
 * It asks nobody and writes no run directory.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ublk-bridge/backend.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "tools.h"
#include "ublk/ctrl.h"
#include "ublk/params.h"

#define OTHER_DEPTH	   4
#define OTHER_MAX_IO_BYTES 65536
#define OTHER_SIZE_BYTES   (8U << 20)
#define OTHER_TIMEOUT_MS   60000
#define OTHER_TRIES	   500

static char other_buffers[OTHER_DEPTH][OTHER_MAX_IO_BYTES];

static int other_add(struct ub_ctrl *ctrl, uint32_t id, struct ub_err *err)
{
	const struct ub_limits limits = {
		.size_bytes = OTHER_SIZE_BYTES,
		.logical_block_bytes = 512,
		.physical_block_bytes = 512,
		.max_io_bytes = OTHER_MAX_IO_BYTES,
	};
	struct ublksrv_ctrl_dev_info info = {
		.nr_hw_queues = 1,
		.queue_depth = OTHER_DEPTH,
		.max_io_buf_bytes = OTHER_MAX_IO_BYTES,
		.dev_id = id,
	};
	struct ublk_params params;
	int ret = ub_ctrl_add(ctrl, &info, err);

	if (ret)
		return ret;
	ub_params_from_limits(&limits, OTHER_MAX_IO_BYTES, &params);
	return ub_ctrl_set_params(ctrl, id, &params, err);
}

static int other_long(struct ub_ctrl *ctrl, uint32_t op, uint32_t id, uint64_t data,
		      struct ub_err *err)
{
	static struct ub_ctrl_cmd cmd;
	struct ub_loop loop;
	int ret;

	ub_loop_init(&loop);
	cmd = (struct ub_ctrl_cmd){ .op = op, .dev_id = id, .queue_id = UINT16_MAX, .data = data };
	ret = ub_ctrl_send(ctrl, &cmd);
	if (ret == 0)
		ret = ub_ctrl_wait(ctrl, &cmd, &loop, "a command", OTHER_TIMEOUT_MS, NULL, NULL);
	return ret ? ub_err_errno(err, -ret, "command 0x%x of device %u", op, id) : 0;
}

/* Sends FETCH (result below 0) or COMMIT_AND_FETCH for a tag. */
static void other_send(struct io_uring *ring, int fd, uint16_t tag, int32_t result)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct ublksrv_io_cmd *cmd;

	if (!sqe)
		abort(); /* the ring has room for every tag */
	cmd = (struct ublksrv_io_cmd *)((char *)sqe + 48);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = fd;
	sqe->off = result < 0 ? UBLK_U_IO_FETCH_REQ : UBLK_U_IO_COMMIT_AND_FETCH_REQ;
	sqe->user_data = tag;
	cmd->q_id = 0;
	cmd->tag = tag;
	cmd->result = result < 0 ? 0 : result;
	cmd->addr = (uintptr_t)other_buffers[tag];
}

static int other_open(uint32_t id)
{
	char path[32];
	int fd = -1;

	snprintf(path, sizeof(path), "/dev/ublkc%u", id);
	for (unsigned i = 0; i < OTHER_TRIES && fd < 0; i++) {
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			usleep(10000);
	}
	return fd;
}

/* The server process: until every tag was aborted. */
static int other_serve(uint32_t id)
{
	int fd = other_open(id);
	const struct ublksrv_io_desc *descs =
		mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ, MAP_SHARED, fd, 0);
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	unsigned nr_gone = 0;

	if (fd < 0 || descs == MAP_FAILED || io_uring_queue_init(2 * OTHER_DEPTH, &ring, 0) < 0)
		return 1;
	for (uint16_t tag = 0; tag < OTHER_DEPTH; tag++)
		other_send(&ring, fd, tag, -1);
	while (nr_gone < OTHER_DEPTH) {
		io_uring_submit_and_wait(&ring, 1);
		while (io_uring_peek_cqe(&ring, &cqe) == 0) {
			uint16_t tag = (uint16_t)cqe->user_data;
			bool gone = cqe->res < 0;

			io_uring_cqe_seen(&ring, cqe);
			if (gone)
				nr_gone++;
			else
				other_send(&ring, fd, tag, (int32_t)(descs[tag].nr_sectors << 9));
		}
	}
	return 0;
}

static int other_run(struct ub_ctrl *ctrl, uint32_t id, struct ub_err *err)
{
	int status, ret = other_add(ctrl, id, err);
	pid_t pid;

	if (ret)
		return ret;
	pid = fork();
	if (pid == 0) {
		ub_ctrl_close(ctrl);
		_exit(other_serve(id));
	}
	ret = other_long(ctrl, UBLK_U_CMD_START_DEV, id, (uint64_t)pid, err);
	if (ret)
		return ret;
	printf("/dev/ublkb%u\n", id);
	fflush(stdout);
	waitpid(pid, &status, 0);
	other_long(ctrl, UBLK_U_CMD_DEL_DEV, id, 0, err); /* perhaps somebody was faster */
	return 0;
}

int ub_test_ctrl(int argc, char **argv)
{
	const char *verb = argc > 3 ? argv[2] : "";
	uint32_t id = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
	struct ub_err err = { 0 };
	struct ub_ctrl ctrl;
	int ret = ub_ctrl_open(&ctrl, &err);

	if (ret == 0) {
		if (strcmp(verb, "add") == 0)
			ret = other_add(&ctrl, id, &err);
		else if (strcmp(verb, "serve") == 0)
			ret = other_run(&ctrl, id, &err);
		else if (strcmp(verb, "stop") == 0)
			ret = other_long(&ctrl, UBLK_U_CMD_STOP_DEV, id, 0, &err);
		else if (strcmp(verb, "del") == 0)
			ret = other_long(&ctrl, UBLK_U_CMD_DEL_DEV, id, 0, &err);
		else
			ret = ub_err_set(&err, EINVAL, "--ctrl add|serve|stop|del ID");
	}
	if (ret)
		fprintf(stderr, "%s\n", err.text);
	ub_ctrl_close(&ctrl);
	return ret ? 1 : 0;
}
