/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a back end's limits to ublk's parameters. Control plane, both processes. */
#ifndef UB_UBLK_PARAMS_H
#define UB_UBLK_PARAMS_H

#include <ublk-bridge/backend.h>
#include <ublk-bridge/ublk-abi.h>

#define UB_MAX_IO_BYTES (32U << 20) /* what USER_COPY can address for one tag */

/*
 * The parameters that the device gets. Every writable device announces a write cache and FUA, so
 * that what stands behind it can be exchanged later; the core makes up for a back end that has
 * none. limits: checked; max_io_bytes: as ADD_DEV returned it.
 */
void ub_params_from_limits(const struct ub_limits *limits, uint32_t max_io_bytes,
			   struct ublk_params *params);

#endif
