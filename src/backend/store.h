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
 *   0                        UB_STORE_DATA_AT
 *   │ bitmap of the pages ░░░│ data …
 *
 * The bitmap (base/bitmap.h) has room for the largest store, so that data and bitmap stay where
 * they are when a store grows. Holes cost nothing.
 */
#define UB_STORE_DATA_AT (16ULL << 30) /* with pages of 4 KiB: 512 TiB of data */

/*
 * Makes a store of size_bytes, all zeroes; prealloc takes the memory at once. A descriptor or
 * -errno.
 */
int ub_store_create(uint64_t size_bytes, bool prealloc, struct ub_err *err);

/*
 * Makes the file long enough for size_bytes, and never shorter: what a mapping reaches must not go
 * while somebody may touch it. 0 or -errno with *err.
 */
int ub_store_extend(int fd, uint64_t size_bytes, struct ub_err *err);

/*
 * Whether something was written there, and not discarded since: of a store that any process holds.
 * Never waits.
 */
bool ub_store_has_data(int fd, uint64_t start, uint64_t end);

/* Takes the memory of these bytes at once, if it is to be had. 0 or -errno with *err. */
int ub_store_prealloc(int fd, uint64_t offset_bytes, uint64_t len_bytes, struct ub_err *err);

/*
 * How many bytes may still be taken from the machine before it gets into trouble: what is available
 * less a reserve, within the limits of our memory control groups. 0 if there is nothing to spare,
 * or if it cannot be told. Any thread; a few system calls.
 */
uint64_t ub_store_memory_left(void);

#endif
