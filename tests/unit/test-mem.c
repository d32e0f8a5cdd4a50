/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memory back end against a plain model, on real stores: contents, memory taken and given back.
 */
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "backend/backend.h"
#include "backend/store.h"
#include "base/size.h"

#define SECTOR 512ULL

const struct ub_backend_ops *const ub_backends[] = { &ub_backend_mem, NULL };

/* The core's part of the contract: a completion is counted, and a second one is seen. */
static __thread unsigned nr_completed;

void ub_io_complete(struct ub_io *io, int32_t res)
{
	nr_completed++;
	io->result = res;
}

/* How much memory the machine says it has left; linked in with --wrap. */
uint64_t __wrap_ub_store_memory_left(void); /* NOLINT(bugprone-reserved-identifier) */
static uint64_t memory_left;
static unsigned nr_memory_asked;

uint64_t __wrap_ub_store_memory_left(void)
{
	__atomic_add_fetch(&nr_memory_asked, 1, __ATOMIC_RELAXED);
	return memory_left;
}

static unsigned nr_degraded, nr_online;

static void reporter(struct ub_host *its, struct ub_backend *be, enum ub_health health,
		     const char *why)
{
	(void)its;
	(void)be;
	(void)why;
	if (health == UB_HEALTH_DEGRADED)
		nr_degraded++;
	else
		nr_online++;
}

static struct ub_host host = { .report = reporter };

struct disk {
	int fd;
	uint64_t size;
	struct ub_backend be;
	struct ub_backend_queue bq;
};

static uint64_t page_bytes(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

static void disk_reopen(struct disk *d)
{
	const struct ub_backend_config cfg = {
		.kind = "mem",
		.options = "",
		.size_bytes = d->size,
		.nr_queues = 1,
		.fd = d->fd,
		.host = &host,
	};
	struct ub_err err = { 0 };

	if (d->be.ops)
		ub_backend_close(&d->be);
	if (ub_backend_open(&d->be, &cfg, &err))
		fail_msg("%s", err.text);
	d->bq = (struct ub_backend_queue){ .backend = &d->be };
	assert_int_equal(d->be.ops->queue_init(&d->bq, 16, &err), 0);
}

static void disk_open(struct disk *d, uint64_t size)
{
	struct ub_err err = { 0 };

	memset(d, 0, sizeof(*d));
	memory_left = 8ULL << 30;
	d->size = size;
	d->fd = ub_store_create(size, false, &err);
	assert_true(d->fd >= 0);
	disk_reopen(d);
}

static void disk_close(struct disk *d)
{
	d->be.ops->queue_destroy(&d->bq);
	ub_backend_close(&d->be);
	close(d->fd);
}

static uint64_t disk_taken_bytes(const struct disk *d)
{
	struct stat st;

	assert_int_equal(fstat(d->fd, &st), 0);
	/* Without the bitmap, which is small here: one page, once something was taken. */
	return st.st_blocks ? (uint64_t)st.st_blocks * 512 - page_bytes() : 0;
}

/* False where shared memory comes in huge pages: then the blocks of a file say little. */
static bool pages_can_be_counted(void)
{
	struct ub_err err = { 0 };
	int fd = ub_store_create(8 << 20, false, &err);
	struct stat st = { 0 };
	char *map;

	assert_true(fd >= 0);
	map = mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	map[4 << 20] = 1;
	fstat(fd, &st);
	munmap(map, 8 << 20);
	close(fd);
	return (uint64_t)st.st_blocks * 512 == page_bytes();
}

/* Submits one I/O, sees it completed once, and returns its result. */
static int32_t disk_submit(struct disk *d, struct ub_io *io)
{
	unsigned before = nr_completed;

	io->result = 4711;
	d->be.ops->submit(&d->bq, io);
	assert_int_equal(nr_completed, before + 1);
	assert_true(io->result < 0 || io->result == (int32_t)io->len_bytes);
	return io->result;
}

static struct ub_io io_of(unsigned op, uint64_t offset, uint32_t len, void *buf)
{
	return (struct ub_io){
		.op = (uint8_t)op, .offset_bytes = offset, .len_bytes = len, .buf = buf
	};
}

static int32_t disk_io(struct disk *d, unsigned op, uint64_t offset, uint32_t len, void *buf)
{
	struct ub_io io = io_of(op, offset, len, buf);

	return disk_submit(d, &io);
}

/* As the core does with a data path that lets a back end name its memory. Returns place()'s answer.
 */
static int disk_io_placed(struct disk *d, unsigned op, uint64_t offset, uint32_t len, void *buf)
{
	struct ub_io io = io_of(op, offset, len, NULL);
	int placed = d->be.ops->place(&d->bq, &io);

	assert_in_range(placed, 0, 1); /* with enough memory */
	if (!placed)
		io.buf = buf;
	else if (op == UB_OP_WRITE)
		memcpy(io.buf, buf, len); /* the kernel's copy */
	assert_int_equal(disk_submit(d, &io), len);
	if (placed && op == UB_OP_READ)
		memcpy(buf, io.buf, len);
	return placed;
}

static void assert_reads(struct disk *d, uint64_t offset, uint32_t len, int value)
{
	unsigned char *buf = malloc(len);

	assert_non_null(buf);
	for (unsigned way = 0; way < 2; way++) {
		memset(buf, 0xee, len);
		if (way)
			disk_io_placed(d, UB_OP_READ, offset, len, buf);
		else
			assert_int_equal(disk_io(d, UB_OP_READ, offset, len, buf), len);
		for (uint32_t i = 0; i < len; i++) {
			if (buf[i] != value)
				fail_msg("byte %llu is %#x instead of %#x",
					 (unsigned long long)(offset + i), buf[i], (unsigned)value);
		}
	}
	free(buf);
}

static void disk_fill(struct disk *d, uint64_t offset, uint32_t len, int value)
{
	char *buf = malloc(len);

	assert_non_null(buf);
	memset(buf, value, len);
	assert_int_equal(disk_io(d, UB_OP_WRITE, offset, len, buf), len);
	free(buf);
}

/* ---- limits
 * ----------------------------------------------------------------------------------------- */

static void limits_are_those_of_memory(void **state)
{
	struct disk d;

	(void)state;
	disk_open(&d, 37 * page_bytes() + 3 * SECTOR);
	assert_true(d.be.limits.size_bytes == d.size);
	assert_int_equal(d.be.limits.logical_block_bytes, 512);
	assert_int_equal(d.be.limits.can_trim, 1);
	assert_int_equal(d.be.limits.can_zero, 1);
	assert_int_equal(d.be.limits.can_fua, 1);
	assert_int_equal(d.be.limits.rotational, 0);
	assert_int_equal(d.be.limits.read_only, 0);
	assert_true(d.be.ops->caps & UB_CAP_PLACE);
	disk_close(&d);
}

static void a_store_that_cannot_be_mapped_is_an_error(void **state)
{
	struct ub_backend_config cfg = { .kind = "mem", .options = "", .size_bytes = 1 << 20 };
	struct ub_backend be;
	struct ub_err err = { 0 };

	(void)state;
	cfg.fd = -1;
	assert_int_equal(ub_backend_open(&be, &cfg, &err), -EBADF);
	unit_assert_says(err.text, "memory store");
	ub_backend_close(&be);
	cfg.size_bytes = 1ULL << 62;
	cfg.fd = ub_store_create(4096, false, &err);
	assert_true(cfg.fd >= 0);
	assert_true(ub_backend_open(&be, &cfg, &err) < 0);
	unit_assert_says(err.text, "memory store");
	ub_backend_close(&be);
	close(cfg.fd);
}

static void unknown_operations_fail(void **state)
{
	struct disk d;

	(void)state;
	disk_open(&d, 1 << 20);
	assert_int_equal(disk_io(&d, UB_OP_STATUS + 1, 0, 512, NULL), -EOPNOTSUPP);
	disk_close(&d);
}

/* ---- against a model
 * ---------------------------------------------------------------------------------- */

enum { MODEL_PAGES = 300, MODEL_MAX_IO = 1 << 20 };

struct model {
	uint64_t size;
	unsigned char *bytes;
	bool *either;	/* discarded in part: the old byte or zero */
	bool *has_page; /* what the store may have taken */
};

static void model_write(struct model *m, uint64_t offset, uint32_t len, const unsigned char *buf)
{
	if (buf)
		memcpy(m->bytes + offset, buf, len);
	else
		memset(m->bytes + offset, 0, len);
	memset(m->either + offset, 0, len);
}

static void model_take(struct model *m, uint64_t offset, uint32_t len)
{
	for (uint64_t p = offset / page_bytes(); p <= (offset + len - 1) / page_bytes(); p++)
		m->has_page[p] = true;
}

static void model_give_back(struct model *m, uint64_t offset, uint32_t len)
{
	uint64_t page = page_bytes();

	for (uint64_t p = (offset + page - 1) / page; (p + 1) * page <= offset + len; p++)
		m->has_page[p] = false;
}

static void model_discard(struct model *m, uint64_t offset, uint32_t len)
{
	uint64_t page = page_bytes();

	for (uint64_t at = offset; at < offset + len; at++) {
		uint64_t start = at / page * page;

		if (start >= offset && start + page <= offset + len) {
			m->bytes[at] = 0;
			m->either[at] = false;
		} else {
			m->either[at] = true;
		}
	}
	model_give_back(m, offset, len);
}

static void model_check(const struct model *m, uint64_t offset, uint32_t len,
			const unsigned char *buf)
{
	if (memcmp(m->bytes + offset, buf, len) == 0)
		return;
	for (uint32_t i = 0; i < len; i++) {
		uint64_t at = offset + i;

		if (buf[i] != m->bytes[at] && !(m->either[at] && buf[i] == 0))
			fail_msg("byte %llu is %#x instead of %#x", (unsigned long long)at, buf[i],
				 m->bytes[at]);
	}
}

static uint64_t model_taken_bytes(const struct model *m)
{
	uint64_t taken = 0;

	for (uint64_t p = 0; p * page_bytes() < m->size; p++)
		taken += m->has_page[p] * page_bytes();
	return taken;
}

/* A range of whole sectors: mostly small, often with a page's border as one of its ends. */
static void random_range(uint64_t *seed, uint64_t size, uint64_t *offset, uint32_t *len)
{
	uint64_t nr = size / SECTOR, per_page = page_bytes() / SECTOR, first, count, most;

	first = unit_random(seed) % nr;
	if (unit_random(seed) % 3 == 0)
		first = first / per_page * per_page;
	most = unit_random(seed) % 8 == 0 ? MODEL_MAX_IO / SECTOR : 4 * per_page;
	count = 1 + unit_random(seed) % most;
	if (unit_random(seed) % 3 == 0)
		count = (count + per_page - 1) / per_page * per_page;
	if (unit_random(seed) % 16 == 0 || count > nr - first)
		count = nr - first; /* up to the end, which lies within a page */
	if (count > MODEL_MAX_IO / SECTOR)
		count = MODEL_MAX_IO / SECTOR;
	*offset = first * SECTOR;
	*len = (uint32_t)(count * SECTOR);
}

static void model_step(struct disk *d, struct model *m, uint64_t *seed, unsigned char *buf)
{
	unsigned what = unit_random(seed) % 10;
	uint64_t offset;
	uint32_t len;
	struct ub_io io;

	random_range(seed, d->size, &offset, &len);
	switch (what) {
	case 0:
	case 1:
	case 2: /* write, both ways */
		for (uint32_t i = 0; i < len; i += 8) {
			uint64_t word = unit_random(seed) | 1;

			memcpy(buf + i, &word, 8);
		}
		if (what == 0)
			assert_int_equal(disk_io(d, UB_OP_WRITE, offset, len, buf), len);
		else
			assert_int_equal(disk_io_placed(d, UB_OP_WRITE, offset, len, buf), 1);
		model_write(m, offset, len, buf);
		model_take(m, offset, len);
		break;
	case 3:
	case 4: /* discard */
		assert_int_equal(disk_io(d, UB_OP_DISCARD, offset, len, NULL), len);
		model_discard(m, offset, len);
		break;
	case 5: /* zeroes that give memory back */
		assert_int_equal(disk_io(d, UB_OP_WRITE_ZEROES, offset, len, NULL), len);
		model_write(m, offset, len, NULL);
		model_give_back(m, offset, len);
		break;
	case 6: /* zeroes that keep it */
		io = io_of(UB_OP_WRITE_ZEROES, offset, len, NULL);
		io.flags = UB_NOUNMAP;
		assert_int_equal(disk_submit(d, &io), len);
		model_write(m, offset, len, NULL);
		model_take(m, offset, len);
		break;
	default: /* read, both ways */
		memset(buf, 0xee, len);
		if (what == 7)
			assert_int_equal(disk_io(d, UB_OP_READ, offset, len, buf), len);
		else
			disk_io_placed(d, UB_OP_READ, offset, len, buf);
		model_check(m, offset, len, buf);
		break;
	}
}

static void model_compare_all(struct disk *d, struct model *m, unsigned char *buf, bool count_pages)
{
	for (uint64_t at = 0; at < d->size; at += MODEL_MAX_IO) {
		uint64_t rest = d->size - at;
		uint32_t len = rest < MODEL_MAX_IO ? (uint32_t)rest : MODEL_MAX_IO;

		assert_int_equal(disk_io(d, UB_OP_READ, at, len, buf), len);
		model_check(m, at, len, buf);
	}
	if (count_pages)
		assert_int_equal(disk_taken_bytes(d), model_taken_bytes(m));
}

static void random_io_matches_a_model_of_size(uint64_t size, uint64_t seed, unsigned nr_steps)
{
	struct model m = { .size = size };
	unsigned char *buf = malloc(MODEL_MAX_IO);
	bool count_pages = pages_can_be_counted();
	struct disk d;

	m.bytes = calloc(1, size);
	m.either = calloc(size, sizeof(*m.either));
	m.has_page = calloc(size / page_bytes() + 1, sizeof(*m.has_page));
	assert_true(buf && m.bytes && m.either && m.has_page);
	disk_open(&d, size);
	for (unsigned i = 1; i <= nr_steps; i++) {
		model_step(&d, &m, &seed, buf);
		if (i % (nr_steps / 20) == 0)
			model_compare_all(&d, &m, buf, count_pages);
		if (i % (nr_steps / 4) == 0)
			disk_reopen(&d); /* a new server finds what the old one left */
	}
	model_compare_all(&d, &m, buf, count_pages);
	disk_close(&d);
	free(m.bytes);
	free(m.either);
	free(m.has_page);
	free(buf);
}

static void random_io_matches_a_model(void **state)
{
	(void)state;
	random_io_matches_a_model_of_size(MODEL_PAGES * page_bytes(), 1, 6000);
}

static void random_io_matches_a_model_with_a_part_of_a_page_at_the_end(void **state)
{
	(void)state;
	random_io_matches_a_model_of_size(37 * page_bytes() + 3 * SECTOR, 2, 6000);
}

static void random_io_matches_a_model_smaller_than_a_page(void **state)
{
	(void)state;
	random_io_matches_a_model_of_size(SECTOR, 3, 1000);
	random_io_matches_a_model_of_size(5 * SECTOR, 4, 1000);
}

/* ---- memory
 * ------------------------------------------------------------------------------------------- */

static void reading_what_was_never_written_takes_no_memory(void **state)
{
	struct disk d;

	(void)state;
	disk_open(&d, 16 << 20);
	for (unsigned i = 0; i < 16; i++)
		assert_reads(&d, i << 20, 1 << 20, 0);
	assert_int_equal(disk_taken_bytes(&d), 0);
	disk_close(&d);
}

static void writing_takes_the_pages_that_it_touches(void **state)
{
	uint64_t page = page_bytes();
	struct disk d;

	(void)state;
	if (!pages_can_be_counted())
		skip();
	disk_open(&d, 16 << 20);
	disk_fill(&d, page - SECTOR, 2 * SECTOR, 'a'); /* two pages */
	assert_int_equal(disk_taken_bytes(&d), 2 * page);
	disk_fill(&d, page, (uint32_t)page, 'b'); /* one of them */
	assert_int_equal(disk_taken_bytes(&d), 2 * page);
	assert_reads(&d, page - SECTOR, SECTOR, 'a');
	assert_reads(&d, 0, (uint32_t)page - SECTOR, 0);
	disk_close(&d);
}

static void discard_and_zeroes_give_whole_pages_back(void **state)
{
	uint64_t page = page_bytes();
	struct disk d;

	(void)state;
	if (!pages_can_be_counted())
		skip();
	disk_open(&d, 64 * page);
	for (unsigned op = UB_OP_DISCARD; op <= UB_OP_WRITE_ZEROES; op++) {
		disk_fill(&d, 0, (uint32_t)(64 * page), 'x');
		assert_int_equal(disk_taken_bytes(&d), 64 * page);
		assert_int_equal(disk_io(&d, op, SECTOR, (uint32_t)(10 * page), NULL), 10 * page);
		assert_int_equal(disk_taken_bytes(&d), 55 * page);
		assert_reads(&d, 0, SECTOR, 'x');
		assert_reads(&d, page, (uint32_t)(9 * page), 0);
		assert_reads(&d, 10 * page + SECTOR, (uint32_t)page, 'x');
		assert_int_equal(disk_io(&d, op, 0, (uint32_t)(64 * page), NULL), 64 * page);
		assert_int_equal(disk_taken_bytes(&d), 0);
		assert_reads(&d, 0, (uint32_t)(64 * page), 0);
	}
	disk_close(&d);
}

static void zeroes_with_nounmap_keep_and_take_memory(void **state)
{
	uint64_t page = page_bytes();
	struct ub_io io;
	struct disk d;

	(void)state;
	disk_open(&d, 64 * page);
	disk_fill(&d, 0, (uint32_t)(4 * page), 'x');
	io = io_of(UB_OP_WRITE_ZEROES, 0, (uint32_t)(8 * page), NULL);
	io.flags = UB_NOUNMAP;
	assert_int_equal(disk_submit(&d, &io), 8 * page);
	assert_reads(&d, 0, (uint32_t)(16 * page), 0);
	assert_true(disk_taken_bytes(&d) >= 8 * page);
	disk_close(&d);
}

static void a_terabyte_costs_nothing_while_untouched(void **state)
{
	uint64_t size = 1ULL << 40, before = unit_resident_bytes();
	struct disk d;

	(void)state;
	unit_need_zero_page();
	disk_open(&d, size);
	assert_reads(&d, 0, 1 << 20, 0);
	assert_reads(&d, size - (1 << 20), 1 << 20, 0);
	for (uint64_t at = 0; at < size; at += 128ULL << 20) /* what mkfs does first */
		assert_int_equal(disk_io(&d, UB_OP_DISCARD, at, 128U << 20, NULL), 128 << 20);
	/* its bitmap, which was looked through */
	assert_in_range(disk_taken_bytes(&d), 0, 32 << 20);
	assert_in_range(unit_resident_bytes(), 0, before + (64 << 20));
	disk_fill(&d, size - SECTOR, SECTOR, 'z');
	assert_reads(&d, size - SECTOR, SECTOR, 'z');
	assert_reads(&d, size - 2 * SECTOR, SECTOR, 0);
	disk_close(&d);
}

static void place_names_the_store_itself(void **state)
{
	uint64_t page = page_bytes();
	struct disk d;
	struct ub_io io, again;
	char got;

	(void)state;
	disk_open(&d, 64 * page);
	io = io_of(UB_OP_WRITE, 3 * page, 4096, NULL);
	assert_int_equal(d.be.ops->place(&d.bq, &io), 1);
	*(char *)io.buf = 'p'; /* and it is in the store, before any submit */
	assert_int_equal(pread(d.fd, &got, 1, (off_t)(UB_STORE_DATA_AT + 3 * page)), 1);
	assert_int_equal(got, 'p');
	again = io_of(UB_OP_READ, 3 * page, 4096, NULL);
	assert_int_equal(d.be.ops->place(&d.bq, &again), 1);
	assert_ptr_equal(again.buf, io.buf);
	/* What is not there is named too: zeroes that nobody has to copy into a buffer first. */
	again = io_of(UB_OP_READ, 10 * page, (uint32_t)(4 * page), NULL);
	assert_int_equal(d.be.ops->place(&d.bq, &again), 1);
	assert_int_equal(*(char *)again.buf, 0);
	/* Half there, half not: the core's buffer is asked for. */
	again = io_of(UB_OP_READ, 3 * page, (uint32_t)(2 * page), NULL);
	assert_int_equal(d.be.ops->place(&d.bq, &again), 0);
	assert_null(again.buf);
	disk_close(&d);
}

/* ---- running out of it
 * -------------------------------------------------------------------------------- */

static void without_memory_new_pages_fail_and_old_ones_work(void **state)
{
	uint64_t page = page_bytes();
	char *buf = calloc(1, 2 * page);
	struct ub_io io;
	struct disk d;

	(void)state;
	assert_non_null(buf);
	disk_open(&d, 64 << 20);
	nr_degraded = nr_online = 0;
	disk_fill(&d, 0, (uint32_t)page, 'a');
	disk_reopen(&d); /* a new server has no budget in hand */
	memory_left = 0;
	assert_int_equal(disk_io(&d, UB_OP_WRITE, page, SECTOR, buf), -ENOSPC);
	assert_int_equal(disk_io(&d, UB_OP_WRITE, 0, (uint32_t)(2 * page), buf), -ENOSPC);
	io = io_of(UB_OP_WRITE, 8 * page, 4096, NULL);
	assert_int_equal(d.be.ops->place(&d.bq, &io), -ENOSPC);
	io = io_of(UB_OP_WRITE_ZEROES, 8 * page, 4096, NULL);
	io.flags = UB_NOUNMAP;
	assert_int_equal(disk_submit(&d, &io), -ENOSPC);
	assert_int_equal(nr_degraded, 1); /* said once */
	assert_int_equal(nr_online, 0);
	/* What needs no memory goes on. */
	disk_fill(&d, 0, (uint32_t)page, 'b');
	assert_reads(&d, 0, (uint32_t)page, 'b');
	assert_reads(&d, page, 1 << 20, 0);
	assert_int_equal(disk_io(&d, UB_OP_WRITE_ZEROES, 0, 1 << 20, NULL), 1 << 20);
	assert_int_equal(disk_io(&d, UB_OP_DISCARD, 0, 1 << 20, NULL), 1 << 20);
	assert_int_equal(disk_taken_bytes(&d), 0);
	/* And memory that is free again is used. */
	memory_left = 1 << 30;
	disk_fill(&d, page, SECTOR, 'c');
	assert_reads(&d, page, SECTOR, 'c');
	assert_int_equal(nr_online, 1);
	disk_close(&d);
	free(buf);
}

static void the_machine_is_not_asked_for_every_page(void **state)
{
	struct disk d;

	(void)state;
	disk_open(&d, 64 << 20);
	memory_left = 8ULL << 30;
	nr_memory_asked = 0;
	for (unsigned i = 0; i < 2000; i++)
		disk_fill(&d, (uint64_t)i * page_bytes(), SECTOR, 'x');
	assert_in_range(nr_memory_asked, 1, 10);
	disk_close(&d);
}

/* Near the end it is asked more often: what is left is never taken in one go. */
static void little_memory_is_never_overdrawn(void **state)
{
	struct disk d;
	char buf[SECTOR] = { 1 };
	uint64_t page = page_bytes(), at = 0, limit = 4 << 20;

	(void)state;
	disk_open(&d, 64 << 20);
	for (;;) {
		uint64_t taken = disk_taken_bytes(&d);

		memory_left = taken < limit ? limit - taken : 0;
		if (disk_io(&d, UB_OP_WRITE, at, SECTOR, buf) < 0)
			break;
		at += page;
		assert_true(at < 2 * limit);
	}
	assert_in_range(disk_taken_bytes(&d), limit / 2, limit);
	memory_left = 1 << 30; /* so that health is as it was for whoever comes next */
	disk_fill(&d, at, SECTOR, 'x');
	disk_close(&d);
}

static void a_preallocated_store_needs_no_more_memory(void **state)
{
	uint64_t size = (512 << 10) + 3 * SECTOR;
	struct disk d = { .size = size };
	struct ub_err err = { 0 };

	(void)state;
	memory_left = 0;
	d.fd = ub_store_create(size, true, &err);
	assert_true(d.fd >= 0);
	disk_reopen(&d);
	assert_reads(&d, 0, (uint32_t)size, 0);
	disk_fill(&d, 0, (uint32_t)size, 'x');
	assert_reads(&d, 0, (uint32_t)size, 'x');
	disk_close(&d);
}

/* ---- a store that was there before
 * -------------------------------------------------------------------- */

static void a_filled_store_is_found_again(void **state)
{
	uint64_t page = page_bytes(), size = 64 * page + SECTOR;
	struct ub_io io;
	struct disk d;

	(void)state;
	disk_open(&d, size);
	disk_fill(&d, 5 * page + SECTOR, SECTOR, 'a');
	disk_fill(&d, 20 * page, (uint32_t)(10 * page), 'b');
	disk_fill(&d, 64 * page, SECTOR, 'c'); /* the last one, in a page that is not all there */
	disk_reopen(&d);
	assert_reads(&d, 0, (uint32_t)(5 * page + SECTOR), 0);
	assert_reads(&d, 5 * page + SECTOR, SECTOR, 'a');
	assert_reads(&d, 20 * page, (uint32_t)(10 * page), 'b');
	assert_reads(&d, 30 * page, (uint32_t)(34 * page), 0);
	assert_reads(&d, 64 * page, SECTOR, 'c');
	io = io_of(UB_OP_READ, 20 * page, (uint32_t)(10 * page), NULL);
	assert_int_equal(d.be.ops->place(&d.bq, &io), 1);
	memory_left = 0; /* its pages are known: no memory is asked for */
	disk_fill(&d, 20 * page, (uint32_t)(10 * page), 'd');
	disk_close(&d);
}

static void a_store_that_is_too_small_is_refused(void **state)
{
	struct ub_backend_config cfg = { .kind = "mem", .options = "", .size_bytes = 1 << 20 };
	struct ub_backend be;
	struct ub_err err = { 0 };

	(void)state;
	cfg.fd = ub_store_create((1 << 20) - 4096, false, &err);
	assert_true(cfg.fd >= 0);
	assert_int_equal(ub_backend_open(&be, &cfg, &err), -EINVAL);
	unit_assert_says(err.text, "store");
	ub_backend_close(&be);
	close(cfg.fd);
	cfg.fd = open("/dev/zero", O_RDWR | O_CLOEXEC); /* it can be mapped, and is no store */
	assert_true(cfg.fd >= 0);
	assert_int_equal(ub_backend_open(&be, &cfg, &err), -EINVAL);
	ub_backend_close(&be);
	close(cfg.fd);
}

/* ---- another size
 * ------------------------------------------------------------------------------------- */

static void disk_resize(struct disk *d, uint64_t size)
{
	struct ub_err err = { 0 };

	if (d->be.ops->resize(&d->be, size, 0, &err) != 0)
		fail_msg("%s", err.text);
	d->size = size;
}

/* A size within a page, and one at a page's border. */
static const unsigned odd_sectors[] = { 3, 0 };

static void growing_keeps_what_is_there_and_adds_zeroes(void **state)
{
	uint64_t page = page_bytes();

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		uint64_t small = 37 * page + odd_sectors[i] * SECTOR,
			 large = 200 * page + 5 * SECTOR;
		struct disk d;

		disk_open(&d, small);
		disk_fill(&d, 0, (uint32_t)small, 'a');
		disk_resize(&d, large);
		for (unsigned again = 0; again < 2; again++) {
			assert_reads(&d, 0, (uint32_t)small, 'a');
			assert_reads(&d, small, (uint32_t)(100 * page), 0);
			disk_fill(&d, large - 9 * SECTOR, (uint32_t)(9 * SECTOR), 'z');
			assert_reads(&d, large - 9 * SECTOR, (uint32_t)(9 * SECTOR), 'z');
			disk_reopen(&d); /* a new server finds it so */
		}
		disk_close(&d);
	}
}

static void shrinking_gives_memory_back_and_growing_again_shows_zeroes(void **state)
{
	uint64_t page = page_bytes(), large = 64 * page;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		uint64_t small = 5 * page + odd_sectors[i % 2] * SECTOR;
		struct disk d;

		disk_open(&d, large);
		disk_fill(&d, 0, (uint32_t)large, 'a');
		if (i < 2) {
			disk_resize(&d, small);
			if (pages_can_be_counted())
				assert_int_equal(disk_taken_bytes(&d),
						 (5 + (odd_sectors[i] != 0)) * page);
		} else {
			/*
			 * the server died before it gave anything back, and the next one knows the
			 * new size
			 */
			d.size = small;
			disk_reopen(&d);
		}
		assert_reads(&d, 0, (uint32_t)small, 'a');
		disk_resize(&d, large);
		assert_reads(&d, 0, (uint32_t)small, 'a');
		assert_reads(&d, small, (uint32_t)(large - small), 0);
		disk_fill(&d, small, (uint32_t)SECTOR, 'b');
		disk_reopen(&d);
		assert_reads(&d, 0, (uint32_t)small, 'a');
		assert_reads(&d, small, (uint32_t)SECTOR, 'b');
		assert_reads(&d, small + SECTOR, (uint32_t)(large - small - SECTOR), 0);
		disk_close(&d);
	}
}

/* More pages than one page of the bitmap speaks of. */
static void sizes_far_apart_cost_nothing(void **state)
{
	uint64_t page = page_bytes(), small = 10 * page, far = 1ULL << 40;
	struct disk d;

	(void)state;
	disk_open(&d, small);
	disk_fill(&d, 0, (uint32_t)small, 'a');
	disk_resize(&d, far);
	assert_reads(&d, far - page, (uint32_t)page, 0);
	disk_fill(&d, far - page, (uint32_t)page, 'z');
	disk_fill(&d, far / 2, (uint32_t)page, 'y');
	disk_resize(&d, far / 2 + SECTOR);
	assert_reads(&d, far / 2, (uint32_t)SECTOR, 'y');
	disk_resize(&d, far);
	assert_reads(&d, far / 2, (uint32_t)SECTOR, 'y');
	assert_reads(&d, far / 2 + SECTOR, (uint32_t)(page - SECTOR), 0);
	assert_reads(&d, far - page, (uint32_t)page, 0);
	disk_resize(&d, small);
	assert_reads(&d, 0, (uint32_t)small, 'a');
	if (pages_can_be_counted())
		assert_int_equal(disk_taken_bytes(&d), small);
	disk_close(&d);
}

static void a_size_that_cannot_be_leaves_it_as_it_was(void **state)
{
	struct ub_err err = { 0 };
	struct disk d;

	(void)state;
	disk_open(&d, 1 << 20);
	disk_fill(&d, 0, 1 << 20, 'a');
	assert_int_equal(d.be.ops->resize(&d.be, 1ULL << 60, 0, &err), -EFBIG);
	unit_assert_says(err.text, "are the most");
	assert_int_equal(d.be.ops->resize(&d.be, (1ULL << 44) + (1 << 20), UB_RESIZE_PREALLOC,
					  &err),
			 -ENOMEM);
	unit_assert_says(err.text, "16 TiB are wanted");
	assert_reads(&d, 0, 1 << 20, 'a');
	assert_int_equal(d.be.ops->resize(&d.be, 8 << 20, UB_RESIZE_PREALLOC, &err), 0);
	assert_true(disk_taken_bytes(&d) >= 8 << 20);
	memory_left = 0; /* nothing more is needed */
	disk_fill(&d, 7 << 20, 1 << 20, 'b');
	assert_reads(&d, 0, 1 << 20, 'a');
	assert_reads(&d, 1 << 20, 1 << 20, 0);
	disk_close(&d);
}

/* ---- queues
 * ------------------------------------------------------------------------------------------- */

enum { NR_THREADS = 4, NR_SHARED_PAGES = 64 };

struct writer {
	struct disk *d;
	unsigned index;
	unsigned nr_wrong;
};

/* Writes, zeroes and reads its own sector of pages that all threads share. */
static void *writer_main(void *arg)
{
	struct writer *w = arg;
	struct ub_backend_queue bq = { .backend = &w->d->be, .qid = w->index };
	uint64_t seed = w->index + 1;
	unsigned char want[NR_SHARED_PAGES] = { 0 }, buf[SECTOR];

	for (unsigned i = 0; i < 20000; i++) {
		unsigned page = unit_random(&seed) % NR_SHARED_PAGES, what = unit_random(&seed) % 8;
		struct ub_io io =
			io_of(UB_OP_READ, page * page_bytes() + w->index * SECTOR, SECTOR, buf);

		if (what < 4) {
			want[page] = (unsigned char)i;
			memset(buf, want[page], SECTOR);
			io.op = UB_OP_WRITE;
			if (what < 2 && ub_backend_mem.place(&bq, &io) == 1)
				memset(io.buf, want[page], SECTOR);
		} else if (what == 4) {
			want[page] = 0;
			io.op = UB_OP_WRITE_ZEROES;
		}
		ub_backend_mem.submit(&bq, &io);
		w->nr_wrong += io.result != (int32_t)SECTOR;
		for (unsigned b = 0; what > 4 && b < SECTOR; b++)
			w->nr_wrong += buf[b] != want[page];
	}
	return NULL;
}

static void queues_share_pages_without_losing_a_sector(void **state)
{
	struct writer writers[NR_THREADS];
	pthread_t threads[NR_THREADS];
	struct disk d;

	(void)state;
	disk_open(&d, NR_SHARED_PAGES * page_bytes());
	for (unsigned i = 0; i < NR_THREADS; i++) {
		writers[i] = (struct writer){ .d = &d, .index = i };
		assert_int_equal(pthread_create(&threads[i], NULL, writer_main, &writers[i]), 0);
	}
	for (unsigned i = 0; i < NR_THREADS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(writers[i].nr_wrong, 0);
	}
	disk_close(&d);
}

/* What lies behind the others' pages comes and goes, and they notice nothing. */
static void it_grows_and_shrinks_while_queues_run(void **state)
{
	uint64_t small = NR_SHARED_PAGES * page_bytes(), large = 4 * small + 7 * SECTOR;
	struct writer writers[NR_THREADS];
	pthread_t threads[NR_THREADS];
	struct disk d;

	(void)state;
	disk_open(&d, small);
	for (unsigned i = 0; i < NR_THREADS; i++) {
		writers[i] = (struct writer){ .d = &d, .index = i };
		assert_int_equal(pthread_create(&threads[i], NULL, writer_main, &writers[i]), 0);
	}
	for (unsigned i = 0; i < 100; i++) {
		disk_resize(&d, large);
		assert_reads(&d, small, (uint32_t)(large - small), 0);
		disk_fill(&d, small, (uint32_t)(large - small), 'x');
		disk_resize(&d, small + 5 * SECTOR * (i % 3));
		if (i % 3)
			assert_reads(&d, small, (uint32_t)(5 * SECTOR * (i % 3)), 'x');
		disk_resize(&d, small);
	}
	for (unsigned i = 0; i < NR_THREADS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(writers[i].nr_wrong, 0);
	}
	disk_close(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(limits_are_those_of_memory),
		cmocka_unit_test(a_store_that_cannot_be_mapped_is_an_error),
		cmocka_unit_test(unknown_operations_fail),
		cmocka_unit_test(random_io_matches_a_model),
		cmocka_unit_test(random_io_matches_a_model_with_a_part_of_a_page_at_the_end),
		cmocka_unit_test(random_io_matches_a_model_smaller_than_a_page),
		cmocka_unit_test(reading_what_was_never_written_takes_no_memory),
		cmocka_unit_test(writing_takes_the_pages_that_it_touches),
		cmocka_unit_test(discard_and_zeroes_give_whole_pages_back),
		cmocka_unit_test(zeroes_with_nounmap_keep_and_take_memory),
		cmocka_unit_test(a_terabyte_costs_nothing_while_untouched),
		cmocka_unit_test(place_names_the_store_itself),
		cmocka_unit_test(without_memory_new_pages_fail_and_old_ones_work),
		cmocka_unit_test(the_machine_is_not_asked_for_every_page),
		cmocka_unit_test(little_memory_is_never_overdrawn),
		cmocka_unit_test(a_preallocated_store_needs_no_more_memory),
		cmocka_unit_test(a_filled_store_is_found_again),
		cmocka_unit_test(a_store_that_is_too_small_is_refused),
		cmocka_unit_test(growing_keeps_what_is_there_and_adds_zeroes),
		cmocka_unit_test(shrinking_gives_memory_back_and_growing_again_shows_zeroes),
		cmocka_unit_test(sizes_far_apart_cost_nothing),
		cmocka_unit_test(a_size_that_cannot_be_leaves_it_as_it_was),
		cmocka_unit_test(queues_share_pages_without_losing_a_sector),
		cmocka_unit_test(it_grows_and_shrinks_while_queues_run),
	};

	return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
