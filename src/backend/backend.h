/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Back ends as the server has them: found by name, opened through one checked door, and asked
 * through it. Control plane.
 */
#ifndef UB_BACKEND_BACKEND_H
#define UB_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

/*
 * One function an op. What a back end does not define is asked of the one below it, and where none
 * is left it is answered as the contract says of a back end without it. Threads, ownership and
 * errors: as of the op, in <ublk-bridge/backend.h>. An open back end, but for those that say more.
 */

/* Those of this kind, which need not be open; none of an unknown one. */
unsigned ub_backend_get_paths(const struct ub_backend_config *cfg, char *paths[], unsigned max);
/* "" without one; NULL: no memory. */
char *ub_backend_get_identity(struct ub_backend *be);
int ub_backend_set_live(struct ub_backend *be, struct ub_err *err);
/* Also of one that is not open: it does not. */
bool ub_backend_takes_sockets(struct ub_backend *be);
int ub_backend_take_socket(struct ub_backend *be, int fd);
/* -EOPNOTSUPP with *err naming the first setting that it does not have. settings->which: not 0. */
int ub_backend_set(struct ub_backend *be, const struct ub_settings *settings, struct ub_err *err);

/* Whether its size can be another one; and whether it knows how large it could be. */
bool ub_backend_is_resizable(struct ub_backend *be);
bool ub_backend_knows_size(struct ub_backend *be);
/* UINT64_MAX where it does not. */
int ub_backend_get_size(struct ub_backend *be, uint64_t *size_bytes, struct ub_err *err);
/* One that is resizable. */
int ub_backend_resize(struct ub_backend *be, uint64_t size_bytes, uint32_t flags,
		      struct ub_err *err);

/* is_destination is false already. */
void ub_backend_promote(struct ub_backend *be);
void ub_backend_reset(struct ub_backend *be);
bool ub_backend_has_settled(struct ub_backend *be);
/* Also of one that is not open: nothing. */
void ub_backend_fenced(struct ub_backend *be, uint64_t event);
uint64_t ub_backend_nr_losses(struct ub_backend *be);
void ub_backend_describe_outage(struct ub_backend *be, char *buf, size_t len);
uint64_t ub_backend_latency_ns(struct ub_backend *be);

#endif
