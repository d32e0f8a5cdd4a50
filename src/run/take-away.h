/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Taking a device away from outside: ours, an orphan's or another program's. Control plane. */
#ifndef UB_RUN_TAKE_AWAY_H
#define UB_RUN_TAKE_AWAY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/*
 * Takes the device away and returns when it and its processes are gone. An exit status of err.h,
 * with *err filled unless it is DONE. cookie: of ub_device_find(), find.h. force: whoever holds it
 * gets errors.
 */
int ub_detach_run(uint32_t dev_id, uint64_t cookie, bool force, unsigned timeout_s,
		  struct ub_err *err);

#endif
