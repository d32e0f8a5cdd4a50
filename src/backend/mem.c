/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory back end: a sparse store in a memfd, mapped once and shared by all queues.
 *
 * A bitmap says which pages the store has; it lies in the store, so that the server that takes over
 * has it as it is. More is mapped than the store has, as far as there is address space: it grows
 * without moving. A page is taken with fallocate before it is named or written, so that running out
 * of memory is an ENOSPC for that I/O and never a SIGBUS; a READ of what was never written comes
 * from a buffer of zeroes, because touching a hole in the mapping would allocate it. Queue threads,
 * but for open, limits and close; knows the contract, the store and base.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "backend/backend.h"
#include "backend/store.h"
#include "base/bitmap.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/size.h"

#define MEM_MAX_IO_BYTES      (1U << 20)
#define MEM_MAX_DISCARD_BYTES (128U << 20) /* freeing this much takes some 10 ms of the queue */
#define MEM_MAX_ZEROES_BYTES  (16U << 20)  /* with NOUNMAP it is written */
#define MEM_BUDGET_BYTES      (4 << 20)	   /* taken between two looks at the machine's memory */
#define MEM_BUDGET_PART	      8		   /* of what is left, when less is left */
/* of address space, if it is to be had: half of what x86-64 has */
#define MEM_RESERVE_BYTES (1ULL << 46)

struct mem_store {
	int fd;
	char *map;
	uint64_t map_bytes; /* whole pages, of the store or behind its end */
	_Atomic uint64_t size_bytes;
	uint32_t block_bytes;
	unsigned page_shift;
	char *zeroes;		/* MEM_MAX_IO_BYTES of them, all one page */
	struct ub_bitmap pages; /* set: the store has this page */
	_Atomic int64_t budget_bytes;
};

static inline struct mem_store *mem_of(struct ub_backend_queue *bq)
{
	return bq->backend->priv;
}

/* ---- taking and giving back memory --------------------------------------- */

static int mem_take_budget(struct ub_backend *be, struct mem_store *s, uint64_t bytes)
{
	uint64_t left;

	if (atomic_fetch_sub(&s->budget_bytes, (int64_t)bytes) >= (int64_t)bytes)
		return 0;
	left = ub_store_memory_left();
	if (left <= bytes) {
		atomic_store(&s->budget_bytes, 0);
		ub_backend_report(be, UB_HEALTH_DEGRADED,
				  "memory is short: writes to new blocks fail with ENOSPC until "
				  "some is free");
		return -ENOSPC;
	}
	left = (left - bytes) / MEM_BUDGET_PART;
	atomic_store(&s->budget_bytes,
		     left < MEM_BUDGET_BYTES ? (int64_t)left : (int64_t)MEM_BUDGET_BYTES);
	ub_backend_report(be, UB_HEALTH_ONLINE, "memory is to be had again");
	return 0;
}

static int mem_fallocate(const struct mem_store *s, int mode, uint64_t first, uint64_t count)
{
	int ret;

	do {
		ret = fallocate(s->fd, mode, (off_t)(UB_STORE_DATA_AT + (first << s->page_shift)),
				(off_t)(count << s->page_shift));
	} while (ret < 0 && errno == EINTR);
	return ret < 0 ? -errno : 0;
}

static int mem_take_run(struct ub_backend *be, struct mem_store *s, uint64_t first, uint64_t count)
{
	int ret = mem_take_budget(be, s, count << s->page_shift);

	if (ret == 0)
		ret = mem_fallocate(s, 0, first, count);
	if (ret)
		return -ENOSPC;
	ub_bitmap_set(&s->pages, first, count);
	return 0;
}

/* Makes sure that the store has every page of the range. 0 or -ENOSPC. */
static int mem_ensure(struct ub_backend *be, struct mem_store *s, uint64_t offset, uint32_t len)
{
	uint64_t first = offset >> s->page_shift;
	uint64_t end = ((offset + len - 1) >> s->page_shift) + 1;

	while (first < end) {
		bool have;
		uint64_t run = ub_bitmap_run(&s->pages, first, end - first, &have);
		int ret = have ? 0 : mem_take_run(be, s, first, run);

		if (ret)
			return ret;
		first += run;
	}
	return 0;
}

/*
 * Gives whole pages back. The bits go first: nobody may count on a page that is about to go. (A
 * WRITE that overlaps this one in time and place may end before or after it, sector by sector, as
 * on any disk.) Pages without a bit go, too: a server that died between the two steps has left
 * such, and the next one is asked again.
 */
static int mem_release(struct mem_store *s, uint64_t first, uint64_t end)
{
	if (first >= end)
		return 0;
	ub_bitmap_clear(&s->pages, first, end - first);
	return mem_fallocate(s, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first, end - first);
}

/* ---- I/O ----------------------------------------------------------------- */

/* Calls part() on each piece of the range that the store has or has not. */
static void mem_walk(struct mem_store *s, uint64_t offset, uint32_t len,
		     void (*part)(struct mem_store *s, bool have, uint64_t offset, uint64_t len,
				  void *arg),
		     void *arg)
{
	uint64_t end = offset + len;

	while (offset < end) {
		uint64_t first = offset >> s->page_shift;
		uint64_t pages = ((end - 1) >> s->page_shift) + 1 - first;
		uint64_t next;
		bool have;

		next = (first + ub_bitmap_run(&s->pages, first, pages, &have)) << s->page_shift;
		if (next > end)
			next = end;
		part(s, have, offset, next - offset, arg);
		offset = next;
	}
}

static void mem_read_part(struct mem_store *s, bool have, uint64_t offset, uint64_t len, void *arg)
{
	char **buf = arg;

	if (have)
		memcpy(*buf, s->map + offset, len);
	else
		memset(*buf, 0, len);
	*buf += len;
}

static void mem_zero_part(struct mem_store *s, bool have, uint64_t offset, uint64_t len, void *arg)
{
	(void)arg;
	if (have)
		memset(s->map + offset, 0, len);
}

/* True if place() named where the data is: there is nothing left to copy. */
static bool mem_is_placed(const struct mem_store *s, const struct ub_io *io)
{
	const char *buf = io->buf;

	return buf == s->map + io->offset_bytes ||
	       (buf >= s->zeroes && buf < s->zeroes + MEM_MAX_IO_BYTES);
}

static int mem_place(struct ub_backend_queue *bq, struct ub_io *io)
{
	struct mem_store *s = mem_of(bq);
	uint64_t first = io->offset_bytes >> s->page_shift;
	uint64_t pages = ((io->offset_bytes + io->len_bytes - 1) >> s->page_shift) + 1 - first;
	bool have;
	int ret;

	assert(io->offset_bytes + io->len_bytes <= s->size_bytes);
	if (ub_bitmap_run(&s->pages, first, pages, &have) == pages &&
	    (have || io->op == UB_OP_READ)) {
		io->buf = have ? s->map + io->offset_bytes : s->zeroes;
		return 1;
	}
	if (io->op == UB_OP_READ)
		return 0; /* partly there: the pieces are put together in the core's buffer */
	ret = mem_ensure(bq->backend, s, io->offset_bytes, io->len_bytes);
	if (ret)
		return ret;
	io->buf = s->map + io->offset_bytes;
	return 1;
}

static int mem_write(struct ub_backend_queue *bq, struct ub_io *io)
{
	struct mem_store *s = mem_of(bq);
	int ret = mem_ensure(bq->backend, s, io->offset_bytes, io->len_bytes);

	if (ret == 0) {
		memcpy(s->map + io->offset_bytes, io->buf, io->len_bytes);
		ret = mem_ensure(bq->backend, s, io->offset_bytes, io->len_bytes); /* as below */
	}
	return ret;
}

static int mem_zero(struct ub_backend_queue *bq, struct ub_io *io)
{
	struct mem_store *s = mem_of(bq);
	uint64_t page = 1ULL << s->page_shift;
	uint64_t start = io->offset_bytes, end = start + io->len_bytes;
	uint64_t inner = (start + page - 1) & ~(page - 1), inner_end = end & ~(page - 1);

	if (io->op == UB_OP_WRITE_ZEROES && (io->flags & UB_NOUNMAP)) {
		int ret = mem_ensure(bq->backend, s, start, io->len_bytes);

		if (ret == 0)
			mem_walk(s, start, io->len_bytes, mem_zero_part, NULL);
		return ret;
	}
	if (inner >= inner_end) {
		inner = end; /* within one page or two: there is no whole one */
		inner_end = end;
	}
	if (io->op == UB_OP_WRITE_ZEROES) {
		mem_walk(s, start, (uint32_t)(inner - start), mem_zero_part, NULL);
		mem_walk(s, inner_end, (uint32_t)(end - inner_end), mem_zero_part, NULL);
	}
	return mem_release(s, inner >> s->page_shift, inner_end >> s->page_shift);
}

/* What is not there reads as zeroes. */
static void mem_status(const struct mem_store *s, const struct ub_io *io)
{
	struct ub_extent *extent = io->buf;
	uint64_t first = io->offset_bytes >> s->page_shift, end = io->offset_bytes + io->len_bytes;
	uint64_t pages = ((end - 1) >> s->page_shift) + 1 - first;
	uint64_t until;
	bool have;

	until = (first + ub_bitmap_run(&s->pages, first, pages, &have)) << s->page_shift;
	extent->len_bytes = (uint32_t)((until < end ? until : end) - io->offset_bytes);
	extent->is_zero = !have;
}

static void mem_submit(struct ub_backend_queue *bq, struct ub_io *io)
{
	struct mem_store *s = mem_of(bq);
	char *buf = io->buf;
	int ret = 0;

	switch (io->op) {
	case UB_OP_READ:
		if (!mem_is_placed(s, io))
			mem_walk(s, io->offset_bytes, io->len_bytes, mem_read_part, &buf);
		break;
	case UB_OP_WRITE:
		/*
		 * Once more when the data is there: a DISCARD in flight may have taken the page
		 * between place() and the copy, and a page that has data and no bit would read as
		 * zeroes now and as that data when the bit is set later.
		 */
		if (mem_is_placed(s, io))
			ret = mem_ensure(bq->backend, s, io->offset_bytes, io->len_bytes);
		else
			ret = mem_write(bq, io);
		break;
	case UB_OP_DISCARD:
	case UB_OP_WRITE_ZEROES:
		ret = mem_zero(bq, io);
		break;
	case UB_OP_STATUS:
		mem_status(s, io);
		break;
	default:
		ret = -EOPNOTSUPP; /* FLUSH: the core does not send it, there is nothing to flush */
		break;
	}
	ub_io_complete(io, ret ? ret : (int32_t)io->len_bytes);
}

/* ---- opening ------------------------------------------------------------- */

static uint64_t mem_pages(const struct mem_store *s, uint64_t size_bytes)
{
	return (size_bytes >> s->page_shift) + ((size_bytes & ((1ULL << s->page_shift) - 1)) != 0);
}

static int mem_check_size(const struct mem_store *s, struct ub_err *err)
{
	uint64_t needed = UB_STORE_DATA_AT + (mem_pages(s, s->size_bytes) << s->page_shift);
	struct stat st;

	if (fstat(s->fd, &st) < 0)
		return ub_err_errno(err, errno, "the memory store");
	if ((uint64_t)st.st_size < needed)
		return ub_err_set(err, EINVAL,
				  "the memory store has %llu bytes: the device needs %llu",
				  (unsigned long long)st.st_size, (unsigned long long)needed);
	return 0;
}

/* What was preallocated is there, though nobody has written it. */
static void mem_find_preallocated(struct mem_store *s)
{
	uint64_t pages = mem_pages(s, s->size_bytes);
	struct stat st;

	if (fstat(s->fd, &st) == 0 && (uint64_t)st.st_blocks * 512 >= pages << s->page_shift)
		ub_bitmap_set(&s->pages, 0, pages);
}

static int mem_map(struct mem_store *s, struct ub_err *err)
{
	uint64_t needed = mem_pages(s, s->size_bytes) << s->page_shift;
	uint64_t want = needed > MEM_RESERVE_BYTES ? needed : MEM_RESERVE_BYTES;
	char text[32];

	for (;;) {
		s->map = mmap(NULL, want, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, s->fd,
			      (off_t)UB_STORE_DATA_AT);
		if (s->map != MAP_FAILED || want == needed)
			break;
		want = want / 2 > needed ? want / 2 : needed;
	}
	if (s->map == MAP_FAILED) {
		s->map = NULL;
		return ub_err_errno(err, errno,
				    "cannot map a memory store of %s: it must fit in the address "
				    "space, where 64 TiB do",
				    ub_size_format(s->size_bytes, text, sizeof(text)));
	}
	s->map_bytes = want;
	munlock(s->map, s->map_bytes); /* the server locks what it maps, but never the store */
	madvise(s->map, s->map_bytes, MADV_DONTDUMP);
	madvise(s->map, s->map_bytes, MADV_DONTFORK);
	/* Private and never written: reading it maps the kernel's one page of zeroes. */
	s->zeroes = mmap(NULL, MEM_MAX_IO_BYTES, PROT_READ,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->zeroes == MAP_FAILED) {
		s->zeroes = NULL;
		return ub_err_errno(err, errno, "a buffer of zeroes");
	}
	return 0;
}

/*
 * Of the bitmap, what the size needs is locked, as the server does it by itself, and the room
 * behind it is not.
 */
static void mem_lock_bitmap(const struct mem_store *s, uint64_t from_bytes)
{
	size_t used = ub_bitmap_bytes(mem_pages(s, s->size_bytes)),
	       had = ub_bitmap_bytes(mem_pages(s, from_bytes));
	char *words = (char *)(uintptr_t)s->pages.words;
	size_t page = (size_t)1 << s->page_shift;

	used = (used + page - 1) & ~(page - 1);
	had = had & ~(page - 1);
	if (from_bytes == 0 && used < s->pages.map_bytes)
		munlock(words + used, s->pages.map_bytes - used);
	else if (used > had && mlock2(words + had, used - had, MLOCK_ONFAULT) < 0)
		ub_log(UB_LOG_WARNING,
		       "cannot lock the bitmap of what the memory store has grown by: %s",
		       strerror(errno));
}

static int mem_open(struct ub_backend *be, const struct ub_backend_config *cfg, struct ub_err *err)
{
	struct mem_store *s = calloc(1, sizeof(*s));
	int ret;

	if (!s)
		return ub_err_errno(err, ENOMEM, "the memory store");
	be->priv = s;
	s->fd = cfg->fd;
	s->size_bytes = cfg->size_bytes;
	s->block_bytes = cfg->logical_block_bytes ? cfg->logical_block_bytes : 512;
	s->page_shift = (unsigned)__builtin_ctzll((uint64_t)sysconf(_SC_PAGESIZE));
	ret = mem_check_size(s, err);
	if (ret == 0)
		ret = mem_map(s, err);
	if (ret)
		return ret;
	ret = ub_bitmap_init(&s->pages, s->map_bytes >> s->page_shift, s->fd, 0);
	if (ret)
		return ub_err_errno(err, -ret, "the memory store's bitmap");
	mem_lock_bitmap(s, 0);
	mem_find_preallocated(s);
	return 0;
}

/* ---- another size -------------------------------------------------------- */

/*
 * Gives back all pages from `first` on, with the bitmap's part that speaks of them: looking at that
 * bit by bit would take memory for what is a hole. No I/O is there.
 */
static int mem_release_from(struct mem_store *s, uint64_t first)
{
	uint64_t page = 1ULL << s->page_shift, bits_per_page = page * 8;
	uint64_t whole = (first + bits_per_page - 1) / bits_per_page, until = whole * bits_per_page;
	struct stat st;

	if (until > s->pages.nr_bits)
		until = s->pages.nr_bits;
	if (until > first)
		ub_bitmap_clear(&s->pages, first, until - first);
	if (fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(whole * page),
		      (off_t)(UB_STORE_DATA_AT - whole * page)) < 0 ||
	    fstat(s->fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size <= UB_STORE_DATA_AT + (first << s->page_shift))
		return 0;
	return mem_fallocate(s, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first,
			     ((uint64_t)st.st_size - UB_STORE_DATA_AT - (first << s->page_shift)) >>
				     s->page_shift);
}

/* Zeroes what the last page has behind the end: it may have been part of the device before. */
static void mem_zero_behind(struct mem_store *s, uint64_t size_bytes)
{
	uint64_t page = 1ULL << s->page_shift, rest = size_bytes & (page - 1);

	if (rest)
		mem_walk(s, size_bytes, (uint32_t)(page - rest), mem_zero_part, NULL);
}

static int mem_grow(struct mem_store *s, uint64_t size_bytes, uint32_t flags, struct ub_err *err)
{
	uint64_t was_bytes = s->size_bytes, first = mem_pages(s, was_bytes),
		 end = mem_pages(s, size_bytes);
	char most[32];
	int ret;

	if (end << s->page_shift > s->map_bytes || end < first)
		return ub_err_set(err, EFBIG,
				  "a memory store of this size does not fit in the server's "
				  "address space: %s are the most",
				  ub_size_format(s->map_bytes, most, sizeof(most)));
	ret = ub_store_extend(s->fd, size_bytes, err);
	if (ret)
		return ret;
	/*
	 * What it had there when it was larger is gone, and if the server before this one had no
	 * time to see to that.
	 */
	ret = mem_release_from(s, first);
	if (ret)
		return ub_err_errno(err, -ret, "the memory store behind its end");
	mem_zero_behind(s, was_bytes);
	if ((flags & UB_RESIZE_PREALLOC) && end > first) {
		ret = ub_store_prealloc(s->fd, first << s->page_shift,
					(end - first) << s->page_shift, err);
		if (ret)
			return ret;
		ub_bitmap_set(&s->pages, first, end - first);
	}
	s->size_bytes = size_bytes;
	mem_lock_bitmap(s, was_bytes);
	return 0;
}

static int mem_resize(struct ub_backend *be, uint64_t size_bytes, uint32_t flags,
		      struct ub_err *err)
{
	struct mem_store *s = be->priv;
	int ret;

	if (size_bytes > s->size_bytes)
		return mem_grow(s, size_bytes, flags, err);
	s->size_bytes = size_bytes;
	ret = mem_release_from(s, mem_pages(s, size_bytes));
	if (ret) /* it is smaller all the same */
		ub_log(UB_LOG_WARNING, "the memory behind the new end is not given back: %s",
		       strerror(-ret));
	return 0;
}

static int mem_get_limits(struct ub_backend *be, struct ub_limits *limits, struct ub_err *err)
{
	const struct mem_store *s = be->priv;
	uint32_t page = 1U << s->page_shift;

	(void)err;
	*limits = (struct ub_limits){
		.size_bytes = s->size_bytes,
		.logical_block_bytes = s->block_bytes,
		.physical_block_bytes = page > 4096 ? 4096 : page,
		.max_io_bytes = MEM_MAX_IO_BYTES,
		.discard_granularity_bytes = page,
		.max_discard_bytes = MEM_MAX_DISCARD_BYTES,
		.max_zeroes_bytes = MEM_MAX_ZEROES_BYTES,
		.can_flush = 0, /* a write is as safe as it gets when it is answered */
		.can_fua = 1,
		.can_trim = 1,
		.can_zero = 1,
		.multi_conn = 1,
	};
	return 0;
}

static int mem_queue_init(struct ub_backend_queue *bq, unsigned nr_slots, struct ub_err *err)
{
	(void)err;
	bq->nr_slots = nr_slots;
	return 0;
}

static void mem_queue_destroy(struct ub_backend_queue *bq)
{
	(void)bq;
}

static void mem_close(struct ub_backend *be)
{
	struct mem_store *s = be->priv;

	if (!s)
		return;
	if (s->map)
		munmap(s->map, s->map_bytes);
	if (s->zeroes)
		munmap(s->zeroes, MEM_MAX_IO_BYTES);
	ub_bitmap_destroy(&s->pages);
	free(s);
	be->priv = NULL;
}

const struct ub_backend_ops ub_backend_mem = {
	.name = "mem",
	.caps = UB_CAP_PLACE | UB_CAP_STATUS,
	.open = mem_open,
	.get_limits = mem_get_limits,
	.queue_init = mem_queue_init,
	.queue_destroy = mem_queue_destroy,
	.close = mem_close,
	.resize = mem_resize,
	.place = mem_place,
	.submit = mem_submit,
};
