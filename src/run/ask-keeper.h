/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The other end of control.sock: a device's keeper is asked one thing. One JSON object a line,
 * request and reply; ublk-bridge-control(7) is its specification. Control plane; blocks.
 */
#ifndef UB_RUN_ASK_KEEPER_H
#define UB_RUN_ASK_KEEPER_H

#include <jansson.h>

#include "base/err.h"

#define UB_CONTROL_VERSION 1

/*
 * Asks NAME's keeper and waits for its answer, at most timeout_ms (-1: as long as the keeper
 * lives). request is consumed; its "version" is filled in. 0 with *reply, the caller's to
 * json_decref(), or -errno with *err: what the keeper said, or -ECONNREFUSED and -ENOENT where
 * there is no keeper to be asked.
 */
int ub_control_ask(const char *name, json_t *request, json_t **reply, int timeout_ms,
		   struct ub_err *err);
/* Likewise, and the connection is kept: in *fd when 0 is returned, the caller's to close. */
int ub_control_ask_on(const char *name, json_t *request, json_t **reply, int timeout_ms, int *fd,
		      struct ub_err *err);

#endif
