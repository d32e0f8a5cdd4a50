/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory store: a sparse memfd that the keeper makes and holds, and hands to its server.
 *
 * A server that dies takes no byte with it. Control plane.
 */
#ifndef UB_BACKEND_STORE_H
#define UB_BACKEND_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/*
 * Makes a store of size_bytes, all zeroes; prealloc takes the memory at once. A descriptor or -errno. Behind the data,
 * from the next whole page on, it has room for a bitmap of its pages: base/bitmap.h.
 */
int ub_store_create(uint64_t size_bytes, bool prealloc, struct ub_err *err);

/*
 * How many bytes may still be taken from the machine before it gets into trouble: what is available less
 * a reserve, within the limits of our memory control groups. 0 if there is nothing to spare, or if it
 * cannot be told. Any thread; a few system calls.
 */
uint64_t ub_store_memory_left(void);

#endif
