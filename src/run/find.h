/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which device a verb of the command line means. Control plane; blocks for a short while. */
#ifndef UB_RUN_FIND_H
#define UB_RUN_FIND_H

#include <stdint.h>

#include "base/err.h"
#include "run/rundir.h"
#include "run/state.h"

struct ublksrv_ctrl_dev_info;

/*
 * "0", "ublkb0", "/dev/ublkb0", a link to it, "/dev/block/259:0" or a name: the device's number,
 * and for a name the cookie that the device must have (else 0), because another one may have the
 * number by now. 0 or -errno with *err: -EINVAL: it is no device of ours, or a partition of one;
 * -EPERM: only root may look.
 */
int ub_device_find(const char *device, uint32_t *dev_id, uint64_t *cookie, struct ub_err *err);

/*
 * Likewise, but what its run directory says, and the kernel (info; NULL: it is not wanted): of our
 * devices alone. 0 or -errno with *err: -EINVAL: no such word, -ENODEV, -ENOENT: no such device,
 * -EPERM: another program's.
 */
int ub_device_find_state(const char *device, struct ub_state *state,
			 struct ublksrv_ctrl_dev_info *info, struct ub_err *err);

#endif
