/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The C library's heap, made to keep its pages. Control plane. */
#include "base/heap.h"

#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEAP_STEP_BYTES (256U << 10) /* what it grows by, should it have to */

const void *ub_heap_keep(void)
{
#ifdef M_ARENA_MAX
	/*
	 * An arena a thread would have to be filled for each; and a large block of its own is
	 * unmapped when freed.
	 */
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_MAX, 0);
	mallopt(M_TRIM_THRESHOLD, INT_MAX);
	mallopt(M_TOP_PAD, HEAP_STEP_BYTES);
#endif
	return sbrk(0);
}

size_t ub_heap_growth(const void *mark)
{
	const char *now = sbrk(0);

	return now > (const char *)mark ? (size_t)(now - (const char *)mark) : 0;
}

int ub_heap_reserve(size_t bytes)
{
	char *block = malloc(bytes);

	if (!block)
		return -ENOMEM;
	memset(block, 1, bytes);
	/* Or the compiler leaves out a block that nobody reads. */
	__asm__ volatile("" : : "r"(block) : "memory");
	free(block);
	return 0;
}
