/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Another size of an export and of its device. The main thread, while the queues run: may block. */
#ifndef UB_BACKEND_NBD_SIZE_H
#define UB_BACKEND_NBD_SIZE_H

#include "backend/nbd/nbd.h"

/* The contract's get_size() and resize(): backend.h. */
int nbd_find_size(struct ub_backend *backend, uint64_t *size_bytes, struct ub_err *err);
int nbd_resize(struct ub_backend *backend, uint64_t size_bytes, uint32_t flags, struct ub_err *err);

#endif
