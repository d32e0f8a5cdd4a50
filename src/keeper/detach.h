/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Taking a device away from outside: ours, an orphan's or another program's. Control plane. */
#ifndef UB_KEEPER_DETACH_H
#define UB_KEEPER_DETACH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/*
 * "0", "/dev/ublkb0" or a name: the device's number, and for a name the cookie that the device must have
 * (else 0), because another one may have the number by now. 0 or -errno with *err.
 */
int ub_device_find(const char *device, uint32_t *dev_id, uint64_t *cookie, struct ub_err *err);

/*
 * Takes the device away and returns when it and its processes are gone. An exit status of err.h, with
 * *err filled unless it is DONE. cookie: of ub_device_find(). force: whoever holds it gets errors.
 */
int ub_detach_run(uint32_t dev_id, uint64_t cookie, bool force, unsigned timeout_s, struct ub_err *err);

#endif
