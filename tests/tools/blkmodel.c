/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Holds a block device against a model in memory: random reads, writes, discards and writes of
 * zeroes of every kind that Linux offers, each read compared byte for byte, everything compared at
 * the end.
 *
 *   blkmodel [--seed N] [--ops N] [--threads N] [--max-io BYTES] [--offset BYTES] [--span BYTES]
 *            [--discard page|keep|0xBYTE] [--buffered] [--sweep all|some] DEVICE
 *
 *   --seed      printed, so that a failure can be had again (exactly so with one thread)
 *   --threads   each with a slice of its own; slices meet within pages
 *   --offset, --span   the part of the device that is used (default: all of it); it is overwritten
 *   --discard   what a discard leaves: whole pages of zeroes, and the rest keeps its data (page,
 *               what the memory back end does), everything keeps its data (keep), or bytes of this
 *               value
 *   --buffered  through the page cache and a mapping too; one thread only
 *   --sweep all|some
 *               first, every size from a block to max-io (or those to 64 KiB, some of the larger
 *               ones, and max-io) at a random place, written and read back with the blocks around
 *               it
 *
 * Exit status: 0 the device did what the model did, 1 it did not (what and where is said), 2 usage.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES	4096U
#define MAX_THREADS	64
#define MAX_PARTS	4
#define HISTORY		4096 /* operations remembered by each thread */
#define SWEEP_ALL_BYTES 65536U
#define SWEEP_STEP	37 /* blocks */
#define TELL_HISTORY	12

enum op { READ_IO, WRITE_IO, DISCARD, ZERO_KEEP, ZERO_PUNCH, ZERO_RANGE, SYNC, NR_OPS };

static const char *const op_names[] = { "read",	      "write",	    "discard", "zeroout",
					"punch-hole", "zero-range", "sync" };

enum way { DIRECT, BUFFERED, MAPPED, NR_WAYS };

static const char *const way_names[] = { "direct", "buffered", "mapped" };

struct done {
	enum op op;
	enum way way;
	uint64_t at, len;
};

static struct {
	const char *path;
	int direct_fd, buffered_fd;
	char *map;	/* --buffered: the whole device */
	uint8_t *model; /* of [offset, offset + span) */
	uint64_t size, offset, span;
	uint32_t block, dma_align;
	uint64_t seed, nr_ops, max_io;
	unsigned nr_threads;
	int discard; /* -1: whole pages, -2: keeps, else the byte */
	bool buffered, sweep, sweep_all;
} g = { .nr_ops = 2000, .max_io = 1 << 20, .nr_threads = 1, .discard = -1 };

struct worker {
	pthread_t thread;
	unsigned index;
	uint64_t rng;
	uint64_t start, end; /* its slice, relative to g.offset */
	uint8_t *buf, *got;  /* max_io and some pages each */
	bool dirty; /* the page cache may know something newer, or older, than the device */
	uint64_t nr_done;
	struct done history[HISTORY];
	uint64_t counts[NR_OPS];
};

/* ---- chance -------------------------------------------------------------- */

static uint64_t next_random(struct worker *w)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return w->rng;
}

static uint64_t below(struct worker *w, uint64_t limit)
{
	return next_random(w) % limit;
}

/* Words that say where they were meant to go, and which operation wrote them. */
static void fill(struct worker *w, uint8_t *buf, uint64_t at, uint64_t len)
{
	uint64_t word = next_random(w) & ~0xffffffULL;

	for (uint64_t i = 0; i < len; i += sizeof(word)) {
		uint64_t value = word ^ (at + i);

		memcpy(buf + i, &value, sizeof(value));
	}
}

/* ---- telling ------------------------------------------------------------- */

static void tell_history(const struct worker *w, uint64_t at)
{
	unsigned told = 0;

	for (uint64_t n = w->nr_done; n > 0 && w->nr_done - n < HISTORY && told < TELL_HISTORY;
	     n--) {
		const struct done *d = &w->history[(n - 1) % HISTORY];

		if (d->op != SYNC && (at < d->at || at >= d->at + d->len))
			continue;
		fprintf(stderr, "blkmodel:   operation %llu: %s %s at %llu, %llu bytes\n",
			(unsigned long long)n, way_names[d->way], op_names[d->op],
			(unsigned long long)(g.offset + d->at), (unsigned long long)d->len);
		told++;
	}
}

static _Noreturn void broken(const struct worker *w, uint64_t at, const char *what, unsigned want,
			     unsigned got)
{
	fprintf(stderr,
		"blkmodel: %s: %s: byte %llu is 0x%02x, the model has 0x%02x (seed %llu, thread "
		"%u, after %llu "
		"operations); what touched it, the last first:\n",
		g.path, what, (unsigned long long)(g.offset + at), got, want,
		(unsigned long long)g.seed, w->index, (unsigned long long)w->nr_done);
	tell_history(w, at);
	exit(1);
}

static _Noreturn void failed(const struct worker *w, const struct done *d, const char *call)
{
	fprintf(stderr,
		"blkmodel: %s: %s %s (%s) at %llu, %llu bytes: %s (seed %llu, thread %u, operation "
		"%llu)\n",
		g.path, way_names[d->way], op_names[d->op], call,
		(unsigned long long)(g.offset + d->at), (unsigned long long)d->len, strerror(errno),
		(unsigned long long)g.seed, w->index, (unsigned long long)w->nr_done);
	exit(1);
}

static void compare(const struct worker *w, const uint8_t *got, const struct done *d)
{
	const uint8_t *want = g.model + d->at;
	char what[64];

	if (memcmp(got, want, d->len) == 0)
		return;
	snprintf(what, sizeof(what), "%s %s at %llu+%llu", way_names[d->way], op_names[d->op],
		 (unsigned long long)(g.offset + d->at), (unsigned long long)d->len);
	for (uint64_t i = 0; i < d->len; i++) {
		if (got[i] != want[i])
			broken(w, d->at + i, what, want[i], got[i]);
	}
}

/* ---- operations ---------------------------------------------------------- */

/*
 * Before the device is looked at past the page cache: what is there is written back, then
 * forgotten.
 */
static void settle(struct worker *w, const struct done *d)
{
	if (!w->dirty)
		return;
	if (g.map && msync(g.map, g.size, MS_SYNC) < 0)
		failed(w, d, "msync");
	if (fsync(g.buffered_fd) < 0)
		failed(w, d, "fsync");
	if (g.map && madvise(g.map, g.size, MADV_DONTNEED) < 0)
		failed(w, d, "madvise");
	if (ioctl(g.buffered_fd, BLKFLSBUF, 0) < 0)
		failed(w, d, "BLKFLSBUF");
	w->dirty = false;
}

/* Splits buf into some parts, on the device's blocks; the buffer starts at odd places. */
static int split(struct worker *w, uint8_t *buf, uint64_t len, struct iovec *iov)
{
	uint64_t blocks = len / g.block;
	int n = 0;

	while (n < MAX_PARTS - 1 && blocks > 1 && below(w, 3) == 0) {
		uint64_t part = 1 + below(w, blocks - 1);

		iov[n++] = (struct iovec){ .iov_base = buf, .iov_len = part * g.block };
		buf += part * g.block;
		blocks -= part;
	}
	iov[n++] = (struct iovec){ .iov_base = buf, .iov_len = blocks * g.block };
	return n;
}

static uint8_t *odd_place(struct worker *w, uint8_t *buf)
{
	return buf + below(w, PAGE_BYTES / g.dma_align) * g.dma_align;
}

static void transfer_direct(struct worker *w, const struct done *d, uint8_t *buf)
{
	struct iovec iov[MAX_PARTS];
	int n = split(w, buf, d->len, iov);
	off_t at = (off_t)(g.offset + d->at);
	ssize_t ret;

	settle(w, d);
	if (d->op == READ_IO)
		ret = preadv(g.direct_fd, iov, n, at);
	else
		ret = pwritev2(g.direct_fd, iov, n, at, below(w, 8) == 0 ? RWF_DSYNC : 0);
	if (ret >= 0 && (uint64_t)ret != d->len)
		errno = EIO; /* a short count of a block device */
	if (ret < 0 || (uint64_t)ret != d->len)
		failed(w, d, d->op == READ_IO ? "preadv" : "pwritev2");
}

static void transfer_cached(struct worker *w, const struct done *d, uint8_t *buf)
{
	off_t at = (off_t)(g.offset + d->at);
	ssize_t ret = (ssize_t)d->len;

	w->dirty = true;
	if (d->way == MAPPED && d->op == READ_IO)
		memcpy(buf, g.map + at, d->len);
	else if (d->way == MAPPED)
		memcpy(g.map + at, buf, d->len);
	else if (d->op == READ_IO)
		ret = pread(g.buffered_fd, buf, d->len, at);
	else
		ret = pwrite(g.buffered_fd, buf, d->len, at);
	if (ret != (ssize_t)d->len)
		failed(w, d, "through the page cache");
}

static void transfer(struct worker *w, const struct done *d)
{
	uint8_t *buf = odd_place(w, d->op == READ_IO ? w->got : w->buf);

	if (d->op == READ_IO)
		memset(buf, 0xa5, d->len);
	else
		fill(w, buf, d->at, d->len);
	if (d->way == DIRECT)
		transfer_direct(w, d, buf);
	else
		transfer_cached(w, d, buf);
	if (d->op == READ_IO)
		compare(w, buf, d);
	else
		memcpy(g.model + d->at, buf, d->len);
}

static void model_discard(const struct done *d)
{
	uint64_t start = g.offset + d->at, end = start + d->len;

	if (g.discard == -2)
		return;
	if (g.discard == -1) {
		start = (start + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
		end &= ~(uint64_t)(PAGE_BYTES - 1);
	}
	if (start < end)
		memset(g.model + (start - g.offset), g.discard < 0 ? 0 : g.discard, end - start);
}

/* Discards and writes of zeroes. True if the device has no such thing, and nothing was done. */
static bool unmap(struct worker *w, const struct done *d)
{
	uint64_t range[2] = { g.offset + d->at, d->len };
	const char *call = "fallocate";
	int ret;

	w->dirty =
		/* the kernel zeroes the cached part of a page, whatever the device did */
		g.buffered;
	settle(w, d);
	w->dirty = g.buffered;
	if (d->op == DISCARD || d->op == ZERO_KEEP) {
		call = d->op == DISCARD ? "BLKDISCARD" : "BLKZEROOUT";
		ret = ioctl(g.buffered_fd, d->op == DISCARD ? BLKDISCARD : BLKZEROOUT, range);
	} else {
		int mode = d->op == ZERO_PUNCH ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE :
			   below(w, 2)	       ? FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE :
						 FALLOC_FL_ZERO_RANGE;

		ret = fallocate(g.buffered_fd, mode, (off_t)range[0], (off_t)range[1]);
	}
	if (ret < 0 && errno == EOPNOTSUPP && (d->op == DISCARD || d->op == ZERO_PUNCH))
		return true;
	if (ret < 0)
		failed(w, d, call);
	if (d->op == DISCARD)
		model_discard(d);
	else
		memset(g.model + d->at, 0, d->len);
	return false;
}

static void run_op(struct worker *w, const struct done *d)
{
	w->history[w->nr_done++ % HISTORY] = *d;
	w->counts[d->op]++;
	if (d->op == SYNC) {
		if (fsync(g.buffered_fd) < 0)
			failed(w, d, "fsync");
	} else if (d->op <= WRITE_IO) {
		transfer(w, d);
	} else if (unmap(w, d)) {
		w->counts[d->op]--;
	}
}

/* Mostly small ones, now and then the largest; whole pages as often as not. */
static void choose_range(struct worker *w, struct done *d)
{
	uint64_t slice = (w->end - w->start) / g.block, most = g.max_io / g.block, blocks;

	most = most < slice ? most : slice;
	blocks = below(w, 4) == 0 ? most : 1 + most / (1U << below(w, 8));
	blocks = 1 + below(w, blocks < most ? blocks : most);
	d->len = blocks * g.block;
	d->at = w->start + below(w, slice - blocks + 1) * g.block;
	if (below(w, 2) == 0 && d->len >= PAGE_BYTES) {
		uint64_t past = (g.offset + d->at) % PAGE_BYTES;

		d->len -= d->len % PAGE_BYTES;
		if (past && d->at - w->start >= past)
			d->at -= past;
	}
}

static void choose(struct worker *w, struct done *d)
{
	static const enum op chances[] = { READ_IO,  READ_IO,	READ_IO,    READ_IO,
					   READ_IO,  READ_IO,	WRITE_IO,   WRITE_IO,
					   WRITE_IO, WRITE_IO,	WRITE_IO,   DISCARD,
					   DISCARD,  ZERO_KEEP, ZERO_PUNCH, ZERO_RANGE };

	*d = (struct done){ .op = chances[below(w, sizeof(chances) / sizeof(chances[0]))] };
	if (below(w, 40) == 0)
		d->op = SYNC;
	choose_range(w, d);
	if (g.buffered && d->op <= WRITE_IO)
		d->way = below(w, NR_WAYS);
}

static void sweep_size(struct worker *w, uint64_t len)
{
	uint64_t before, after, slice = w->end - w->start;
	struct done d = { .op = WRITE_IO, .len = len };

	d.at = w->start + below(w, (slice - len) / g.block + 1) * g.block;
	run_op(w, &d);
	before = d.at > w->start ? g.block : 0;
	after = d.at + len < w->end ? g.block : 0;
	d = (struct done){ .op = READ_IO, .at = d.at - before, .len = len + before + after };
	run_op(w, &d);
}

static void run_sweep(struct worker *w)
{
	uint64_t slice = w->end - w->start, len = g.block;
	uint64_t most = g.max_io < slice ? g.max_io : slice;

	while (len < most) {
		sweep_size(w, len);
		len += g.sweep_all || len < SWEEP_ALL_BYTES ? g.block : SWEEP_STEP * g.block;
	}
	sweep_size(w, most);
}

static void verify_all(struct worker *w, enum way way)
{
	struct done d = { .op = READ_IO, .way = way };

	for (uint64_t at = w->start; at < w->end; at += d.len) {
		d.at = at;
		d.len = w->end - at < g.max_io ? w->end - at : g.max_io;
		run_op(w, &d);
	}
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct done d;

	/* The model starts as the device is. */
	for (uint64_t at = w->start; at < w->end; at += d.len) {
		ssize_t ret;

		d = (struct done){ .op = READ_IO, .at = at, .len = w->end - at };
		d.len = d.len < g.max_io ? d.len : g.max_io;
		ret = pread(g.direct_fd, w->got, d.len, (off_t)(g.offset + at));
		if (ret != (ssize_t)d.len)
			failed(w, &d, "pread");
		memcpy(g.model + at, w->got, d.len);
	}
	if (g.sweep)
		run_sweep(w);
	for (uint64_t i = 0; i < g.nr_ops; i++) {
		choose(w, &d);
		run_op(w, &d);
	}
	if (g.buffered)
		verify_all(w, BUFFERED);
	verify_all(w, DIRECT);
	return NULL;
}

/* ---- setting up ---------------------------------------------------------- */

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "blkmodel: %s: %s: %s\n", g.path, what, strerror(errno));
	exit(2);
}

/* How direct I/O must be aligned in memory: the kernel's figure is a mask. */
static uint32_t read_dma_align(void)
{
	char path[96];
	struct stat st;
	unsigned mask = 511;
	FILE *file;

	if (fstat(g.direct_fd, &st) < 0)
		die("stat");
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/queue/dma_alignment", major(st.st_rdev),
		 minor(st.st_rdev));
	file = fopen(path, "re");
	if (file) {
		if (fscanf(file, "%u", &mask) != 1)
			mask = 511;
		fclose(file);
	}
	return mask + 1 < 8 ? 8 : mask + 1;
}

static void open_device(void)
{
	int block;

	g.direct_fd = open(g.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	g.buffered_fd = open(g.path, O_RDWR | O_CLOEXEC);
	if (g.direct_fd < 0 || g.buffered_fd < 0)
		die("open");
	if (ioctl(g.direct_fd, BLKGETSIZE64, &g.size) < 0 ||
	    ioctl(g.direct_fd, BLKSSZGET, &block) < 0)
		die("its size");
	g.block = (uint32_t)block;
	g.dma_align = read_dma_align();
	if (!g.span)
		g.span = g.size - g.offset;
	errno = EINVAL;
	if (!g.span || g.offset % g.block || g.span % g.block || g.offset + g.span > g.size ||
	    g.max_io < g.block)
		die("the part to be used");
	g.model = malloc(g.span);
	if (!g.model)
		die("the model");
	if (!g.buffered)
		return;
	g.map = mmap(NULL, g.size, PROT_READ | PROT_WRITE, MAP_SHARED, g.buffered_fd, 0);
	if (g.map == MAP_FAILED)
		die("mmap");
}

static uint64_t size_arg(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 0);

	switch (*end) {
	case 'T':
		value <<= 10; /* fall through */
	case 'G':
		value <<= 10; /* fall through */
	case 'M':
		value <<= 10; /* fall through */
	case 'K':
		value <<= 10;
		end++;
		break;
	default:
		break;
	}
	if (*end || end == text) {
		fprintf(stderr, "blkmodel: '%s' is no number\n", text);
		exit(2);
	}
	return value;
}

static int discard_arg(const char *text)
{
	if (strcmp(text, "page") == 0)
		return -1;
	return strcmp(text, "keep") == 0 ? -2 : (int)(size_arg(text) & 0xff);
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", 1, NULL, 's' },    { "ops", 1, NULL, 'n' },
		{ "threads", 1, NULL, 't' }, { "max-io", 1, NULL, 'm' },
		{ "offset", 1, NULL, 'o' },  { "span", 1, NULL, 'l' },
		{ "discard", 1, NULL, 'd' }, { "buffered", 0, NULL, 'b' },
		{ "sweep", 1, NULL, 'w' },   { 0 },
	};
	struct timespec now;
	int c;

	clock_gettime(CLOCK_REALTIME, &now);
	g.seed = (uint64_t)now.tv_nsec;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's':
			g.seed = size_arg(optarg);
			break;
		case 'n':
			g.nr_ops = size_arg(optarg);
			break;
		case 't':
			g.nr_threads = (unsigned)size_arg(optarg);
			break;
		case 'm':
			g.max_io = size_arg(optarg);
			break;
		case 'o':
			g.offset = size_arg(optarg);
			break;
		case 'l':
			g.span = size_arg(optarg);
			break;
		case 'd':
			g.discard = discard_arg(optarg);
			break;
		case 'b':
			g.buffered = true;
			break;
		case 'w':
			g.sweep = true;
			g.sweep_all = strcmp(optarg, "all") == 0;
			break;
		default:
			exit(2);
		}
	}
	if (optind + 1 != argc || g.nr_threads < 1 || g.nr_threads > MAX_THREADS ||
	    (g.buffered && g.nr_threads > 1)) {
		fprintf(stderr, "usage: blkmodel [OPTIONS] DEVICE (see its source)\n");
		exit(2);
	}
	g.path = argv[optind];
}

static struct worker *make_workers(void)
{
	struct worker *workers = calloc(g.nr_threads, sizeof(*workers));
	uint64_t slice = g.span / g.block / g.nr_threads * g.block;

	for (unsigned i = 0; workers && i < g.nr_threads; i++) {
		struct worker *w = &workers[i];

		w->index = i;
		w->rng = (g.seed + i + 1) * 0x9e3779b97f4a7c15ULL | 1;
		w->start = i * slice;
		w->end = i + 1 < g.nr_threads ? w->start + slice : g.span;
		w->buf = aligned_alloc(PAGE_BYTES, (g.max_io / PAGE_BYTES + 4) * PAGE_BYTES);
		w->got = aligned_alloc(PAGE_BYTES, (g.max_io / PAGE_BYTES + 4) * PAGE_BYTES);
		if (!w->buf || !w->got || w->start == w->end)
			die("buffers");
	}
	if (!workers)
		die("threads");
	return workers;
}

int main(int argc, char **argv)
{
	uint64_t counts[NR_OPS] = { 0 };
	struct worker *workers;

	parse(argc, argv);
	fprintf(stderr, "blkmodel: %s: seed %llu\n", g.path, (unsigned long long)g.seed);
	open_device();
	workers = make_workers();
	for (unsigned i = 0; i < g.nr_threads; i++) {
		errno = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
		if (errno)
			die("threads");
	}
	for (unsigned i = 0; i < g.nr_threads; i++) {
		pthread_join(workers[i].thread, NULL);
		for (unsigned op = 0; op < NR_OPS; op++)
			counts[op] += workers[i].counts[op];
	}
	for (unsigned op = 0; op < NR_OPS; op++)
		printf("%s%s %llu", op ? ", " : "", op_names[op], (unsigned long long)counts[op]);
	printf("\n");
	return 0;
}
