/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A heap that needs no new page while memory is short. A library that allocates for each I/O may be
 * what writes dirty pages out: a page fault of its own may then wait for the very memory that it
 * shall free.
 */
#ifndef UB_BASE_HEAP_H
#define UB_BASE_HEAP_H

#include <stddef.h>

/*
 * From now on there is one heap for all threads, and what was freed stays in it. Before any other
 * thread exists. Returns a mark for ub_heap_growth().
 */
const void *ub_heap_keep(void);

/* How many bytes the heap has grown by since the mark. */
size_t ub_heap_growth(const void *mark);

/*
 * Puts `bytes` more into the heap, each page of them touched; after ub_isolate_lock_memory() that
 * locks them, too. 0 or -ENOMEM. Control plane.
 */
int ub_heap_reserve(size_t bytes);

#endif
