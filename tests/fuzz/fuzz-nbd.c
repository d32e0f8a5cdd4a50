/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD back end against a hostile server, many cases one after another.
 *
 * A case is a string of bytes, made from a seed and a number, or read from a file. Whatever the
 * server does: nothing crashes, each I/O is completed exactly once and in time, and a READ that
 * succeeds has all of its bytes from the server. The cases run in a child process; whoever watches
 * it names the one that failed.
 *
 *   fuzz-nbd [--seed N] [--cases N | --seconds N | --case N | --file PATH] [--verbose]
 */
#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/nbd/library.h"
#include "backend/nbd/options.h"
#include "backend/backend.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "tests/fuzz/hostile.h"
#include "tests/unit/core.h"

#define FUZZ_CASES	     150 /* of make check */
#define FUZZ_INPUT_BYTES     4096
#define FUZZ_MAX_IOS	     32
#define FUZZ_MAX_IO_BYTES    (32U << 10)
#define FUZZ_IO_MS	     20000 /* an I/O that takes longer hangs */
#define FUZZ_CASE_MS	     60000 /* a case that takes longer hangs */
#define FUZZ_NOT_FROM_SERVER 0xee  /* what is in a buffer before */
#define FUZZ_NR_OLD	     8	   /* so many of them in a row the server never sends */

const struct ub_backend_ops *const ub_backends[] = { &ub_backend_nbd, NULL };

/* Locking libnbd in memory takes longer than a case; linked in with --wrap. */
void __wrap_nbd_library_lock(void); /* NOLINT(bugprone-reserved-identifier) */

void __wrap_nbd_library_lock(void)
{
}

/* What the watching process sees of the one that runs the cases. */
struct progress {
	_Atomic uint64_t number, nr_done, started_ms;
	_Atomic uint64_t nr_opened, nr_ios, nr_read, nr_failed_ios, nr_connections;
};

static struct progress *progress;

struct fuzz_io {
	struct core_io cio;
	unsigned qid;
	uint8_t buf[FUZZ_MAX_IO_BYTES];
};

struct fuzz_case {
	struct hostile hostile;
	struct core core;
	unsigned nr_queues, nr_ios;
	bool is_live, ends_by_cancel;
	struct fuzz_io ios[FUZZ_MAX_IOS];
};

static _Noreturn void fuzz_fail(const char *what)
{
	fprintf(stderr, "fuzz-nbd: %s\n", what);
	abort();
}

/* ---- a case's plan ------------------------------------------------------- */

static void plan_export(struct input *in, struct peer_export *e)
{
	static const uint32_t blocks[][3] = { { 0, 0, 0 },	   { 1, 4096, 32 << 20 },
					      { 512, 4096, 8192 }, { 4096, 65536, 1 << 20 },
					      { 1, 512, 512 },	   { 512, 512, UINT32_MAX },
					      { 1, 4096, 5000 },   { 2, 65536, 65536 } };
	const uint32_t *block = blocks[input_below(in, 8)];

	*e = (struct peer_export){ .size_bytes = 1 << 20, .flags = PEER_ALL };
	e->has_structured_replies = !input_chance(in, 96);
	e->min_block_bytes = block[0];
	e->preferred_block_bytes = block[1];
	e->max_payload_bytes = block[2];
	if (input_chance(in, 64))
		e->flags = (uint16_t)(PEER_HAS_FLAGS | input_below(in, 0x1000));
	if (input_chance(in, 48))
		e->size_bytes = input_number(in);
	if (input_chance(in, 32)) {
		e->min_block_bytes = (uint32_t)input_number(in);
		e->preferred_block_bytes = (uint32_t)input_number(in);
		e->max_payload_bytes = (uint32_t)input_number(in);
	}
	if (input_chance(in, 32))
		e->name = "a name that it has";
	if (input_chance(in, 32))
		e->description = "%s%n and what it is";
}

static void plan_case(struct fuzz_case *fc, const uint8_t *data, size_t len)
{
	struct input *in = &fc->hostile.in;

	*in = (struct input){ .data = data, .len = len };
	plan_export(in, &fc->hostile.export);
	fc->hostile.nr_hostile = 1 + input_below(in, 5);
	fc->hostile.first_is_correct = !input_chance(in, 96);
	fc->hostile.negotiation_rate = input_chance(in, 96) ? 64 : 0;
	fc->hostile.reply_rate = input_byte(in) / 2;
	fc->hostile.message_rate = input_chance(in, 128) ? input_byte(in) / 8 : 0;
	fc->nr_queues = 1 + input_chance(in, 64);
	fc->nr_ios = 1 + input_below(in, FUZZ_MAX_IOS);
	fc->is_live = !input_chance(in, 16);
	fc->ends_by_cancel = input_chance(in, 24);
}

static uint8_t plan_op(struct input *in, const struct ub_limits *l)
{
	static const uint8_t ops[] = {
		UB_OP_READ,  UB_OP_READ,    UB_OP_READ,	 UB_OP_READ,
		UB_OP_WRITE, UB_OP_DISCARD, UB_OP_FLUSH, UB_OP_WRITE_ZEROES
	};
	uint8_t op = ops[input_below(in, sizeof(ops))];

	/* As the core, which asks for nothing that the back end cannot do. */
	if ((op != UB_OP_READ && op != UB_OP_FLUSH && l->read_only) ||
	    (op == UB_OP_FLUSH && !l->can_flush) || (op == UB_OP_DISCARD && !l->can_trim) ||
	    (op == UB_OP_WRITE_ZEROES && !l->can_zero))
		return UB_OP_READ;
	return op;
}

static void plan_io(struct fuzz_case *fc, struct input *in, unsigned index)
{
	const struct ub_limits *l = &fc->core.backend.limits;
	uint64_t blocks = l->size_bytes / l->logical_block_bytes;
	uint32_t most = l->max_io_bytes < FUZZ_MAX_IO_BYTES ? l->max_io_bytes : FUZZ_MAX_IO_BYTES;
	uint64_t nr = 1 + input_below(in, most / l->logical_block_bytes);
	struct fuzz_io *io = &fc->ios[index];
	struct ub_io *i = &io->cio.io;

	if (nr > blocks)
		nr = blocks;
	memset(&io->cio, 0, sizeof(io->cio));
	io->qid = index % fc->nr_queues;
	i->op = plan_op(in, l);
	i->slot = (uint16_t)index;
	memset(io->buf, FUZZ_NOT_FROM_SERVER, sizeof(io->buf));
	if (i->op == UB_OP_FLUSH)
		return;
	i->len_bytes = (uint32_t)nr * l->logical_block_bytes;
	i->offset_bytes =
		(input_chance(in, 64) ? blocks - nr : input_below(in, 65536) % (blocks - nr + 1)) *
		l->logical_block_bytes;
	if (i->op == UB_OP_READ || i->op == UB_OP_WRITE)
		i->buf = io->buf;
	if (i->op != UB_OP_READ && i->op != UB_OP_DISCARD && l->can_fua && input_chance(in, 64))
		i->flags |= UB_FUA;
	if (i->op == UB_OP_WRITE_ZEROES && input_chance(in, 128))
		i->flags |= UB_NOUNMAP;
}

/* ---- a case's course ----------------------------------------------------- */

static void check_read(const struct fuzz_io *io, bool lied)
{
	const struct ub_io *i = &io->cio.io;
	unsigned nr_old = 0;

	for (uint32_t n = 0; n < i->len_bytes; n++) {
		nr_old = io->buf[n] == FUZZ_NOT_FROM_SERVER ? nr_old + 1 : 0;
		if (nr_old == FUZZ_NR_OLD)
			fuzz_fail("a READ succeeded with bytes that the server did not send");
		if (!lied && io->buf[n] != hostile_byte(i->offset_bytes + n))
			fuzz_fail("a READ succeeded with other bytes than the server sent");
	}
	progress->nr_read++;
}

static void run_ios(struct fuzz_case *fc, struct input *in)
{
	bool lied;

	for (unsigned i = 0; i < fc->nr_ios; i++)
		plan_io(fc, in, i);
	for (unsigned i = 0; i < fc->nr_ios; i++)
		core_start_io(&fc->core, fc->ios[i].qid, &fc->ios[i].cio);
	if (fc->ends_by_cancel) {
		core_wait_io(&fc->core, &fc->ios[0].cio, 5);
		core_cancel(&fc->core, -EIO);
	}
	for (unsigned i = 0; i < fc->nr_ios; i++) {
		if (!core_wait_io(&fc->core, &fc->ios[i].cio, FUZZ_IO_MS))
			fuzz_fail("an I/O is not completed");
	}
	lied = atomic_load(&fc->hostile.lied);
	for (unsigned i = 0; i < fc->nr_ios; i++) {
		const struct ub_io *io = &fc->ios[i].cio.io;

		if (fc->ios[i].cio.nr_done != 1)
			fuzz_fail("an I/O is completed more than once");
		progress->nr_ios++;
		if (io->result < 0)
			progress->nr_failed_ios++;
		else if (io->op == UB_OP_READ)
			check_read(&fc->ios[i], lied);
	}
}

static char *case_options(void)
{
	struct nbd_options o;
	char *json;

	nbd_options_init(&o);
	o.address.transport = NBD_SOCKET;
	o.restarts = true;
	o.fence_timeout_ms = 30;
	json = nbd_options_to_json(&o);
	nbd_options_destroy(&o);
	return json;
}

static void run_case(const uint8_t *data, size_t len)
{
	struct fuzz_case *fc = calloc(1, sizeof(*fc));
	struct ub_backend_config cfg = { .kind = "nbd", .cancel_fd = -1 };
	struct ub_err err = { 0 };
	struct input in;
	int ret;

	assert(fc);
	plan_case(fc, data, len);
	/*
	 * What is left of the string: the server reads it from here, and the I/O from its end's
	 * half.
	 */
	in = (struct input){ .data = data, .len = len, .at = fc->hostile.in.at + len / 2 };
	cfg.options = case_options();
	cfg.nr_queues = fc->nr_queues;
	cfg.fd = hostile_start(&fc->hostile);
	ret = core_open(&fc->core, &cfg, FUZZ_MAX_IOS, &err);
	close(cfg.fd);
	if (ret && (ret != -err.code || !err.text[0]))
		fuzz_fail("a failure to open says nothing");
	if (ret == 0) {
		progress->nr_opened++;
		if (fc->is_live)
			core_set_live(&fc->core);
		/* A correct server would not be the one that was there first. */
		fc->ends_by_cancel |= atomic_load(&fc->hostile.first_was_changed);
		hostile_opened(&fc->hostile, &fc->core.backend);
		run_ios(fc, &in);
	}
	hostile_stop(&fc->hostile);
	core_close(&fc->core);
	hostile_join(&fc->hostile);
	progress->nr_connections += fc->hostile.nr_connections;
	free((char *)(uintptr_t)cfg.options);
	free(fc);
}

/* ---- many cases ---------------------------------------------------------- */

static uint64_t fuzz_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

static void make_input(uint64_t seed, uint64_t number, uint8_t *data)
{
	uint64_t state = seed * 0x2545f4914f6cdd1dULL + number;

	for (size_t i = 0; i < FUZZ_INPUT_BYTES; i++)
		data[i] = (uint8_t)fuzz_random(&state);
}

struct fuzz_options {
	uint64_t seed, first, nr_cases, seconds;
	const char *file;
};

static void run_file(const char *path)
{
	uint8_t data[FUZZ_INPUT_BYTES];
	FILE *file = fopen(path, "re");
	size_t len;

	if (!file) {
		perror(path);
		exit(2);
	}
	len = fread(data, 1, sizeof(data), file);
	fclose(file);
	run_case(data, len);
}

static void run_cases(const struct fuzz_options *o)
{
	uint64_t until = ub_now_ms() + o->seconds * 1000;
	uint8_t data[FUZZ_INPUT_BYTES];

	signal(SIGPIPE, SIG_IGN);
	progress->started_ms = ub_now_ms();
	if (o->file)
		run_file(o->file);
	for (uint64_t n = o->first;
	     !o->file && (o->seconds ? ub_now_ms() < until : n < o->first + o->nr_cases); n++) {
		progress->number = n;
		progress->started_ms = ub_now_ms();
		make_input(o->seed, n, data);
		run_case(data, sizeof(data));
		progress->nr_done++;
	}
}

/*
 * Waits for the process that runs the cases. Its status, or -1: it was ended, because one of them
 * hangs.
 */
static int watch(pid_t pid)
{
	int fd = pidfd_open(pid, 0), status = 0;

	assert(fd >= 0);
	while (poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 1000) == 0) {
		if (ub_now_ms() - progress->started_ms < FUZZ_CASE_MS)
			continue;
		fprintf(stderr, "fuzz-nbd: the case hangs\n");
		kill(pid, SIGABRT);
		break;
	}
	waitpid(pid, &status, 0);
	close(fd);
	return status;
}

static int fuzz(const struct fuzz_options *o)
{
	uint64_t start = ub_now_ms(), ms;
	int status;
	pid_t pid;

	progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	assert(progress != MAP_FAILED);
	progress->started_ms = start;
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		run_cases(o);
		exit(0);
	}
	status = watch(pid);
	ms = ub_now_ms() - start + 1;
	printf("fuzz-nbd: seed %llu: %llu cases (%llu a second), %llu opened, %llu connections, "
	       "%llu I/Os, of which "
	       "%llu failed and %llu read\n",
	       (unsigned long long)o->seed, (unsigned long long)progress->nr_done,
	       (unsigned long long)(progress->nr_done * 1000 / ms),
	       (unsigned long long)progress->nr_opened,
	       (unsigned long long)progress->nr_connections, (unsigned long long)progress->nr_ios,
	       (unsigned long long)progress->nr_failed_ios, (unsigned long long)progress->nr_read);
	if (status == 0)
		return 0;
	if (WIFSIGNALED(status))
		printf("fuzz-nbd: killed by signal %d\n", WTERMSIG(status));
	if (o->file)
		printf("fuzz-nbd: FAILED: repeat with --file %s\n", o->file);
	else
		printf("fuzz-nbd: FAILED: repeat with --seed %llu --case %llu\n",
		       (unsigned long long)o->seed, (unsigned long long)progress->number);
	return 1;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "cases", required_argument, NULL, 'n' },
		{ "seconds", required_argument, NULL, 't' },
		{ "case", required_argument, NULL, 'c' },
		{ "file", required_argument, NULL, 'f' },
		{ "verbose", no_argument, NULL, 'v' },
		{ NULL, 0, NULL, 0 },
	};
	struct fuzz_options o = { .seed = 1, .nr_cases = FUZZ_CASES };
	struct ub_err err;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			o.seed = strtoull(optarg, NULL, 10);
			break;
		case 'n':
			o.nr_cases = strtoull(optarg, NULL, 10);
			break;
		case 't':
			o.seconds = strtoull(optarg, NULL, 10);
			break;
		case 'c':
			o.first = strtoull(optarg, NULL, 10);
			o.nr_cases = 1;
			break;
		case 'f':
			o.file = optarg;
			break;
		case 'v':
			core_be_verbose();
			break;
		default:
			return 2;
		}
	}
	if (nbd_library_load(&err) != 0) {
		printf("skip: %s\n", err.text);
		return 77;
	}
	return fuzz(&o);
}
