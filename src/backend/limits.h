/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a back end may say of itself. Control plane, both processes. */
#ifndef UB_BACKEND_LIMITS_H
#define UB_BACKEND_LIMITS_H

#include <ublk-bridge/backend.h>

#include "base/err.h"

/*
 * Checks limits against what struct ub_limits promises. 0, or -EINVAL with *err naming the first
 * thing that is wrong. Any thread.
 */
int ub_limits_check(const struct ub_limits *limits, struct ub_err *err);

#endif
