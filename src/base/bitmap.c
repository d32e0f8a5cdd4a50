/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A large sparse bitmap that several threads share. Any thread; knows nobody. */
#include "base/bitmap.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>

#define WORD_BITS 64

size_t ub_bitmap_bytes(uint64_t nr_bits)
{
	return (nr_bits / WORD_BITS + 1) * sizeof(uint64_t);
}

int ub_bitmap_init(struct ub_bitmap *map, uint64_t nr_bits, int fd, uint64_t offset_bytes)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	void *p;

	p = mmap(NULL, ub_bitmap_bytes(nr_bits), PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd,
		 (off_t)offset_bytes);
	if (p == MAP_FAILED)
		return -errno;
	map->words = p;
	map->nr_bits = nr_bits;
	map->map_bytes = ub_bitmap_bytes(nr_bits);
	return 0;
}

void ub_bitmap_destroy(struct ub_bitmap *map)
{
	if (map->words)
		munmap((void *)(uintptr_t)map->words, map->map_bytes);
	map->words = NULL;
}

/* The bits of [first, first + count) that lie in first's word; *n says how many they are. */
static uint64_t bitmap_mask(uint64_t first, uint64_t count, uint64_t *n)
{
	unsigned shift = first % WORD_BITS;

	*n = WORD_BITS - shift;
	if (*n > count)
		*n = count;
	return (*n == WORD_BITS ? ~0ULL : (1ULL << *n) - 1) << shift;
}

void ub_bitmap_set(struct ub_bitmap *map, uint64_t first, uint64_t count)
{
	uint64_t n;

	assert(first + count <= map->nr_bits);
	for (; count; first += n, count -= n) {
		uint64_t mask = bitmap_mask(first, count, &n);

		atomic_fetch_or_explicit(&map->words[first / WORD_BITS], mask,
					 memory_order_release);
	}
}

void ub_bitmap_clear(struct ub_bitmap *map, uint64_t first, uint64_t count)
{
	uint64_t n;

	assert(first + count <= map->nr_bits);
	for (; count; first += n, count -= n) {
		uint64_t mask = bitmap_mask(first, count, &n);
		_Atomic uint64_t *word = &map->words[first / WORD_BITS];

		/* Read first: clearing what is clear must not commit memory. */
		if (atomic_load_explicit(word, memory_order_relaxed) & mask)
			atomic_fetch_and_explicit(word, ~mask, memory_order_release);
	}
}

uint64_t ub_bitmap_run(const struct ub_bitmap *map, uint64_t first, uint64_t count, bool *value)
{
	uint64_t done, n, word;

	assert(count > 0 && first + count <= map->nr_bits);
	word = atomic_load_explicit(&map->words[first / WORD_BITS], memory_order_acquire);
	*value = (word >> (first % WORD_BITS)) & 1;
	for (done = 0; done < count; done += n) {
		uint64_t mask = bitmap_mask(first + done, count - done, &n);
		uint64_t other;

		word = atomic_load_explicit(&map->words[(first + done) / WORD_BITS],
					    memory_order_acquire);
		other = (*value ? ~word : word) & mask;
		if (other)
			return done + (unsigned)__builtin_ctzll(other) - (first + done) % WORD_BITS;
	}
	return count;
}
