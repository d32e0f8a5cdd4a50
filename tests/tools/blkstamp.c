/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Holds a block device to its word: threads write sectors that say what they are, read them back
 * while others write, and the first sector that should not be there ends the run. A journal
 * outlives the run.
 *
 *   blkstamp --journal FILE [--size BYTES] [--threads N] [--seconds N | --ops N] [--max-io SECTORS]
 *            [--zeroes PERCENT] [--whole] [--no-direct] [--seed N] DEVICE
 *   blkstamp --journal FILE --verify [--whole] [--no-direct] DEVICE
 *
 *   --journal   what was submitted, acknowledged and seen of each sector: made if it is not there,
 *               and gone on with otherwise; what the device holds is then checked first
 *   --size      the part that is used, from 0 on (default: all of it, or the journal's); it is
 *               overwritten
 *   --seconds   until then or SIGTERM or SIGINT; --ops N: so many operations of each thread
 *   --max-io    sectors of the largest one (default 64)
 *   --zeroes    so many of 100 writes are writes of zeroes (default 0). Discards promise nothing,
 *               and so there is nothing to be checked.
 *   --whole     a sector that is read while it is written must be the one or the other, not a
 *               mixture: so are disks, but not servers that copy from and to a file's page cache
 *   --verify    only checks: the device holds for each sector the newest acknowledged write, or one
 *               that was submitted after it
 *
 * A sector has one write in flight at the most: overlapping writes wait for each other, reads do
 * not. So its writes are numbered without a gap, 1, 2, …, and a sector is a register of one writer
 * at a time and many readers, whose history is right if each read returns a write that is
 *   - not older than the newest that was acknowledged before the read began,
 *   - not older than what another read had returned before this one began,
 *   - not newer than the newest that was submitted before the read ended.
 * Three numbers for each sector are enough to know. They are in shared memory with the journal's
 * file, and so right whenever the program is killed.
 *
 * It says "filled" when each sector was written once and the threads begin with what they are for.
 *
 * Exit status: 0 all was right, and a line of totals; 1 it was not (what, where, expected and found
 * are said), 2 usage.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SECTOR_BYTES	   512U
#define STAMP_WORDS	   (SECTOR_BYTES / 8)
#define STAMP_MAGIC	   0x706d6174736b6c62ULL /* "blkstamp" in a dump */
#define JOURNAL_MAGIC	   0x316c6e6a736b6c62ULL
#define JOURNAL_HEAD_BYTES 4096U
#define MAX_THREADS	   64
#define BUFFER_ALIGN	   4096U
#define SWEEP_SECTORS	   512UL /* of one I/O where all is written or read */
#define LOCK_SECTORS	   64U
#define HOT_SECTORS	   2048U /* half of the operations meet there */
#define FLUSH_EVERY	   64
#define DSYNC_EVERY	   8
#define TELL_MAX	   8 /* by --verify */

/* In memory that the journal's file is: one for each sector. Writes are numbered from 1. */
struct record {
	_Atomic uint32_t acked;	    /* the newest that was acknowledged */
	_Atomic uint32_t submitted; /* the newest that was sent */
	_Atomic uint32_t seen;	    /* the newest that a read has returned */
	_Atomic uint32_t zeroed;    /* the newest that was sent as a write of zeroes; 0: none */
};

struct journal {
	uint64_t magic, id, size_bytes;
};

/* A sector as it is written. */
struct stamp {
	uint64_t magic, offset_bytes, seq;
	uint64_t words[STAMP_WORDS - 4]; /* each with the journal, the place and the number in it */
	uint64_t checksum;
};

_Static_assert(sizeof(struct stamp) == SECTOR_BYTES, "a stamp fills a sector");

static struct {
	const char *path, *journal_path;
	int fd;
	struct journal *journal;
	struct record *records;
	uint64_t size_bytes, nr_sectors;
	uint32_t align_sectors; /* the device's block */
	bool is_block;
	uint64_t seconds, nr_ops, seed;
	uint64_t max_io;
	unsigned nr_threads, zeroes;
	bool no_direct, whole, verify, is_new;
	pthread_mutex_t *locks; /* one for LOCK_SECTORS: held by a write in flight */
	pthread_mutex_t tell_lock;
	pthread_barrier_t filled;
	_Atomic bool must_end;
	_Atomic unsigned nr_running;
	unsigned nr_told;
} g = { .max_io = 64, .nr_threads = 1, .tell_lock = PTHREAD_MUTEX_INITIALIZER };

struct totals {
	uint64_t reads, writes, zeroes, flushes, mixed, longest_us;
};

struct worker {
	pthread_t thread;
	unsigned index;
	uint64_t rng;
	uint64_t buf_sectors;
	uint8_t *buf;
	uint32_t *low; /* of each sector of a read: the oldest write that it may return */
	struct totals totals;
};

struct range {
	uint64_t first, nr;
};

/* ---- chance -------------------------------------------------------------- */

static uint64_t below(struct worker *w, uint64_t limit)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return (w->rng >> 11) % limit;
}

static bool one_of(struct worker *w, uint64_t nr)
{
	return below(w, nr) == 0;
}

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* ---- stamps -------------------------------------------------------------- */

static uint64_t stamp_checksum(const struct stamp *s)
{
	const uint64_t *word = (const uint64_t *)s;
	uint64_t sum = 0xcbf29ce484222325ULL;

	for (unsigned i = 0; i < STAMP_WORDS - 1; i++)
		sum = ((sum ^ word[i]) * 0x100000001b3ULL) ^ (sum >> 29);
	return sum;
}

static void stamp_make(struct stamp *s, uint64_t sector, uint32_t seq)
{
	uint64_t base = (g.journal->id ^ sector * 0x9e3779b97f4a7c15ULL) + ((uint64_t)seq << 32);

	s->magic = STAMP_MAGIC;
	s->offset_bytes = sector * SECTOR_BYTES;
	s->seq = seq;
	for (unsigned i = 0; i < STAMP_WORDS - 4; i++)
		s->words[i] = base + (uint32_t)(i * 0x01000193U);
	s->checksum = stamp_checksum(s);
}

static bool stamp_is(const struct stamp *got, uint64_t sector, uint32_t seq)
{
	struct stamp want;

	stamp_make(&want, sector, seq);
	return memcmp(got, &want, sizeof(want)) == 0;
}

static bool stamp_is_zero(const struct stamp *got)
{
	static const struct stamp zero;

	return memcmp(got, &zero, sizeof(zero)) == 0;
}

/*
 * Whether each byte is of one of these writes: what a reader may see that looks on while they are
 * copied.
 */
static bool stamp_is_mixture(const struct stamp *got, uint64_t sector, uint32_t low, uint32_t high,
			     bool zeroes)
{
	const uint8_t *bytes = (const uint8_t *)got;
	bool known[SECTOR_BYTES];
	struct stamp want;

	for (unsigned i = 0; i < SECTOR_BYTES; i++)
		known[i] = zeroes && bytes[i] == 0;
	for (uint32_t seq = low; seq <= high; seq++) {
		stamp_make(&want, sector, seq);
		for (unsigned i = 0; i < SECTOR_BYTES; i++)
			known[i] |= bytes[i] == ((const uint8_t *)&want)[i];
	}
	return memchr(known, 0, SECTOR_BYTES) == NULL;
}

/* ---- telling ------------------------------------------------------------- */

/* What a sector holds, in words. */
static void describe(char *text, size_t len, const struct stamp *got, uint64_t sector)
{
	uint64_t base = g.journal->id ^ sector * 0x9e3779b97f4a7c15ULL;
	unsigned i, last = STAMP_WORDS - 5;

	if (stamp_is_zero(got)) {
		snprintf(text, len, "zeroes");
	} else if (got->magic != STAMP_MAGIC) {
		snprintf(text, len, "what was never written by this program (%016llx…)",
			 (unsigned long long)got->magic);
	} else if (got->offset_bytes != sector * SECTOR_BYTES) {
		snprintf(text, len, "write %llu of offset %llu", (unsigned long long)got->seq,
			 (unsigned long long)got->offset_bytes);
	} else if (got->checksum == stamp_checksum(got)) {
		snprintf(text, len, "write %llu%s", (unsigned long long)got->seq,
			 stamp_is(got, sector, (uint32_t)got->seq) ? "" : " of another journal");
	} else {
		for (i = 0; i < last && (got->words[i] - base) >> 32 == got->seq; i++)
			;
		snprintf(text, len,
			 "a torn sector: write %llu up to byte %u, write %llu at its end",
			 (unsigned long long)got->seq, (i + 3) * 8,
			 (unsigned long long)((got->words[last] - base) >> 32));
	}
}

/* A sector that must not be as it is. --verify goes on, a run ends. */
static void wrong(const struct stamp *got, uint64_t sector, uint32_t low, uint32_t high)
{
	const struct record *r = &g.records[sector];
	char found[200];

	pthread_mutex_lock(&g.tell_lock);
	describe(found, sizeof(found), got, sector);
	if (g.nr_told++ < TELL_MAX)
		fprintf(stderr,
			"blkstamp: %s: %s: the sector at %llu (0x%llx): expected write %u%s%.0u, "
			"found %s "
			"(now acknowledged %u, submitted %u, seen %u, zeroed %u)\n",
			g.path,
			got->magic == STAMP_MAGIC && got->checksum == stamp_checksum(got) &&
					got->seq < low &&
					got->offset_bytes == sector * SECTOR_BYTES ?
				"stale" :
				"wrong",
			(unsigned long long)sector * SECTOR_BYTES,
			(unsigned long long)sector * SECTOR_BYTES, low, high > low ? " to " : "",
			high > low ? high : 0, found, r->acked, r->submitted, r->seen, r->zeroed);
	if (!g.verify)
		_exit(1);
	pthread_mutex_unlock(&g.tell_lock);
}

/* An I/O that ended in an error, or short. */
static _Noreturn void io_failed(const struct worker *w, const char *what, const struct range *range,
				ssize_t ret)
{
	int error = errno;

	pthread_mutex_lock(&g.tell_lock);
	fprintf(stderr,
		"blkstamp: %s: %s of %llu bytes at %llu (thread %u): expected all of it, found ",
		g.path, what, (unsigned long long)(range->nr * SECTOR_BYTES),
		(unsigned long long)(range->first * SECTOR_BYTES), w->index);
	if (ret < 0)
		fprintf(stderr, "error %d: %s\n", error, strerror(error));
	else
		fprintf(stderr, "%zd bytes\n", ret);
	_exit(1);
}

/* ---- reads --------------------------------------------------------------- */

static void record_seen(struct record *r, uint32_t seq)
{
	uint32_t old = r->seen;

	while (old < seq && !atomic_compare_exchange_weak(&r->seen, &old, seq))
		;
}

/* Of a read that has ended; low is of the moment before it began. */
static void check_sector(struct worker *w, const struct stamp *got, uint64_t sector, uint32_t low)
{
	struct record *r = &g.records[sector];
	uint32_t high = r->submitted, zeroed = r->zeroed;

	if (got->seq >= low && got->seq <= high && got->seq &&
	    stamp_is(got, sector, (uint32_t)got->seq)) {
		record_seen(r, (uint32_t)got->seq);
		return;
	}
	if (low == 0) /* no write was acknowledged yet: what was there before, too */
		return;
	if (zeroed >= low && stamp_is_zero(got))
		return;
	if (!g.whole && high > low && stamp_is_mixture(got, sector, low, high, zeroed >= low)) {
		w->totals.mixed++;
		return;
	}
	wrong(got, sector, low, high);
}

static void note_pause(struct worker *w, uint64_t start_us)
{
	uint64_t us = now_us() - start_us;

	if (us > w->totals.longest_us)
		w->totals.longest_us = us;
}

static void read_range(struct worker *w, const struct range *range)
{
	uint64_t start = now_us();
	ssize_t ret;

	for (uint64_t i = 0; i < range->nr; i++) {
		const struct record *r = &g.records[range->first + i];
		uint32_t acked = r->acked, seen = r->seen;

		w->low[i] = acked > seen ? acked : seen;
	}
	ret = pread(g.fd, w->buf, range->nr * SECTOR_BYTES, (off_t)(range->first * SECTOR_BYTES));
	if (ret != (ssize_t)(range->nr * SECTOR_BYTES))
		io_failed(w, "read", range, ret);
	note_pause(w, start);
	w->totals.reads++;
	for (uint64_t i = 0; i < range->nr; i++)
		check_sector(w, (const struct stamp *)(w->buf + i * SECTOR_BYTES), range->first + i,
			     w->low[i]);
}

/* ---- writes -------------------------------------------------------------- */

static void lock_range(const struct range *range, bool lock)
{
	uint64_t last = (range->first + range->nr - 1) / LOCK_SECTORS;

	for (uint64_t i = range->first / LOCK_SECTORS; i <= last; i++) {
		if (lock)
			pthread_mutex_lock(&g.locks[i]);
		else
			pthread_mutex_unlock(&g.locks[i]);
	}
}

static int send_zeroes(const struct range *range)
{
	uint64_t bytes[2] = { range->first * SECTOR_BYTES, range->nr * SECTOR_BYTES };

	if (g.is_block)
		return ioctl(g.fd, BLKZEROOUT, bytes);
	return fallocate(g.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)bytes[0],
			 (off_t)bytes[1]);
}

static ssize_t send_stamps(struct worker *w, const struct range *range)
{
	struct iovec iov = { .iov_base = w->buf, .iov_len = range->nr * SECTOR_BYTES };

	return pwritev2(g.fd, &iov, 1, (off_t)(range->first * SECTOR_BYTES),
			one_of(w, DSYNC_EVERY) ? RWF_DSYNC : 0);
}

static void write_range(struct worker *w, const struct range *range, bool zeroes)
{
	uint64_t start;
	ssize_t ret;

	lock_range(range, true);
	for (uint64_t i = 0; i < range->nr; i++) {
		struct record *r = &g.records[range->first + i];
		uint32_t seq = r->submitted + 1;

		if (zeroes)
			r->zeroed = seq;
		else
			stamp_make((struct stamp *)(w->buf + i * SECTOR_BYTES), range->first + i,
				   seq);
		r->submitted = seq;
	}
	start = now_us();
	ret = zeroes ? send_zeroes(range) : send_stamps(w, range);
	if (ret != (zeroes ? 0 : (ssize_t)(range->nr * SECTOR_BYTES)))
		io_failed(w, zeroes ? "write of zeroes" : "write", range, ret);
	note_pause(w, start);
	for (uint64_t i = 0; i < range->nr; i++) {
		struct record *r = &g.records[range->first + i];

		r->acked = r->submitted;
	}
	lock_range(range, false);
	if (zeroes)
		w->totals.zeroes++;
	else
		w->totals.writes++;
}

static void flush(struct worker *w)
{
	const struct range all = { .nr = g.nr_sectors };
	uint64_t start = now_us();

	if (fdatasync(g.fd) < 0)
		io_failed(w, "fdatasync", &all, -1);
	note_pause(w, start);
	w->totals.flushes++;
}

/* ---- threads ------------------------------------------------------------- */

/* Its part of what was never written, so that every sector is known. */
static void fill(struct worker *w)
{
	for (uint64_t at = w->index * SWEEP_SECTORS; at < g.nr_sectors && !g.must_end;
	     at += g.nr_threads * SWEEP_SECTORS) {
		struct range range = { .first = at, .nr = g.nr_sectors - at };
		bool is_known = true;

		if (range.nr > SWEEP_SECTORS)
			range.nr = SWEEP_SECTORS;
		for (uint64_t i = 0; i < range.nr; i++)
			is_known &= g.records[at + i].acked != 0;
		if (!is_known)
			write_range(w, &range, false);
	}
}

static void check_all(struct worker *w)
{
	for (uint64_t at = w->index * SWEEP_SECTORS; at < g.nr_sectors;
	     at += g.nr_threads * SWEEP_SECTORS) {
		struct range range = { .first = at, .nr = g.nr_sectors - at };

		if (range.nr > SWEEP_SECTORS)
			range.nr = SWEEP_SECTORS;
		read_range(w, &range);
	}
}

static void choose_range(struct worker *w, struct range *range)
{
	uint64_t span = g.nr_sectors / g.align_sectors, most = g.max_io / g.align_sectors;
	uint64_t hot = HOT_SECTORS / g.align_sectors;

	if (span > hot && one_of(w, 2))
		span = hot;
	if (one_of(w, 2))
		most = most / 8 + 1;
	range->nr = 1 + below(w, most < span ? most : span);
	range->first = below(w, span - range->nr + 1) * g.align_sectors;
	range->nr *= g.align_sectors;
}

static void run_op(struct worker *w)
{
	struct range range;

	choose_range(w, &range);
	if (one_of(w, FLUSH_EVERY)) {
		flush(w);
	} else if (one_of(w, 2)) {
		read_range(w, &range);
	} else {
		write_range(w, &range, below(w, 100) < g.zeroes);
		if (one_of(w, 4))
			read_range(w, &range);
	}
}

static void *work(void *arg)
{
	struct worker *w = arg;

	if (g.verify || !g.is_new)
		check_all(w);
	if (!g.verify) {
		pthread_barrier_wait(&g.filled);
		fill(w);
		/*
		 * One of them hears of it, by a value that is negative, whatever clang-tidy knows.
		 */
		/* NOLINTNEXTLINE(bugprone-posix-return) */
		if (pthread_barrier_wait(&g.filled) == PTHREAD_BARRIER_SERIAL_THREAD &&
		    !g.must_end) {
			printf("filled\n");
			fflush(stdout);
		}
		for (uint64_t i = 0; (!g.nr_ops || i < g.nr_ops) && !g.must_end; i++)
			run_op(w);
	}
	/* The last one lets the main thread end its waiting. */
	if (atomic_fetch_sub(&g.nr_running, 1) == 1)
		kill(getpid(), SIGTERM);
	return NULL;
}

/* ---- setting up ---------------------------------------------------------- */

static _Noreturn void die(const char *path, const char *what)
{
	fprintf(stderr, "blkstamp: %s: %s: %s\n", path, what, strerror(errno));
	exit(2);
}

static void open_device(void)
{
	struct stat st;
	int block = SECTOR_BYTES;

	g.fd = open(g.path, O_RDWR | O_CLOEXEC | (g.no_direct ? 0 : O_DIRECT));
	if (g.fd < 0 || fstat(g.fd, &st) < 0)
		die(g.path, "open");
	g.is_block = S_ISBLK(st.st_mode);
	if (g.is_block && ioctl(g.fd, BLKSSZGET, &block) < 0)
		die(g.path, "its block size");
	if (!g.is_block && !g.no_direct)
		block = (int)BUFFER_ALIGN;
	g.align_sectors = (uint32_t)block / SECTOR_BYTES;
	if (g.size_bytes)
		return;
	g.size_bytes = (uint64_t)st.st_size;
	if (g.is_block && ioctl(g.fd, BLKGETSIZE64, &g.size_bytes) < 0)
		die(g.path, "its size");
}

/* A new journal has its head last: one whose making was interrupted is made again. */
static void journal_begin(struct journal *journal)
{
	journal->size_bytes = g.size_bytes;
	if (getrandom(&journal->id, sizeof(journal->id), 0) != sizeof(journal->id))
		die(g.journal_path, "a number for it");
	atomic_thread_fence(memory_order_seq_cst);
	journal->magic = JOURNAL_MAGIC;
}

static void open_journal(void)
{
	/* NOLINTNEXTLINE: not NULL */
	int fd = open(g.journal_path, O_RDWR | O_CLOEXEC | (g.verify ? 0 : O_CREAT), 0644);
	struct journal head = { 0 };
	size_t len;

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0 || pread(fd, &head, sizeof(head), 0) < 0)
		die(g.journal_path, "open");
	errno = EINVAL;
	if (head.magic != JOURNAL_MAGIC && (g.verify || head.magic))
		die(g.journal_path, "this is no journal");
	if (head.magic && g.size_bytes && g.size_bytes != head.size_bytes)
		die(g.journal_path, "it is of another size");
	if (head.magic)
		g.size_bytes = head.size_bytes;
	open_device();
	errno = EINVAL;
	if (!g.size_bytes || g.size_bytes % ((uint64_t)g.align_sectors * SECTOR_BYTES) ||
	    g.max_io < g.align_sectors)
		die(g.path, "the size, or the largest I/O, in the device's blocks");
	g.nr_sectors = g.size_bytes / SECTOR_BYTES;
	len = JOURNAL_HEAD_BYTES + g.nr_sectors * sizeof(struct record);
	if (ftruncate(fd, (off_t)len) < 0)
		die(g.journal_path, "its size");
	g.journal = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (g.journal == MAP_FAILED)
		die(g.journal_path, "mmap");
	g.records = (struct record *)((char *)g.journal + JOURNAL_HEAD_BYTES);
	g.is_new = !head.magic;
	if (g.is_new)
		journal_begin(g.journal);
	/* fd stays open: it holds the lock. */
}

static uint64_t number_arg(const char *text)
{
	static const char units[] = "KMGT";
	const char *unit;
	char *end;
	uint64_t value = strtoull(text, &end, 0);

	if (*end && end != text && !end[1]) {
		unit = strchr(units, *end);
		if (unit) {
			value <<= 10 * (unit - units + 1);
			end++;
		}
	}
	if (*end || end == text) {
		fprintf(stderr, "blkstamp: '%s' is no number\n", text);
		exit(2);
	}
	return value;
}

static const struct option options[] = {
	{ "journal", 1, NULL, 'j' }, { "size", 1, NULL, 'l' },	 { "threads", 1, NULL, 't' },
	{ "seconds", 1, NULL, 's' }, { "ops", 1, NULL, 'n' },	 { "max-io", 1, NULL, 'm' },
	{ "zeroes", 1, NULL, 'z' },  { "whole", 0, NULL, 'w' },	 { "no-direct", 0, NULL, 'd' },
	{ "seed", 1, NULL, 'r' },    { "verify", 0, NULL, 'v' }, { 0 },
};

static bool parse_option(int c)
{
	switch (c) {
	case 'j':
		g.journal_path = optarg;
		break;
	case 'l':
		g.size_bytes = number_arg(optarg);
		break;
	case 't':
		g.nr_threads = (unsigned)number_arg(optarg);
		break;
	case 's':
		g.seconds = number_arg(optarg);
		break;
	case 'n':
		g.nr_ops = number_arg(optarg);
		break;
	case 'm':
		g.max_io = number_arg(optarg);
		break;
	case 'z':
		g.zeroes = (unsigned)number_arg(optarg);
		break;
	case 'w':
		g.whole = true;
		break;
	case 'd':
		g.no_direct = true;
		break;
	case 'r':
		g.seed = number_arg(optarg);
		break;
	case 'v':
		g.verify = true;
		break;
	default:
		return false;
	}
	return true;
}

static void parse(int argc, char **argv)
{
	bool is_good = true;
	int c;

	g.seed = now_us();
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		is_good &= parse_option(c);
	if (!is_good || optind + 1 != argc || !g.journal_path || g.nr_threads < 1 ||
	    g.nr_threads > MAX_THREADS || !g.max_io) {
		fprintf(stderr,
			"usage: blkstamp --journal FILE [OPTIONS] DEVICE (see its source)\n");
		exit(2);
	}
	g.path = argv[optind];
}

static struct worker *make_workers(void)
{
	struct worker *workers = calloc(g.nr_threads, sizeof(*workers));
	uint64_t nr_locks = g.nr_sectors / LOCK_SECTORS + 1;
	uint64_t most = g.max_io > SWEEP_SECTORS ? g.max_io : SWEEP_SECTORS;

	g.locks = calloc(nr_locks, sizeof(*g.locks));
	if (!workers || !g.locks)
		die(g.path, "threads");
	for (uint64_t i = 0; i < nr_locks; i++)
		pthread_mutex_init(&g.locks[i], NULL);
	pthread_barrier_init(&g.filled, NULL, g.nr_threads);
	g.nr_running = g.nr_threads;
	for (unsigned i = 0; i < g.nr_threads; i++) {
		struct worker *w = &workers[i];

		w->index = i;
		w->rng = (g.seed + i + 1) * 0x9e3779b97f4a7c15ULL | 1;
		w->buf_sectors =
			most + BUFFER_ALIGN / SECTOR_BYTES - most % (BUFFER_ALIGN / SECTOR_BYTES);
		w->buf = aligned_alloc(BUFFER_ALIGN, w->buf_sectors * SECTOR_BYTES);
		w->low = calloc(w->buf_sectors, sizeof(*w->low));
		if (!w->buf || !w->low)
			die(g.path, "buffers");
	}
	return workers;
}

/*
 * Until the time is over, a signal comes, or all threads have ended. An I/O that waits is waited
 * for.
 */
static void wait_for_end(const sigset_t *signals)
{
	struct timespec limit = { .tv_sec = (time_t)g.seconds };

	while (sigtimedwait(signals, NULL, g.seconds ? &limit : NULL) < 0 && errno == EINTR)
		;
	g.must_end = true;
}

static void print_totals(const struct totals *t)
{
	printf("%s: %llu writes, %llu reads, %llu flushes, %llu writes of zeroes, longest pause "
	       "%llu ms, "
	       "%llu sectors read while they were written in part\n",
	       g.verify ? "verified" : "stamped", (unsigned long long)t->writes,
	       (unsigned long long)t->reads, (unsigned long long)t->flushes,
	       (unsigned long long)t->zeroes, (unsigned long long)(t->longest_us / 1000),
	       (unsigned long long)t->mixed);
}

int main(int argc, char **argv)
{
	static struct worker *workers; /* where a leak checker looks, too */
	struct totals sum = { 0 };
	sigset_t signals;

	parse(argc, argv);
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	open_journal();
	workers = make_workers();
	for (unsigned i = 0; i < g.nr_threads; i++) {
		errno = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
		if (errno)
			die(g.path, "threads");
	}
	wait_for_end(&signals);
	for (unsigned i = 0; i < g.nr_threads; i++) {
		const struct totals *t = &workers[i].totals;

		pthread_join(workers[i].thread, NULL);
		sum.reads += t->reads;
		sum.writes += t->writes;
		sum.zeroes += t->zeroes;
		sum.flushes += t->flushes;
		sum.mixed += t->mixed;
		sum.longest_us = t->longest_us > sum.longest_us ? t->longest_us : sum.longest_us;
	}
	if (g.nr_told) {
		fprintf(stderr, "blkstamp: %s: %u sectors are wrong\n", g.path, g.nr_told);
		return 1;
	}
	print_totals(&sum);
	return 0;
}
