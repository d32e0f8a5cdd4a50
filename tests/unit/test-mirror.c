/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The layer of a migration between two sides that do as they are told: late, out of order, from
 * another thread, with errors. What the application may read is held against a model; in step, both
 * sides are the same.
 *
 * UB_MIRROR_SEED and UB_MIRROR_SECONDS: another random load, and for how long; UB_MIRROR_TEST:
 * these tests alone (a glob).
 */
#include "unit.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>

#include "backend/mirror/mirror.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "core.h"

#define SECTOR	       512U
#define WORDS	       (SECTOR / sizeof(uint64_t))
#define DEPTH	       12
#define NR_SLOTS       (DEPTH + UB_INTERNAL_SLOTS)
#define MAX_QUEUES     3
#define MAX_IDS	       (1U << 20)
#define LOAD_MAX_BYTES (128U << 10)
#define LOAD_SECTORS   (LOAD_MAX_BYTES / SECTOR)
#define SIDE_NR_OPS    (UB_OP_STATUS + 1)
#define LONG_MS	       20000 /* a test that waits so long has failed */
#define FOR_EVER       UINT64_MAX

enum side_status { STATUS_NONE, STATUS_UNSUPPORTED, STATUS_TOLD };

/* An I/O that is not done at once. */
struct side_op {
	struct ub_io *io;
	uint64_t due_us; /* FOR_EVER: until it is reset */
};

struct side {
	/* As the test wants it; under the lock once it runs. */
	struct ub_limits limits;
	enum side_status status;
	unsigned delay_us;   /* at most; 0: all is done at once */
	unsigned nr_told;    /* so often STATUS is answered, then it is not supported */
	bool is_odd;	     /* extents end anywhere; what is not answered may have been done */
	bool is_holding;     /* what changes it waits until it is reset */
	bool is_stuck;	     /* the same, and a reset helps nothing */
	bool refuses_zeroes; /* says so when asked */
	bool is_forbidden;   /* nothing may come any more */
	uint64_t out_until_ms, settled_at_ms;
	_Atomic uint64_t nr_losses;
	unsigned fail_op, fail_at; /* the at-th from now on of this kind fails; 0: none */
	int fail_errno;

	pthread_mutex_t lock;
	pthread_cond_t more;
	pthread_t thread;
	bool has_thread, quits;
	bool is_cancelled[MAX_QUEUES];
	uint64_t seed;
	char *data;
	struct side_op ops[MAX_QUEUES][NR_SLOTS];
	unsigned nr_pending;
	unsigned nr[SIDE_NR_OPS], nr_resets;
	uint64_t written_at; /* the last WRITE */
	unsigned nr_back;    /* WRITEs that went far back */
	unsigned most_pending;
	uint32_t longest_bytes; /* of READs */
	char wrong[128];	/* what it was asked for that nobody may ask for */
};

struct world {
	struct ub_queue_stats queue_stats[MAX_QUEUES];
	struct core core;
	struct side source, dest;
	struct ub_backend dest_be, mirror_be;
	struct ub_backend_queue *dest_bqs, *mirror_bqs;
	struct ub_migration_stats stats;
	uint64_t late_ms, rate_bytes;
	unsigned nr_queues;
	int event_fd;
};

static struct world w;

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void sleep_ms(unsigned ms)
{
	usleep(ms * 1000);
}

static unsigned below(uint64_t *seed, unsigned n)
{
	return (unsigned)(unit_random(seed) >> 33) % n;
}

/* ---- a side: under its lock ---------------------------------------------- */

static bool is_zero(const char *data, uint64_t len)
{
	return len == 0 || (data[0] == 0 && memcmp(data, data + 1, len - 1) == 0);
}

static int32_t side_tell_extent(struct side *s, const struct ub_io *io)
{
	struct ub_extent *extent = io->buf;
	uint64_t block = s->limits.logical_block_bytes, len = block;
	const char *data = s->data + io->offset_bytes;

	if (s->status != STATUS_TOLD || s->nr_told == 0)
		return -EOPNOTSUPP;
	s->nr_told--;
	extent->is_zero = is_zero(data, block);
	while (len < io->len_bytes && is_zero(data + len, block) == extent->is_zero)
		len += block;
	if (s->is_odd && below(&s->seed, 2))
		len = (below(&s->seed, (unsigned)(len / block)) + 1) * block;
	if (s->is_odd && below(&s->seed, 8) == 0)
		extent->is_zero = false;
	extent->len_bytes = (uint32_t)len;
	return (int32_t)io->len_bytes;
}

static void side_discard(struct side *s, const struct ub_io *io)
{
	for (uint64_t at = 0; at < io->len_bytes; at += SECTOR) {
		if (below(&s->seed, 2))
			memset(s->data + io->offset_bytes + at, 0, SECTOR);
	}
}

static int32_t side_execute(struct side *s, const struct ub_io *io)
{
	switch (io->op) {
	case UB_OP_READ:
		memcpy(io->buf, s->data + io->offset_bytes, io->len_bytes);
		break;
	case UB_OP_WRITE:
		memcpy(s->data + io->offset_bytes, io->buf, io->len_bytes);
		break;
	case UB_OP_WRITE_ZEROES:
		memset(s->data + io->offset_bytes, 0, io->len_bytes);
		break;
	case UB_OP_DISCARD:
		side_discard(s, io);
		break;
	case UB_OP_STATUS:
		return side_tell_extent(s, io);
	default:
		break;
	}
	return (int32_t)io->len_bytes;
}

static bool op_changes(uint8_t op)
{
	return op == UB_OP_WRITE || op == UB_OP_WRITE_ZEROES || op == UB_OP_DISCARD;
}

/* What it says to an I/O, and whether that was executed. */
static int32_t side_answer(struct side *s, const struct ub_io *io)
{
	if (io->op == s->fail_op && s->fail_at && --s->fail_at == 0)
		return -s->fail_errno;
	if (ub_now_ms() < s->out_until_ms) {
		if (s->is_odd && op_changes(io->op) && below(&s->seed, 2))
			side_execute(s, io);
		return -ENOLINK;
	}
	if (io->op == UB_OP_WRITE_ZEROES && s->refuses_zeroes)
		return -EOPNOTSUPP;
	return side_execute(s, io);
}

static uint32_t side_most(const struct side *s, uint8_t op)
{
	switch (op) {
	case UB_OP_WRITE_ZEROES:
		return s->limits.can_zero ? s->limits.max_zeroes_bytes : 0;
	case UB_OP_DISCARD:
		return s->limits.can_trim ? s->limits.max_discard_bytes : 0;
	case UB_OP_STATUS:
		return UINT32_MAX;
	default:
		return s->limits.max_io_bytes;
	}
}

/* What the contract says of an I/O. */
static void side_check(struct side *s, unsigned qid, const struct ub_io *io)
{
	uint64_t block = s->limits.logical_block_bytes;
	const char *what = NULL;

	if (s->is_forbidden || s->is_cancelled[qid])
		what = "an I/O after the end";
	else if (io->op == UB_OP_FLUSH)
		what = s->limits.can_flush ? NULL : "a flush that it cannot do";
	else if (!io->len_bytes || io->len_bytes > side_most(s, io->op))
		what = "too large an I/O, or an empty one";
	else if (io->offset_bytes % block || io->len_bytes % block ||
		 io->offset_bytes + io->len_bytes > s->limits.size_bytes)
		what = "a range that is not there";
	if (what && !s->wrong[0])
		snprintf(s->wrong, sizeof(s->wrong), "%s: op %u, %u bytes at %llu", what, io->op,
			 io->len_bytes, (unsigned long long)io->offset_bytes);
}

/* How long an I/O takes, in microseconds. */
static uint64_t side_delay(struct side *s, const struct ub_io *io)
{
	if (op_changes(io->op) && (s->is_holding || s->is_stuck))
		return FOR_EVER;
	return s->delay_us && below(&s->seed, 3) ? below(&s->seed, s->delay_us) + 1 : 0;
}

static void side_submit(struct ub_backend_queue *bq, struct ub_io *io)
{
	struct side *s = bq->backend->priv;
	struct side_op *op = &s->ops[bq->qid][io->slot];
	uint64_t delay;
	int32_t res = 0;

	pthread_mutex_lock(&s->lock);
	side_check(s, bq->qid, io);
	if (op->io && !s->wrong[0])
		snprintf(s->wrong, sizeof(s->wrong), "slot %u is used twice", io->slot);
	s->nr[io->op]++;
	if (io->op == UB_OP_READ && io->len_bytes > s->longest_bytes)
		s->longest_bytes = io->len_bytes;
	if (io->op == UB_OP_WRITE) {
		s->nr_back += io->offset_bytes + (64 << 20) < s->written_at;
		s->written_at = io->offset_bytes;
	}
	delay = side_delay(s, io);
	if (delay) {
		*op = (struct side_op){ .io = io,
					.due_us = delay == FOR_EVER ? FOR_EVER : now_us() + delay };
		s->nr_pending++;
		s->most_pending = s->nr_pending > s->most_pending ? s->nr_pending : s->most_pending;
		pthread_cond_signal(&s->more);
	} else {
		res = side_answer(s, io);
	}
	pthread_mutex_unlock(&s->lock);
	if (!delay)
		ub_io_complete(io, res);
}

/* Those of one queue (or all of them) that are due by then: with an answer, or with err. */
static void side_finish(struct side *s, unsigned first, unsigned nr, uint64_t due_us, int err)
{
	for (unsigned i = first * NR_SLOTS; i < (first + nr) * NR_SLOTS; i++) {
		struct side_op *op = &s->ops[i / NR_SLOTS][i % NR_SLOTS];
		struct ub_io *io = op->io;

		if (!io || op->due_us > due_us)
			continue;
		op->io = NULL;
		s->nr_pending--;
		ub_io_complete(io, err ? err : side_answer(s, io));
	}
}

static void *side_main(void *arg)
{
	struct side *s = arg;

	pthread_mutex_lock(&s->lock);
	while (!s->quits) {
		if (s->nr_pending == 0) {
			pthread_cond_wait(&s->more, &s->lock);
			continue;
		}
		side_finish(s, 0, MAX_QUEUES, now_us(), 0);
		pthread_mutex_unlock(&s->lock);
		usleep(50);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static void side_cancel(struct ub_backend_queue *bq, int err)
{
	struct side *s = bq->backend->priv;

	pthread_mutex_lock(&s->lock);
	s->is_cancelled[bq->qid] = true;
	side_finish(s, bq->qid, 1, FOR_EVER, err);
	pthread_mutex_unlock(&s->lock);
}

static bool side_queue_stop(struct ub_backend_queue *bq)
{
	struct side *s = bq->backend->priv;

	pthread_mutex_lock(&s->lock);
	side_finish(s, bq->qid, 1, FOR_EVER, -ECANCELED);
	pthread_mutex_unlock(&s->lock);
	return true;
}

static void side_reset(struct ub_backend *be)
{
	struct side *s = be->priv;

	pthread_mutex_lock(&s->lock);
	s->nr_resets++;
	s->is_holding = false;
	if (!s->is_stuck)
		side_finish(s, 0, MAX_QUEUES, FOR_EVER, -ENOLINK);
	pthread_mutex_unlock(&s->lock);
}

static bool side_has_settled(struct ub_backend *be)
{
	const struct side *s = be->priv;

	return ub_now_ms() >= s->settled_at_ms;
}

static uint64_t side_nr_losses(struct ub_backend *be)
{
	struct side *s = be->priv;

	return atomic_load(&s->nr_losses);
}

static int side_queue_init(struct ub_backend_queue *bq, unsigned nr_slots, struct ub_err *err)
{
	(void)bq;
	(void)err;
	return nr_slots == NR_SLOTS ? 0 : -EINVAL;
}

static void side_queue_destroy(struct ub_backend_queue *bq)
{
	(void)bq;
}

static int side_open(struct ub_backend *be, const struct ub_backend_config *cfg, struct ub_err *err)
{
	(void)cfg;
	(void)err;
	be->priv = &w.source;
	return 0;
}

static int side_get_limits(struct ub_backend *be, struct ub_limits *limits, struct ub_err *err)
{
	const struct side *s = be->priv;

	(void)err;
	*limits = s->limits;
	return 0;
}

static void side_close(struct ub_backend *be)
{
	(void)be;
}

#define SIDE_OPS(ops_name, ops_caps) \
	{ \
		.name = (ops_name), .caps = (ops_caps), .open = side_open, \
		.get_limits = side_get_limits, .queue_init = side_queue_init, \
		.queue_destroy = side_queue_destroy, .close = side_close, .reset = side_reset, \
		.has_settled = side_has_settled, .nr_losses = side_nr_losses, \
		.submit = side_submit, .cancel = side_cancel, .queue_stop = side_queue_stop, \
	}

static const struct ub_backend_ops ops_plain = SIDE_OPS("plain", 0);
static const struct ub_backend_ops ops_telling = SIDE_OPS("telling", UB_CAP_STATUS);

const struct ub_backend_ops *const ub_backends[] = { &ops_plain, &ops_telling, NULL };

static void side_init(struct side *s, uint64_t size_bytes)
{
	*s = (struct side){
		.limits = {
			.size_bytes = size_bytes,
			.logical_block_bytes = SECTOR,
			.physical_block_bytes = SECTOR,
			.max_io_bytes = LOAD_MAX_BYTES,
			.max_discard_bytes = 1 << 20,
			.max_zeroes_bytes = 1 << 20,
			.can_flush = 1,
			.can_fua = 1,
			.can_trim = 1,
			.can_zero = 1,
		},
		.nr_told = UINT32_MAX,
		.seed = 88172645463325252ULL,
		.data = calloc(1, size_bytes),
	};
	assert_non_null(s->data);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->more, NULL);
}

static void side_start(struct side *s)
{
	assert_int_equal(pthread_create(&s->thread, NULL, side_main, s), 0);
	s->has_thread = true;
}

static void side_end(struct side *s)
{
	if (!s->data)
		return;
	pthread_mutex_lock(&s->lock);
	s->quits = true;
	pthread_cond_signal(&s->more);
	pthread_mutex_unlock(&s->lock);
	if (s->has_thread)
		pthread_join(s->thread, NULL);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->more);
	free(s->data);
	s->data = NULL;
}

#define SIDE_SET(side, member, value) \
	do { \
		pthread_mutex_lock(&(side)->lock); \
		(side)->member = (value); \
		pthread_mutex_unlock(&(side)->lock); \
	} while (0)

static unsigned side_count(struct side *s, enum ub_op op)
{
	unsigned nr;

	pthread_mutex_lock(&s->lock);
	nr = s->nr[op];
	pthread_mutex_unlock(&s->lock);
	return nr;
}

static void side_await_count(struct side *s, enum ub_op op, unsigned nr)
{
	uint64_t until = ub_now_ms() + LONG_MS;

	while (side_count(s, op) < nr) {
		assert_true(ub_now_ms() < until);
		sleep_ms(1);
	}
}

/* ---- two sides, and the mirror between them ------------------------------ */

static void world_init(uint64_t size_bytes)
{
	assert_int_equal(w.core.nr_queues, 0); /* a test that failed has left its world behind */
	memset(&w, 0, sizeof(w));
	side_init(&w.source, size_bytes);
	side_init(&w.dest, size_bytes);
	w.late_ms = 1000;
	w.nr_queues = 1;
}

static void fill(struct side *s, char byte)
{
	memset(s->data, byte, s->limits.size_bytes);
}

static const struct ub_backend_ops *side_ops(const struct side *s)
{
	return s->status == STATUS_NONE ? &ops_plain : &ops_telling;
}

static void world_open(void)
{
	const struct ub_backend_config cfg = { .kind = side_ops(&w.source)->name,
					       .options = "",
					       .nr_queues = w.nr_queues,
					       .fd = -1,
					       .cancel_fd = -1 };
	struct ub_err err = { 0 };

	side_start(&w.source);
	side_start(&w.dest);
	w.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(w.event_fd >= 0);
	if (core_open(&w.core, &cfg, DEPTH, &err) != 0)
		fail_msg("%s", err.text);
	w.dest_be = (struct ub_backend){ .ops = side_ops(&w.dest),
					 .limits = w.dest.limits,
					 .priv = &w.dest };
	w.dest_bqs = core_make_queues(&w.core, &w.dest_be, &err);
	assert_non_null(w.dest_bqs);
}

/* Puts the mirror in. */
static void world_begin(void)
{
	struct ub_err err = { 0 };
	struct ub_mirror_config config;

	world_open();
	config = (struct ub_mirror_config){
		.source = &w.core.backend,
		.dest = &w.dest_be,
		.source_bqs = w.core.bqs,
		.dest_bqs = w.dest_bqs,
		.nr_queues = w.nr_queues,
		.depth = DEPTH,
		.late_ms = w.late_ms,
		.rate_bytes = w.rate_bytes,
		.stats = &w.stats,
		.queue_stats = w.queue_stats,
		.event_fd = w.event_fd,
	};
	if (ub_mirror_create(&w.mirror_be, &config, &err) != 0)
		fail_msg("%s", err.text);
	w.mirror_bqs = core_make_queues(&w.core, &w.mirror_be, &err);
	assert_non_null(w.mirror_bqs);
	core_swap(&w.core, w.mirror_bqs);
}

/* True when it comes to that: only the descriptor says when to look. */
static bool world_reaches(enum ub_mirror_state state, unsigned timeout_ms)
{
	uint64_t until = ub_now_ms() + timeout_ms, now;
	struct pollfd fd = { .fd = w.event_fd, .events = POLLIN };
	eventfd_t ignored;

	while (ub_mirror_state(&w.mirror_be) != state) {
		now = ub_now_ms();
		if (now >= until || poll(&fd, 1, (int)(until - now)) == 0)
			return false;
		eventfd_read(w.event_fd, &ignored);
	}
	return true;
}

static void world_await(enum ub_mirror_state state)
{
	bool is_source;
	int code;

	if (world_reaches(state, LONG_MS))
		return;
	code = ub_mirror_error(&w.mirror_be, &is_source);
	fail_msg("the mirror is in state %d instead of %d: error %d of the %s, %llu bytes dirty",
		 (int)ub_mirror_state(&w.mirror_be), (int)state, code,
		 is_source ? "source" : "destination",
		 (unsigned long long)ub_stat_read(&w.stats.dirty_bytes));
}

static void assert_failed_with(int code, bool by_source)
{
	bool is_source;

	world_await(UB_MIRROR_FAILED);
	/* Which side it was is known once the state is. */
	assert_int_equal(ub_mirror_error(&w.mirror_be, &is_source), code);
	assert_int_equal(is_source, by_source);
}

/* No I/O is in flight. */
static void assert_in_step(void)
{
	world_await(UB_MIRROR_IN_STEP);
	for (uint64_t at = 0; at < w.source.limits.size_bytes; at += SECTOR) {
		if (memcmp(w.source.data + at, w.dest.data + at, SECTOR) != 0)
			fail_msg("in step, and the sides differ at %llu", (unsigned long long)at);
	}
}

static void assert_nothing_wrong(struct side *s)
{
	if (s->wrong[0])
		fail_msg("%s: %s", s == &w.source ? "the source" : "the destination", s->wrong);
}

static void world_take_out(void)
{
	core_swap(&w.core, w.core.bqs);
	core_leave(&w.core, w.mirror_bqs);
	core_free_queues(&w.core, w.mirror_bqs);
	ub_mirror_destroy(&w.mirror_be);
	core_leave(&w.core, w.dest_bqs);
	core_free_queues(&w.core, w.dest_bqs);
	core_close(&w.core);
	close(w.event_fd);
	assert_nothing_wrong(&w.source);
	assert_nothing_wrong(&w.dest);
	assert_int_equal(w.dest.nr_pending, 0);
	side_end(&w.source);
	side_end(&w.dest);
}

static void world_end(void)
{
	ub_mirror_stop(&w.mirror_be);
	world_await(UB_MIRROR_STOPPED);
	SIDE_SET(&w.dest, is_forbidden, true);
	world_take_out();
}

/* ---- single I/Os --------------------------------------------------------- */

static void io_start(struct core_io *cio, enum ub_op op, unsigned slot, uint64_t offset,
		     uint32_t len, void *buf)
{
	*cio = (struct core_io){ .io = { .op = (uint8_t)op,
					 .slot = (uint16_t)slot,
					 .offset_bytes = offset,
					 .len_bytes = len,
					 .buf = buf } };
	core_start_io(&w.core, 0, cio);
}

static int32_t io_run(enum ub_op op, uint64_t offset, uint32_t len, void *buf)
{
	struct core_io cio;

	io_start(&cio, op, 0, offset, len, buf);
	assert_true(core_wait_io(&w.core, &cio, LONG_MS));
	return cio.io.result;
}

static void assert_write(uint64_t offset, uint32_t len, char byte)
{
	static char buf[LOAD_MAX_BYTES];

	memset(buf, byte, len);
	assert_int_equal(io_run(UB_OP_WRITE, offset, len, buf), len);
}

/* ---- what the application may read --------------------------------------- */

/*
 * A tick for each beginning and each end. A sector has what a write stamped it with: its id and
 * where it is.
 */
struct model {
	pthread_mutex_t lock;
	uint64_t tick;
	uint64_t next_id;
	uint64_t acked[MAX_IDS]; /* when; 0: not yet */
	uint64_t *floors;	 /* a sector: what was acknowledged before this is overwritten */
	uint64_t *zeroed;	 /* a sector: when zeroes were last acknowledged */
	unsigned *nr_zeroing;	 /* a sector */
	uint64_t nr_sectors;
	char wrong[160];
};

static struct model model;

static uint64_t stamp(uint64_t id, uint64_t sector)
{
	return id << 24 | sector;
}

static void model_say_wrong(const char *what, uint64_t sector, uint64_t value)
{
	if (!model.wrong[0])
		snprintf(model.wrong, sizeof(model.wrong), "%s: sector %llu, value %llx", what,
			 (unsigned long long)sector, (unsigned long long)value);
}

static void model_check_sector(const char *data, uint64_t sector, uint64_t floor)
{
	uint64_t words[WORDS], id;

	memcpy(words, data, SECTOR);
	for (unsigned i = 1; i < WORDS; i++) {
		if (words[i] != words[0])
			model_say_wrong("torn", sector, words[i]);
	}
	id = words[0] >> 24;
	if (words[0] == 0) {
		if (!model.nr_zeroing[sector] && model.zeroed[sector] < floor)
			model_say_wrong("zeroes that were overwritten", sector, 0);
	} else if (words[0] != stamp(id, sector) || id >= model.next_id) {
		model_say_wrong("never written there", sector, words[0]);
	} else if (model.acked[id] && model.acked[id] < floor) {
		model_say_wrong("overwritten by now", sector, words[0]);
	}
}

static void model_init(uint64_t *seed)
{
	model.nr_sectors = w.source.limits.size_bytes / SECTOR;
	model.tick = 1;
	model.next_id = 2;
	memset(model.acked, 0, sizeof(model.acked));
	model.acked[1] = 1;
	model.wrong[0] = '\0';
	model.floors = calloc(model.nr_sectors, sizeof(*model.floors));
	model.zeroed = calloc(model.nr_sectors, sizeof(*model.zeroed));
	model.nr_zeroing = calloc(model.nr_sectors, sizeof(*model.nr_zeroing));
	assert_true(model.floors && model.zeroed && model.nr_zeroing);
	pthread_mutex_init(&model.lock, NULL);
	for (uint64_t sector = 0, left = 0, is_data = 0; sector < model.nr_sectors;
	     sector++, left--) {
		if (left == 0) {
			left = below(seed, 4) ? below(seed, 600) + 1 : below(seed, 8) + 1;
			is_data = below(seed, 2);
		}
		model.floors[sector] = 1;
		model.zeroed[sector] = !is_data;
		for (unsigned i = 0; i < WORDS; i++)
			((uint64_t *)(void *)(w.source.data + sector * SECTOR))[i] =
				is_data ? stamp(1, sector) : 0;
	}
}

static void model_end(void)
{
	free(model.floors);
	free(model.zeroed);
	free(model.nr_zeroing);
	pthread_mutex_destroy(&model.lock);
}

/* No I/O is in flight. */
static void model_check_source(void)
{
	for (uint64_t sector = 0; sector < model.nr_sectors; sector++)
		model_check_sector(w.source.data + sector * SECTOR, sector, model.floors[sector]);
	if (model.wrong[0])
		fail_msg("%s", model.wrong);
}

/* ---- load ---------------------------------------------------------------- */

struct load_io {
	struct core_io cio;
	char *buf;
	uint64_t id, begun; /* a tick */
	uint64_t floors[LOAD_SECTORS];
	bool is_running;
};

struct load {
	pthread_t thread;
	unsigned qid;
	uint64_t seed;
	bool may_fail;
	bool writes_only; /* large ones */
	struct load_io ios[DEPTH];
};

static struct load loads[MAX_QUEUES];
static _Atomic bool load_stops;
static pthread_rwlock_t load_gate =
	PTHREAD_RWLOCK_INITIALIZER; /* no I/O begins while it is held for writing */
static _Atomic uint64_t load_nr_ios;

static enum ub_op load_choose_op(struct load *l)
{
	unsigned n = below(&l->seed, 100);

	if (l->writes_only || n < 50)
		return UB_OP_WRITE;
	if (n < 75)
		return UB_OP_READ;
	if (n < 88)
		return UB_OP_WRITE_ZEROES;
	return n < 96 ? UB_OP_DISCARD : UB_OP_FLUSH;
}

static void load_choose_range(struct load *l, struct ub_io *io)
{
	const struct ub_limits *limits = &w.mirror_be.limits;
	uint64_t most = limits->max_io_bytes, at;

	if (io->op == UB_OP_FLUSH)
		return;
	if (io->op == UB_OP_WRITE_ZEROES && limits->max_zeroes_bytes < most)
		most = limits->max_zeroes_bytes;
	if (most > LOAD_MAX_BYTES)
		most = LOAD_MAX_BYTES;
	most /= SECTOR;
	if (!l->writes_only && below(&l->seed, 4))
		most = most < 16 ? most : 16;
	at = unit_random(&l->seed) % model.nr_sectors;
	if (below(&l->seed, 2)) /* where the others are */
		at %= 300;
	if (most > model.nr_sectors - at)
		most = model.nr_sectors - at;
	io->offset_bytes = at * SECTOR;
	io->len_bytes = (below(&l->seed, (unsigned)most) + 1) * SECTOR;
}

static void load_stamp(struct load_io *lio)
{
	struct ub_io *io = &lio->cio.io;

	for (uint64_t i = 0; i < io->len_bytes / sizeof(uint64_t); i++)
		((uint64_t *)(void *)lio->buf)[i] =
			stamp(lio->id, io->offset_bytes / SECTOR + i / WORDS);
}

static void load_begin(struct load *l, unsigned slot)
{
	struct load_io *lio = &l->ios[slot];
	struct ub_io *io = &lio->cio.io;
	uint64_t first;

	lio->cio = (struct core_io){ .io = { .slot = (uint16_t)slot } };
	io->op = (uint8_t)load_choose_op(l);
	load_choose_range(l, io);
	if (io->op == UB_OP_WRITE_ZEROES && below(&l->seed, 2))
		io->flags = UB_NOUNMAP;
	if (io->op == UB_OP_WRITE && below(&l->seed, 8) == 0)
		io->flags = UB_FUA;
	if (io->op == UB_OP_READ || io->op == UB_OP_WRITE)
		io->buf = lio->buf;
	first = io->offset_bytes / SECTOR;
	pthread_mutex_lock(&model.lock);
	lio->begun = ++model.tick;
	if (io->op == UB_OP_WRITE)
		lio->id = model.next_id++;
	for (uint64_t i = 0; i < io->len_bytes / SECTOR; i++) {
		lio->floors[i] = model.floors[first + i];
		model.nr_zeroing[first + i] +=
			io->op == UB_OP_WRITE_ZEROES || io->op == UB_OP_DISCARD;
	}
	pthread_mutex_unlock(&model.lock);
	if (io->op == UB_OP_WRITE)
		load_stamp(lio);
	lio->is_running = true;
	core_start_io(&w.core, l->qid, &lio->cio);
}

static void load_note_sector(struct load_io *lio, uint64_t i)
{
	const struct ub_io *io = &lio->cio.io;
	uint64_t sector = io->offset_bytes / SECTOR + i;

	if (io->op == UB_OP_READ) {
		model_check_sector(lio->buf + i * SECTOR, sector, lio->floors[i]);
		return;
	}
	if (io->op != UB_OP_WRITE) {
		model.nr_zeroing[sector]--;
		model.zeroed[sector] = model.tick;
	}
	if (io->op != UB_OP_DISCARD && model.floors[sector] < lio->begun)
		model.floors[sector] = lio->begun;
}

static void load_finish(struct load *l, unsigned slot)
{
	struct load_io *lio = &l->ios[slot];
	const struct ub_io *io = &lio->cio.io;
	bool is_done = core_wait_io(&w.core, &lio->cio, LONG_MS);

	lio->is_running = false;
	atomic_fetch_add(&load_nr_ios, 1);
	pthread_mutex_lock(&model.lock);
	model.tick++;
	if (!is_done || lio->cio.nr_done != 1) {
		model_say_wrong("an I/O that does not end", io->offset_bytes / SECTOR, io->op);
	} else if (io->result < 0) {
		if (!l->may_fail)
			model_say_wrong("an error", io->offset_bytes / SECTOR,
					(uint64_t)-io->result);
	} else {
		if (io->op == UB_OP_WRITE)
			model.acked[lio->id] = model.tick;
		for (uint64_t i = 0; i < io->len_bytes / SECTOR; i++)
			load_note_sector(lio, i);
	}
	pthread_mutex_unlock(&model.lock);
}

static bool load_goes_on(void)
{
	bool goes_on;

	pthread_mutex_lock(&model.lock);
	goes_on = !model.wrong[0] && model.next_id < MAX_IDS - MAX_QUEUES;
	pthread_mutex_unlock(&model.lock);
	return goes_on && !atomic_load(&load_stops);
}

static void *load_main(void *arg)
{
	struct load *l = arg;
	unsigned slot;

	for (slot = 0; load_goes_on(); slot = (slot + 1) % DEPTH) {
		if (l->ios[slot].is_running)
			load_finish(l, slot);
		pthread_rwlock_rdlock(&load_gate);
		if (!atomic_load(&load_stops))
			load_begin(l, slot);
		pthread_rwlock_unlock(&load_gate);
	}
	for (slot = 0; slot < DEPTH; slot++) {
		if (l->ios[slot].is_running)
			load_finish(l, slot);
	}
	return NULL;
}

static void load_start_with(uint64_t seed, bool may_fail, bool writes_only)
{
	atomic_store(&load_stops, false);
	for (unsigned i = 0; i < w.nr_queues; i++) {
		struct load *l = &loads[i];

		memset(l, 0, sizeof(*l));
		l->qid = i;
		l->seed = seed * MAX_QUEUES + i + 1;
		l->may_fail = may_fail;
		l->writes_only = writes_only;
		for (unsigned slot = 0; slot < DEPTH; slot++) {
			l->ios[slot].buf = malloc(LOAD_MAX_BYTES);
			assert_non_null(l->ios[slot].buf);
		}
		assert_int_equal(pthread_create(&l->thread, NULL, load_main, l), 0);
	}
}

static void load_start(uint64_t seed)
{
	load_start_with(seed, false, false);
}

static void load_stop(void)
{
	atomic_store(&load_stops, true);
	for (unsigned i = 0; i < w.nr_queues; i++) {
		pthread_join(loads[i].thread, NULL);
		for (unsigned slot = 0; slot < DEPTH; slot++)
			free(loads[i].ios[slot].buf);
	}
	if (model.wrong[0])
		fail_msg("%s", model.wrong);
}

/* ---- random load --------------------------------------------------------- */

static void choose_side(struct side *s, uint64_t *seed)
{
	static const unsigned delays[] = { 0, 0, 200, 1500 };
	static const uint32_t max_ios[] = {
		4096, 32768, 65536, 100 * 1024, LOAD_MAX_BYTES, 1 << 20
	};
	static const uint32_t max_zeroes[] = { 4096, 65536, 1 << 20, 32 << 20 };

	s->seed = unit_random(seed) | 1;
	s->delay_us = delays[below(seed, UB_ARRAY_SIZE(delays))];
	s->status = (enum side_status)below(seed, 3);
	s->is_odd = below(seed, 2);
	if (below(seed, 4) == 0)
		s->nr_told = below(seed, 20);
	s->limits.max_io_bytes = max_ios[below(seed, UB_ARRAY_SIZE(max_ios))];
	s->limits.max_zeroes_bytes = max_zeroes[below(seed, UB_ARRAY_SIZE(max_zeroes))];
}

static void choose_world(uint64_t *seed)
{
	static const uint64_t sizes[] = { SECTOR,  9ULL * SECTOR,	   (64 << 10) + SECTOR,
					  1 << 20, (1 << 20) + 3 * SECTOR, (5 << 20) + SECTOR };

	world_init(sizes[below(seed, UB_ARRAY_SIZE(sizes))]);
	w.nr_queues = below(seed, MAX_QUEUES) + 1;
	choose_side(&w.source, seed);
	choose_side(&w.dest, seed);
	w.source.limits.max_zeroes_bytes = 1 << 20;
	w.dest.refuses_zeroes = below(seed, 4) == 0;
	if (below(seed, 4) == 0) {
		w.dest.limits.can_zero = 0;
		w.dest.limits.max_zeroes_bytes = 0;
	}
	if (below(seed, 2))
		fill(&w.dest, 0x5a);
}

static void disturb(uint64_t *seed)
{
	switch (below(seed, 4)) {
	case 0:
		SIDE_SET(&w.dest, out_until_ms, ub_now_ms() + below(seed, 100));
		break;
	case 1:
		ub_mirror_set_rate(&w.mirror_be, below(seed, 2) ? 1 << 20 : 0);
		break;
	default:
		break;
	}
}

static void run_random(uint64_t seed)
{
	uint64_t random = seed;

	choose_world(&random);
	model_init(&random);
	world_begin();
	load_start(unit_random(&random));
	for (unsigned i = below(&random, 4) + 1; i; i--) {
		sleep_ms(below(&random, 20));
		disturb(&random);
	}
	ub_mirror_set_rate(&w.mirror_be, 0);
	sleep_ms(below(&random, 50));
	load_stop();
	assert_in_step();
	assert_int_equal(ub_stat_read(&w.stats.dirty_bytes), 0);
	model_check_source();
	world_end();
	model_end();
}

static void random_load_ends_with_two_equal_sides_and_reads_what_was_written(void **state)
{
	const char *seed_text = getenv("UB_MIRROR_SEED"), *seconds = getenv("UB_MIRROR_SECONDS");
	uint64_t seed = seed_text ? strtoull(seed_text, NULL, 0) : 1;
	uint64_t until = ub_now_ms() + 1000 * (seconds ? strtoull(seconds, NULL, 0) : 6);
	unsigned nr = 0;

	(void)state;
	for (; ub_now_ms() < until; seed++, nr++) {
		/* Which one it was, if this is the last that is heard. */
		if (seconds)
			fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
		run_random(seed * 0x9e3779b97f4a7c15ULL | 1);
	}
	print_message("%u worlds, %llu I/Os\n", nr, (unsigned long long)atomic_load(&load_nr_ios));
}

/* A piece that the copier waits for must not be begun with twice, and none be forgotten. */
static void writes_to_one_cluster_from_several_queues_come_one_after_the_other(void **state)
{
	uint64_t seed = 5;

	(void)state;
	world_init(24ULL * SECTOR);
	w.nr_queues = MAX_QUEUES;
	model_init(&seed);
	world_begin();
	load_start(3);
	sleep_ms(700);
	load_stop();
	assert_in_step();
	model_check_source();
	world_end();
	model_end();
}

static void it_gets_in_step_while_everything_is_overwritten_all_the_time(void **state)
{
	uint64_t seed = 7;

	(void)state;
	world_init(8 << 20);
	w.nr_queues = 2;
	w.source.delay_us = w.dest.delay_us = 1000;
	model_init(&seed);
	world_begin();
	load_start_with(4, false, true);
	world_await(UB_MIRROR_IN_STEP);
	load_stop();
	assert_in_step();
	assert_true(ub_stat_read(&w.queue_stats[1].mirrored_bytes) > 0);
	world_end();
	model_end();
}

/* ---- out of step --------------------------------------------------------- */

static void an_outage_of_the_destination_is_not_the_application_s(void **state)
{
	uint64_t seed = 11;

	(void)state;
	world_init((6 << 20) + SECTOR);
	w.nr_queues = 2;
	w.source.delay_us = w.dest.delay_us = 300;
	model_init(&seed);
	world_begin();
	load_start(12);
	sleep_ms(20);
	SIDE_SET(&w.dest, out_until_ms, ub_now_ms() + 300);
	world_await(UB_MIRROR_OUT);
	sleep_ms(100);
	load_stop();
	assert_in_step();
	model_check_source();
	world_end();
	model_end();
}

static void what_is_missed_after_being_in_step_is_copied(void **state)
{
	(void)state;
	world_init(1 << 20);
	world_begin();
	for (unsigned i = 0; i < 3; i++) {
		assert_in_step();
		SIDE_SET(&w.dest, out_until_ms, ub_now_ms() + 400);
		assert_write(4096, 8192, (char)('a' + i));
		assert_int_equal(ub_mirror_state(&w.mirror_be), UB_MIRROR_OUT);
		if (i > 0)
			assert_write(512000, 512, (char)('a' + i));
		if (i > 1)
			assert_int_equal(io_run(UB_OP_WRITE_ZEROES, 0, 4096, NULL), 4096);
	}
	assert_in_step();
	world_end();
}

static void what_has_not_settled_is_waited_for(void **state)
{
	uint64_t start;

	(void)state;
	world_init(1 << 20);
	world_begin();
	assert_in_step();
	start = ub_now_ms();
	w.dest.settled_at_ms = start + 700;
	SIDE_SET(&w.dest, out_until_ms, start + 400);
	assert_write(0, 4096, 'x');
	assert_in_step();
	assert_true(ub_now_ms() - start >= 700);
	world_end();
}

static void a_write_ends_when_the_destination_is_too_late(void **state)
{
	static char buf[4096];
	struct core_io cio;
	uint64_t start, ms;

	(void)state;
	world_init(1 << 20);
	w.late_ms = 200;
	world_begin();
	assert_in_step();
	SIDE_SET(&w.dest, is_holding, true);
	start = ub_now_ms();
	io_start(&cio, UB_OP_WRITE, 0, 8192, sizeof(buf), buf);
	assert_true(core_wait_io(&w.core, &cio, LONG_MS));
	ms = ub_now_ms() - start;
	assert_int_equal(cio.io.result, sizeof(buf));
	assert_in_range(ms, 190, 2000);
	assert_in_step();
	assert_true(w.dest.nr_resets >= 1);
	world_end();
}

/* The copier's own piece is what the destination is late with, and the write waits for that. */
static void a_write_behind_the_copier_ends_when_the_destination_is_too_late(void **state)
{
	static char buf[4096];
	struct core_io cio;
	uint64_t start;

	(void)state;
	world_init(1 << 20);
	fill(&w.source, 's');
	w.late_ms = 200;
	w.dest.is_holding = true;
	world_begin();
	side_await_count(&w.dest, UB_OP_WRITE, 1);
	start = ub_now_ms();
	io_start(&cio, UB_OP_WRITE, 0, 0, sizeof(buf), buf);
	assert_true(core_wait_io(&w.core, &cio, 3000));
	assert_in_range(ub_now_ms() - start, 0, 2500);
	assert_int_equal(cio.io.result, sizeof(buf));
	assert_in_step();
	world_end();
}

static void the_copier_alone_has_time(void **state)
{
	(void)state;
	world_init(1 << 20);
	fill(&w.source, 's');
	w.late_ms = 50;
	w.dest.delay_us = 400000;
	world_begin();
	assert_in_step();
	assert_int_equal(w.dest.nr_resets, 0);
	world_end();
}

/* ---- errors -------------------------------------------------------------- */

static void fail_at(struct side *s, enum ub_op op, unsigned at, int code)
{
	pthread_mutex_lock(&s->lock);
	s->fail_op = op;
	s->fail_at = at;
	s->fail_errno = code;
	pthread_mutex_unlock(&s->lock);
}

static void a_full_destination_ends_it_and_the_application_does_not_notice(void **state)
{
	uint64_t seed = 21;

	(void)state;
	for (unsigned at = 1; at < 40; at += 6) {
		world_init(3 << 20);
		w.nr_queues = 2;
		w.dest.delay_us = 300;
		model_init(&seed);
		fail_at(&w.dest, UB_OP_WRITE, at, ENOSPC);
		world_begin();
		load_start(at);
		assert_failed_with(ENOSPC, false);
		sleep_ms(5);
		load_stop();
		model_check_source();
		world_end();
		model_end();
	}
}

static void a_source_that_cannot_be_read_ends_it(void **state)
{
	(void)state;
	world_init(4 << 20);
	fill(&w.source, 's');
	fail_at(&w.source, UB_OP_READ, 3, EIO);
	world_begin();
	assert_failed_with(EIO, true);
	assert_write(0, 4096, 'x');
	world_end();
}

static void a_write_that_the_source_refuses_fails_and_is_copied_again(void **state)
{
	static char buf[128 << 10];

	(void)state;
	world_init(1 << 20);
	fill(&w.source, 's');
	world_begin();
	assert_in_step();
	memset(buf, 'n', sizeof(buf));
	fail_at(&w.source, UB_OP_WRITE, 1, EIO);
	assert_int_equal(io_run(UB_OP_WRITE, 4096, sizeof(buf), buf), -EIO);
	assert_in_step();
	assert_int_equal(w.source.data[4096], 's');
	world_end();
}

static void one_that_refuses_both_looks_is_read(void **state)
{
	(void)state;
	for (unsigned told = 0; told < 5; told++) {
		world_init(4 << 20);
		w.source.status = w.dest.status = STATUS_TOLD;
		w.source.nr_told = told;
		fill(&w.dest, 'd');
		world_begin();
		assert_in_step();
		world_end();
	}
}

/* ---- the end ------------------------------------------------------------- */

static void it_stops_in_the_midst_of_everything(void **state)
{
	uint64_t seed = 31;

	(void)state;
	for (unsigned i = 0; i < 12; i++) {
		world_init(2 << 20);
		w.nr_queues = i % MAX_QUEUES + 1;
		w.source.status = (enum side_status)(i % 3);
		w.dest.status = (enum side_status)(i / 3 % 3);
		w.source.delay_us = w.dest.delay_us = 800;
		w.dest.is_stuck = i % 4 == 3;
		w.dest.refuses_zeroes = i % 2;
		model_init(&seed);
		world_begin();
		load_start(i);
		sleep_ms(i * 2);
		ub_mirror_stop(&w.mirror_be);
		world_await(UB_MIRROR_STOPPED);
		SIDE_SET(&w.dest, is_forbidden, true);
		sleep_ms(15);
		load_stop();
		model_check_source();
		world_take_out();
		model_end();
	}
}

/* What comes back refused once it is over is not tried in other words. */
static void nothing_is_sent_again_to_a_destination_that_was_let_go(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 20; i++) {
		world_init(1 << 20);
		w.dest.refuses_zeroes = true;
		w.dest.status = i % 2 ? STATUS_UNSUPPORTED : STATUS_NONE;
		w.source.status = STATUS_TOLD;
		w.dest.delay_us = 3000;
		world_begin();
		sleep_ms(i % 5);
		world_end();
	}
}

static void a_move_is_over_without_a_stop(void **state)
{
	(void)state;
	world_init(1 << 20);
	w.late_ms = 50;
	world_begin();
	assert_write(0, 4096, 'x');
	assert_in_step();
	core_swap(&w.core, w.dest_bqs);
	core_leave(&w.core, w.mirror_bqs);
	assert_write(8192, 4096, 'y');
	assert_int_equal(w.dest.data[8192], 'y');
	assert_int_equal(w.source.data[8192], 0);
	world_take_out();
}

static void all_ends_when_it_is_cancelled(void **state)
{
	uint64_t seed = 41;

	(void)state;
	for (unsigned i = 0; i < 24; i++) {
		world_init(i & 4 ? 16 * SECTOR : 1 << 20);
		w.nr_queues = i % MAX_QUEUES + 1;
		w.source.delay_us = w.dest.delay_us = 500;
		model_init(&seed);
		world_begin();
		load_start_with(i, true, false);
		sleep_ms(5);
		SIDE_SET(i % 2 ? &w.source : &w.dest, is_stuck, true);
		sleep_ms(i % 4 * 4);
		/* As the core, which lets no more I/O come then. */
		pthread_rwlock_wrlock(&load_gate);
		atomic_store(&load_stops, true);
		pthread_rwlock_unlock(&load_gate);
		core_cancel(&w.core, -EIO);
		load_stop();
		world_end();
		model_end();
	}
}

/* ---- flush --------------------------------------------------------------- */

static int flush(void)
{
	struct pollfd fd = { .fd = w.event_fd, .events = POLLIN };
	eventfd_t ignored;

	ub_mirror_flush(&w.mirror_be);
	while (ub_mirror_flushed(&w.mirror_be) == 0) {
		assert_int_equal(poll(&fd, 1, LONG_MS), 1);
		eventfd_read(w.event_fd, &ignored);
	}
	return ub_mirror_flushed(&w.mirror_be);
}

/* Its server dies, and what the next one has of these bytes is something else. */
static void lose(uint64_t start, uint64_t end)
{
	pthread_mutex_lock(&w.dest.lock);
	memset(w.dest.data + start, 'x', end - start);
	pthread_mutex_unlock(&w.dest.lock);
	atomic_fetch_add(&w.dest.nr_losses, 1);
}

static void what_a_lost_server_had_not_flushed_is_copied_again(void **state)
{
	static char buf[4096] = "news";
	unsigned nr;

	(void)state;
	world_init(1 << 20);
	fill(&w.source, 'a');
	world_begin();
	assert_in_step();
	lose(0, 1 << 20);
	assert_int_equal(flush(), -EAGAIN); /* with that it is noticed */
	assert_in_step();
	assert_int_equal(flush(), 1);
	/* From now on only what is written since. */
	nr = side_count(&w.dest, UB_OP_WRITE);
	assert_int_equal(io_run(UB_OP_WRITE, 300 << 10, sizeof(buf), buf), sizeof(buf));
	lose(300 << 10, (300 << 10) + sizeof(buf));
	assert_int_equal(flush(), -EAGAIN);
	assert_in_step();
	assert_in_range(side_count(&w.dest, UB_OP_WRITE) - nr, 2, 3);
	world_end();
}

static void a_flush_reaches_the_sides_that_can(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		world_init(1 << 20);
		w.source.limits.can_flush = i & 1;
		w.dest.limits.can_flush = i >> 1;
		world_begin();
		assert_in_step();
		assert_int_equal(flush(), 1);
		assert_int_equal(side_count(&w.source, UB_OP_FLUSH), i & 1);
		assert_int_equal(side_count(&w.dest, UB_OP_FLUSH), i >> 1);
		assert_int_equal(flush(), 1);
		assert_int_equal(ub_mirror_state(&w.mirror_be), UB_MIRROR_IN_STEP);
		world_end();
	}
}

static void a_flush_that_the_destination_does_not_answer_is_an_outage(void **state)
{
	(void)state;
	world_init(1 << 20);
	world_begin();
	assert_in_step();
	SIDE_SET(&w.dest, out_until_ms, ub_now_ms() + 400);
	assert_int_equal(flush(), -ENOLINK);
	assert_int_equal(ub_mirror_state(&w.mirror_be), UB_MIRROR_OUT);
	assert_in_step();
	assert_int_equal(flush(), 1);
	world_end();
}

static void a_flush_that_fails_ends_it(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		world_init(1 << 20);
		world_begin();
		assert_in_step();
		fail_at(i ? &w.source : &w.dest, UB_OP_FLUSH, 1, EIO);
		assert_int_equal(flush(), -EIO);
		assert_failed_with(EIO, i);
		world_end();
	}
}

static void the_application_s_flush_is_the_source_s(void **state)
{
	(void)state;
	world_init(1 << 20);
	world_begin();
	assert_in_step();
	assert_int_equal(io_run(UB_OP_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(side_count(&w.source, UB_OP_FLUSH), 1);
	assert_int_equal(side_count(&w.dest, UB_OP_FLUSH), 0);
	world_end();
}

/* ---- zeroes -------------------------------------------------------------- */

static void what_is_zero_on_both_sides_is_left_alone(void **state)
{
	(void)state;
	world_init((40 << 20) + SECTOR);
	w.source.status = w.dest.status = STATUS_TOLD;
	world_begin();
	assert_in_step();
	assert_int_equal(side_count(&w.source, UB_OP_READ), 0);
	assert_int_equal(side_count(&w.dest, UB_OP_WRITE), 0);
	assert_int_equal(side_count(&w.dest, UB_OP_WRITE_ZEROES), 0);
	assert_int_equal(ub_stat_read(&w.stats.zeroed_bytes), (40 << 20) + SECTOR);
	assert_int_equal(ub_stat_read(&w.stats.copied_bytes), 0);
	world_end();
}

static void data_of_zeroes_goes_over_as_zeroes(void **state)
{
	(void)state;
	world_init((2 << 20) + SECTOR);
	fill(&w.dest, 'd');
	world_begin();
	assert_in_step();
	assert_int_equal(side_count(&w.dest, UB_OP_WRITE), 0);
	assert_true(side_count(&w.dest, UB_OP_WRITE_ZEROES) > 0);
	assert_int_equal(ub_stat_read(&w.stats.zeroed_bytes), (2 << 20) + SECTOR);
	world_end();
}

static void a_destination_that_cannot_zero_is_written_to(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		world_init((2 << 20) + SECTOR);
		w.source.status = i & 1 ? STATUS_TOLD : STATUS_NONE;
		if (i & 2)
			w.dest.refuses_zeroes = true;
		else
			w.dest.limits.can_zero = w.dest.limits.max_zeroes_bytes = 0;
		fill(&w.dest, 'd');
		world_begin();
		assert_in_step();
		assert_true(side_count(&w.dest, UB_OP_WRITE) > 0);
		assert_int_equal(io_run(UB_OP_WRITE_ZEROES, 4096, 8192, NULL), 8192);
		assert_in_step();
		assert_int_equal(ub_stat_read(&w.stats.copied_bytes), 0);
		world_end();
	}
}

static void a_destination_that_zeroes_little_at_once_is_asked_for_no_more(void **state)
{
	(void)state;
	for (uint32_t most = SECTOR; most <= 128 << 10; most *= 2) {
		world_init((1 << 20) + SECTOR);
		w.source.status = STATUS_TOLD;
		w.dest.limits.max_zeroes_bytes = most;
		fill(&w.dest, 'd');
		world_begin();
		assert_in_step();
		world_end();
	}
}

/* From the beginning to the end: the rest of what was looked at comes next. */
static void extents_are_copied_in_their_order(void **state)
{
	(void)state;
	world_init(144 << 20);
	for (uint64_t at = 0; at < 8 << 20; at += 2 << 20) {
		memset(w.source.data + at, 's', 1 << 20);
		memset(w.source.data + at + (130 << 20), 's', 1 << 20);
	}
	w.source.status = w.dest.status = STATUS_TOLD;
	world_begin();
	world_await(UB_MIRROR_IN_STEP);
	assert_int_equal(ub_stat_read(&w.stats.copied_bytes), 8 << 20);
	assert_int_equal(w.dest.nr_back, 0);
	world_end();
}

/* ---- the rate ------------------------------------------------------------ */

static void the_rate_is_kept_to(void **state)
{
	uint64_t start;

	(void)state;
	world_init(4 << 20);
	fill(&w.source, 's');
	w.rate_bytes = 4 << 20;
	start = ub_now_ms();
	world_begin();
	assert_in_step();
	assert_in_range(ub_now_ms() - start, 700, 8000);
	world_end();
}

static void the_rate_counts_for_zeroes_that_are_written(void **state)
{
	uint64_t start;

	(void)state;
	world_init(4 << 20);
	w.source.status = STATUS_TOLD;
	w.dest.limits.can_zero = w.dest.limits.max_zeroes_bytes = 0;
	w.rate_bytes = 4 << 20;
	start = ub_now_ms();
	world_begin();
	assert_in_step();
	assert_in_range(ub_now_ms() - start, 700, 8000);
	world_end();
}

static void a_higher_rate_counts_at_once(void **state)
{
	(void)state;
	world_init(4 << 20);
	fill(&w.source, 's');
	w.rate_bytes = 1;
	world_begin();
	side_await_count(&w.dest, UB_OP_WRITE, 1);
	ub_mirror_set_rate(&w.mirror_be, 1 << 30);
	assert_true(world_reaches(UB_MIRROR_IN_STEP, 3000));
	assert_in_step();
	world_end();
}

/* ---- beside an application ----------------------------------------------- */

/* It asks for nothing, for it waits for all that it has asked for. */
static void it_is_gentle_while_the_application_waits(void **state)
{
	_Atomic uint64_t *in_flight = &w.queue_stats[MAX_QUEUES - 1].in_flight;

	(void)state;
	world_init(8 << 20);
	w.nr_queues = MAX_QUEUES;
	fill(&w.source, 's');
	w.source.delay_us = 1000;
	ub_stat_set(in_flight, 1);
	world_begin();
	side_await_count(&w.dest, UB_OP_WRITE, 50);
	pthread_mutex_lock(&w.source.lock);
	assert_int_equal(w.source.longest_bytes, 16 << 10);
	assert_int_equal(w.source.most_pending, 1);
	pthread_mutex_unlock(&w.source.lock);
	ub_stat_set(in_flight, 0);
	assert_in_step();
	assert_int_equal(w.source.longest_bytes, LOAD_MAX_BYTES);
	assert_true(w.source.most_pending > 1);
	world_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_zero_on_both_sides_is_left_alone),
		cmocka_unit_test(data_of_zeroes_goes_over_as_zeroes),
		cmocka_unit_test(a_destination_that_cannot_zero_is_written_to),
		cmocka_unit_test(a_destination_that_zeroes_little_at_once_is_asked_for_no_more),
		cmocka_unit_test(extents_are_copied_in_their_order),
		cmocka_unit_test(the_rate_is_kept_to),
		cmocka_unit_test(the_rate_counts_for_zeroes_that_are_written),
		cmocka_unit_test(a_higher_rate_counts_at_once),
		cmocka_unit_test(it_is_gentle_while_the_application_waits),
		cmocka_unit_test(what_a_lost_server_had_not_flushed_is_copied_again),
		cmocka_unit_test(a_flush_reaches_the_sides_that_can),
		cmocka_unit_test(a_flush_that_the_destination_does_not_answer_is_an_outage),
		cmocka_unit_test(a_flush_that_fails_ends_it),
		cmocka_unit_test(the_application_s_flush_is_the_source_s),
		cmocka_unit_test(a_full_destination_ends_it_and_the_application_does_not_notice),
		cmocka_unit_test(a_source_that_cannot_be_read_ends_it),
		cmocka_unit_test(a_write_that_the_source_refuses_fails_and_is_copied_again),
		cmocka_unit_test(one_that_refuses_both_looks_is_read),
		cmocka_unit_test(what_is_missed_after_being_in_step_is_copied),
		cmocka_unit_test(what_has_not_settled_is_waited_for),
		cmocka_unit_test(a_write_ends_when_the_destination_is_too_late),
		cmocka_unit_test(a_write_behind_the_copier_ends_when_the_destination_is_too_late),
		cmocka_unit_test(the_copier_alone_has_time),
		cmocka_unit_test(an_outage_of_the_destination_is_not_the_application_s),
		cmocka_unit_test(it_stops_in_the_midst_of_everything),
		cmocka_unit_test(nothing_is_sent_again_to_a_destination_that_was_let_go),
		cmocka_unit_test(a_move_is_over_without_a_stop),
		cmocka_unit_test(all_ends_when_it_is_cancelled),
		cmocka_unit_test(
			writes_to_one_cluster_from_several_queues_come_one_after_the_other),
		cmocka_unit_test(it_gets_in_step_while_everything_is_overwritten_all_the_time),
		cmocka_unit_test(random_load_ends_with_two_equal_sides_and_reads_what_was_written),
	};

	cmocka_set_test_filter(getenv("UB_MIRROR_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
