/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening an export. The server's main thread; what is here may block and allocate. */
#ifndef UB_BACKEND_NBD_OPEN_H
#define UB_BACKEND_NBD_OPEN_H

#include "backend/nbd/nbd.h"

#define NBD_OPEN_ATTEMPT_MS 15000 /* to connect and to negotiate, once */

/* The contract's, backend.h: backend->priv is a struct nbd_backend, a half made one on failure. */
int nbd_open(struct ub_backend *backend, const struct ub_backend_config *cfg, struct ub_err *err);
char *nbd_get_identity(struct ub_backend *backend);

/*
 * One attempt at one connection. 0: *out is a ready handle, the caller's, and *export what the
 * server said. Else -errno with *err. socket_fd: as nbd_session_start() has it.
 */
int nbd_open_connect(struct nbd_backend *be, int socket_fd, struct nbd_handle **out,
		     struct nbd_export *export, struct ub_err *err);

/* 0; or -ECANCELED with *err: whoever asked for this device has gone, or wants it no more. */
int nbd_open_check_cancelled(const struct nbd_backend *be, struct ub_err *err);

#endif
