/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finding back ends by name, and opening them through one checked door. Control plane. */
#ifndef UB_BACKEND_REGISTRY_H
#define UB_BACKEND_REGISTRY_H

#include <stddef.h>

#include <ublk-bridge/backend.h>

#include "base/err.h"

extern const struct ub_backend_ops ub_backend_error;
extern const struct ub_backend_ops ub_backend_mem;
extern const struct ub_backend_ops ub_backend_nbd;
extern const struct ub_backend_ops ub_backend_null;

/* NULL with *err naming those that there are. */
const struct ub_backend_ops *ub_backend_find(const char *name, struct ub_err *err);

/*
 * Opens cfg->kind and fills be->limits with what it says, checked. 0 or -errno with *err;
 * ub_backend_close() afterwards in either case.
 */
int ub_backend_open(struct ub_backend *be, const struct ub_backend_config *cfg, struct ub_err *err);
void ub_backend_close(struct ub_backend *be); /* also of a zeroed one */

/* Where reports go: the server sets it before a back end is open. */
void ub_backend_set_reporter(void (*report)(enum ub_health health, const char *why));
void ub_backend_set_grown_reporter(void (*report)(void));
void ub_backend_set_ranges_reporter(void (*report)(void));

#endif
