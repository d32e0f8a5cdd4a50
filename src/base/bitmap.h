/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A large sparse bitmap that several threads share.
 *
 * Its memory is reserved and not committed: untouched parts cost nothing and read as zero. Single
 * bits are set and cleared atomically; a range is not changed as a whole.
 */
#ifndef UB_BASE_BITMAP_H
#define UB_BASE_BITMAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ub_bitmap {
	_Atomic uint64_t *words;
	uint64_t nr_bits;
	size_t map_bytes;
};

/*
 * Control plane. Its words are in fd from offset_bytes on (whole pages, and ub_bitmap_bytes() of
 * them), where other processes see them, too, and what is there counts; fd -1: in memory of its
 * own, all clear. 0 or -errno (-ENOMEM: no address space for it).
 */
int ub_bitmap_init(struct ub_bitmap *map, uint64_t nr_bits, int fd, uint64_t offset_bytes);
size_t ub_bitmap_bytes(uint64_t nr_bits);
void ub_bitmap_destroy(struct ub_bitmap *map); /* also a zeroed one */

/* Any thread; [first, first + count) lies within the map. They never allocate, but touch pages. */
void ub_bitmap_set(struct ub_bitmap *map, uint64_t first, uint64_t count);
void ub_bitmap_clear(struct ub_bitmap *map, uint64_t first, uint64_t count);

/*
 * The length of the run that begins at `first`: how many bits from there, at most `count`, have the
 * value of the first one, which is stored in *value. count > 0.
 */
uint64_t ub_bitmap_run(const struct ub_bitmap *map, uint64_t first, uint64_t count, bool *value);

#endif
