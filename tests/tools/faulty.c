/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A back end for tests: plain memory that delays, reorders, fails, completes late or from another
 * thread, and lacks what it is told to lack. `--backend faulty:SIZE:OPTION,OPTION…`
 *
 *   delay=MS          each I/O is completed MS milliseconds after it came (the queue's timer)
 *   reorder           what came in one batch is completed last first
 *   foreign           a thread of the back end's own completes (woken by an eventfd)
 *   hang              READ and WRITE are held until cancel(), or until /run/ub-faulty-go is there
 *   fail=OP:ERRNO     every OP (read, write, flush, discard, zero) fails with this number
 *   bad=SECTOR        READ and WRITE that touch this 512-byte sector fail with EIO
 *   short             a READ or WRITE claims half of its length
 *   die=N             the Nth WRITE kills the process
 *   lie               announces discard and zero though it has none: the core must make up for them
 *   no-flush no-fua no-trim no-zero    it cannot do that
 *   max-io=BYTES      READ and WRITE take no more than this (the core splits): an assertion
 *   file=FILE         the memory starts with what this file has (the rest is zeroes)
 *   log=FILE          one line an I/O: op, flags, offset, length; what the core really sent
 *
 * Queue threads; knows the contract alone.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "tools.h"

#define FAULTY_MAX_IO_BYTES (1U << 20)
#define FAULTY_GO_FILE	    "/run/ub-faulty-go"
#define FAULTY_GO_POLL_MS   50

struct faulty {
	char *map;
	uint64_t size_bytes;
	uint32_t block_bytes, max_io_bytes;
	unsigned delay_ms;
	bool reorder, foreign, hang, is_short, lie;
	bool no_flush, no_fua, no_trim, no_zero;
	int fail_op, fail_errno;
	int64_t bad_sector;
	_Atomic int die_after; /* 0: never */
	int log_fd, file_fd;
};

struct faulty_queue {
	struct faulty *f;
	struct ub_io *held, **held_last; /* waiting for the batch's end, the timer or the thread */
	struct ub_timer timer;
	struct ub_watch watch; /* foreign: the thread asks the queue to hand it what is held */
	pthread_t thread;
	bool has_thread;
	int ask_fd, work_fd; /* queue to thread, thread to queue */
	struct ub_io *_Atomic work;
	_Atomic bool quit;
	int cancel_error;
};

/* ---- options ------------------------------------------------------------- */

static int faulty_op(const char *name)
{
	static const char *const names[UB_NR_OPS] = { "read", "write", "flush", "discard", "zero" };

	for (int op = 0; op < UB_NR_OPS; op++) {
		if (strcmp(names[op], name) == 0)
			return op;
	}
	return -1;
}

static int faulty_flag(struct faulty *f, const char *name)
{
	const struct {
		const char *name;
		bool *flag;
	} flags[] = {
		{ "reorder", &f->reorder }, { "foreign", &f->foreign },
		{ "hang", &f->hang },	    { "short", &f->is_short },
		{ "lie", &f->lie },	    { "no-flush", &f->no_flush },
		{ "no-fua", &f->no_fua },   { "no-trim", &f->no_trim },
		{ "no-zero", &f->no_zero },
	};

	for (unsigned i = 0; i < UB_ARRAY_SIZE(flags); i++) {
		if (strcmp(flags[i].name, name) == 0) {
			*flags[i].flag = true;
			return 0;
		}
	}
	return -1;
}

static int faulty_option(struct faulty *f, char *option)
{
	char *value = strchr(option, '='), *colon;

	if (!value)
		return faulty_flag(f, option);
	*value++ = '\0';
	if (strcmp(option, "delay") == 0) {
		f->delay_ms = (unsigned)atoi(value);
	} else if (strcmp(option, "bad") == 0) {
		f->bad_sector = atoll(value);
	} else if (strcmp(option, "die") == 0) {
		f->die_after = atoi(value);
	} else if (strcmp(option, "max-io") == 0) {
		f->max_io_bytes = (uint32_t)atoi(value);
	} else if (strcmp(option, "log") == 0) {
		f->log_fd = open(value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	} else if (strcmp(option, "file") == 0) {
		f->file_fd = open(value, O_RDONLY | O_CLOEXEC);
		return f->file_fd < 0 ? -1 : 0;
	} else if (strcmp(option, "fail") == 0 && (colon = strchr(value, ':'))) {
		*colon = '\0';
		f->fail_op = faulty_op(value);
		f->fail_errno = atoi(colon + 1);
	} else {
		return -1;
	}
	return 0;
}

static int faulty_load(struct faulty *f, struct ub_err *err)
{
	uint64_t done = 0;
	ssize_t n = 1;

	while (n > 0 && done < f->size_bytes) {
		n = pread(f->file_fd, f->map + done, f->size_bytes - done, (off_t)done);
		done += n > 0 ? (uint64_t)n : 0;
	}
	return n < 0 ? ub_err_errno(err, errno, "faulty: its file") : 0;
}

static int faulty_open(struct ub_backend *be, const struct ub_backend_config *cfg,
		       struct ub_err *err)
{
	struct faulty *f = calloc(1, sizeof(*f));
	char *options = strdup(cfg->options), *save = NULL;
	cleanup_free void *free_options = options;

	if (!f || !options) {
		free(f);
		return ub_err_errno(err, ENOMEM, "faulty");
	}
	be->priv = f;
	f->log_fd = f->file_fd = -1;
	f->bad_sector = -1;
	f->fail_op = -1;
	f->max_io_bytes = FAULTY_MAX_IO_BYTES;
	f->size_bytes = cfg->size_bytes;
	f->block_bytes = cfg->logical_block_bytes ? cfg->logical_block_bytes : 512;
	for (char *o = strtok_r(options, ",", &save); o; o = strtok_r(NULL, ",", &save)) {
		if (faulty_option(f, o) != 0)
			return ub_err_set(err, EINVAL, "faulty: '%s' is not understood", o);
	}
	f->map = mmap(NULL, f->size_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (f->map == MAP_FAILED)
		return ub_err_errno(err, errno, "faulty: its memory");
	return f->file_fd < 0 ? 0 : faulty_load(f, err);
}

/*
 * What the device announces; with `lie` and `max-io` that is more than faulty_confess() admits
 * later.
 */
static int faulty_get_limits(struct ub_backend *be, struct ub_limits *limits, struct ub_err *err)
{
	const struct faulty *f = be->priv;
	bool trim = f->lie || !f->no_trim, zero = f->lie || !f->no_zero;

	(void)err;
	*limits = (struct ub_limits){
		.size_bytes = f->size_bytes,
		.logical_block_bytes = f->block_bytes,
		.physical_block_bytes = 4096,
		.max_io_bytes = FAULTY_MAX_IO_BYTES,
		.max_discard_bytes = trim ? 1U << 26 : 0,
		.max_zeroes_bytes = zero ? 1U << 24 : 0,
		.can_flush = !f->no_flush,
		.can_fua = !f->no_fua,
		.can_trim = trim,
		.can_zero = zero,
	};
	return 0;
}

static void faulty_close(struct ub_backend *be)
{
	struct faulty *f = be->priv;

	if (!f)
		return;
	if (f->map && f->map != MAP_FAILED)
		munmap(f->map, f->size_bytes);
	if (f->log_fd >= 0)
		close(f->log_fd);
	if (f->file_fd >= 0)
		close(f->file_fd);
	free(f);
	be->priv = NULL;
}

/* ---- carrying out -------------------------------------------------------- */

static bool faulty_touches(const struct ub_io *io, int64_t sector)
{
	return sector >= 0 && io->op <= UB_OP_WRITE &&
	       (uint64_t)sector * 512 < io->offset_bytes + io->len_bytes &&
	       (uint64_t)sector * 512 >= io->offset_bytes;
}

static int32_t faulty_execute(struct faulty *f, struct ub_io *io)
{
	if (io->op == f->fail_op)
		return -f->fail_errno;
	if (faulty_touches(io, f->bad_sector))
		return -EIO;
	if (io->op == UB_OP_WRITE && atomic_load(&f->die_after) &&
	    atomic_fetch_sub(&f->die_after, 1) == 1)
		kill(getpid(), SIGKILL);
	assert(io->op != UB_OP_FLUSH || (!f->no_flush && io->len_bytes == 0));
	assert(!(io->flags & UB_FUA) || !f->no_fua);
	assert(io->op > UB_OP_WRITE || io->len_bytes <= f->max_io_bytes);
	switch (io->op) {
	case UB_OP_READ:
		memcpy(io->buf, f->map + io->offset_bytes, io->len_bytes);
		break;
	case UB_OP_WRITE:
		memcpy(f->map + io->offset_bytes, io->buf, io->len_bytes);
		break;
	case UB_OP_WRITE_ZEROES:
		assert(!f->no_zero);
		memset(f->map + io->offset_bytes, 0, io->len_bytes);
		break;
	case UB_OP_DISCARD:
		assert(!f->no_trim);
		memset(f->map + io->offset_bytes, 0xdd, io->len_bytes);
		break;
	default:
		break;
	}
	if (f->is_short && io->op <= UB_OP_WRITE)
		return (int32_t)(io->len_bytes / 2);
	return (int32_t)io->len_bytes;
}

static struct ub_io *faulty_take_held(struct faulty_queue *fq)
{
	struct ub_io *all = fq->held;

	fq->held = NULL;
	fq->held_last = &fq->held;
	return all;
}

/* Completes a list, in its order or the other way round; error: not 0 fails it all. */
static void faulty_complete(struct faulty *f, struct ub_io *list, int error)
{
	struct ub_io *reversed = NULL;

	while (f->reorder && list) {
		struct ub_io *next = list->next;

		list->next = reversed;
		reversed = list;
		list = next;
	}
	if (f->reorder)
		list = reversed;
	while (list) {
		struct ub_io *next = list->next;

		ub_io_complete(list, error ? error : faulty_execute(f, list));
		list = next;
	}
}

static void *faulty_thread(void *arg)
{
	struct faulty_queue *fq = arg;

	while (!atomic_load(&fq->quit)) {
		struct pollfd pfd = { .fd = fq->ask_fd, .events = POLLIN };
		eventfd_t n;

		poll(&pfd, 1, -1);
		eventfd_read(fq->ask_fd, &n);
		if (fq->f->delay_ms)
			usleep(fq->f->delay_ms * 1000);
		faulty_complete(fq->f, atomic_exchange(&fq->work, NULL), 0);
		eventfd_write(fq->work_fd, 1); /* ready for more */
	}
	return NULL;
}

/* foreign: hands what is held to the thread, if that has nothing at the moment. */
static void faulty_hand_over(struct faulty_queue *fq)
{
	struct ub_io *none = NULL;

	if (fq->held && atomic_compare_exchange_strong(&fq->work, &none, fq->held)) {
		faulty_take_held(fq);
		eventfd_write(fq->ask_fd, 1);
	}
}

static void faulty_thread_ready(struct ub_watch *watch, int32_t res)
{
	struct faulty_queue *fq = ub_container_of(watch, struct faulty_queue, watch);
	eventfd_t n;

	if (res < 0)
		return;
	eventfd_read(fq->work_fd, &n);
	faulty_hand_over(fq);
	ub_watch_arm(&fq->watch, fq->work_fd, POLLIN);
}

static void faulty_expired(struct ub_timer *timer)
{
	struct faulty_queue *fq = ub_container_of(timer, struct faulty_queue, timer);

	if (fq->f->hang && access(FAULTY_GO_FILE, F_OK) != 0)
		ub_timer_set(&fq->timer, FAULTY_GO_POLL_MS);
	else
		faulty_complete(fq->f, faulty_take_held(fq), 0);
}

/* ---- the contract -------------------------------------------------------- */

/*
 * What the core obeys at run time: as if a back end that can do less had been put behind the
 * device.
 */
static void faulty_confess(struct ub_backend *be)
{
	const struct faulty *f = be->priv;

	be->limits.max_io_bytes = f->max_io_bytes;
	be->limits.can_trim = !f->no_trim;
	be->limits.can_zero = !f->no_zero;
}

static int faulty_queue_init(struct ub_backend_queue *bq, unsigned nr_slots, struct ub_err *err)
{
	struct faulty_queue *fq = calloc(1, sizeof(*fq));

	if (!fq)
		return ub_err_errno(err, ENOMEM, "faulty: a queue");
	bq->priv = fq;
	bq->nr_slots = nr_slots;
	fq->f = bq->backend->priv;
	faulty_confess(bq->backend);
	fq->held_last = &fq->held;
	fq->ask_fd = eventfd(0, EFD_CLOEXEC);
	fq->work_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fq->timer = (struct ub_timer){ .queue = bq->queue, .expired = faulty_expired };
	fq->watch = (struct ub_watch){ .queue = bq->queue, .ready = faulty_thread_ready };
	if (fq->f->foreign) {
		if (pthread_create(&fq->thread, NULL, faulty_thread, fq) != 0)
			return ub_err_errno(err, EAGAIN, "faulty: a thread");
		fq->has_thread = true;
	}
	return 0;
}

static void faulty_queue_destroy(struct ub_backend_queue *bq)
{
	struct faulty_queue *fq = bq->priv;

	if (!fq)
		return;
	if (fq->has_thread) {
		atomic_store(&fq->quit, true);
		eventfd_write(fq->ask_fd, 1);
		pthread_join(fq->thread, NULL);
	}
	close(fq->ask_fd);
	close(fq->work_fd);
	free(fq);
	bq->priv = NULL;
}

static void faulty_queue_start(struct ub_backend_queue *bq)
{
	struct faulty_queue *fq = bq->priv;

	if (fq->f->foreign)
		ub_watch_arm(&fq->watch, fq->work_fd, POLLIN);
}

static void faulty_log(const struct faulty *f, const struct ub_io *io)
{
	static const char names[] = "RWFDZ";

	if (f->log_fd >= 0)
		dprintf(f->log_fd, "%c%s%s %llu %u\n", names[io->op],
			io->flags & UB_FUA ? " fua" : "", io->flags & UB_NOUNMAP ? " nounmap" : "",
			(unsigned long long)io->offset_bytes, io->len_bytes);
}

static void faulty_submit(struct ub_backend_queue *bq, struct ub_io *io)
{
	struct faulty_queue *fq = bq->priv;
	struct faulty *f = fq->f;

	faulty_log(f, io);
	if (fq->cancel_error) {
		ub_io_complete(io, fq->cancel_error);
	} else if (f->delay_ms || f->reorder || f->foreign || (f->hang && io->op <= UB_OP_WRITE)) {
		io->next = NULL;
		*fq->held_last = io;
		fq->held_last = &io->next;
	} else {
		ub_io_complete(io, faulty_execute(f, io));
	}
}

/* Not again at each turn: a timer that is put off by its own wake-up never expires. */
static void faulty_wait(struct faulty_queue *fq)
{
	if (!fq->timer.deadline_ns)
		ub_timer_set(&fq->timer, fq->f->hang ? FAULTY_GO_POLL_MS : fq->f->delay_ms);
}

static void faulty_submit_end(struct ub_backend_queue *bq)
{
	struct faulty_queue *fq = bq->priv;

	if (!fq->held)
		return;
	if (fq->f->foreign)
		faulty_hand_over(fq);
	else if (fq->f->hang ? access(FAULTY_GO_FILE, F_OK) != 0 : fq->f->delay_ms > 0)
		faulty_wait(fq);
	else
		faulty_complete(fq->f, faulty_take_held(fq), 0);
}

static void faulty_cancel(struct ub_backend_queue *bq, int err)
{
	struct faulty_queue *fq = bq->priv;

	fq->cancel_error = err;
	faulty_complete(fq->f, faulty_take_held(fq), err);
}

const struct ub_backend_ops ub_backend_faulty = {
	.name = "faulty",
	.open = faulty_open,
	.get_limits = faulty_get_limits,
	.queue_init = faulty_queue_init,
	.queue_destroy = faulty_queue_destroy,
	.close = faulty_close,
	.queue_start = faulty_queue_start,
	.submit = faulty_submit,
	.submit_end = faulty_submit_end,
	.cancel = faulty_cancel,
};
