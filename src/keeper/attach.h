/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making a device. The keeper's main thread. */
#ifndef UB_KEEPER_ATTACH_H
#define UB_KEEPER_ATTACH_H

#include "base/err.h"

struct ub_keeper;

/*
 * From nothing to a device that takes I/O. 0 or -errno with *err; then what was made is still
 * there: ub_watch_teardown().
 */
int ub_attach(struct ub_keeper *k, struct ub_err *err);

#endif
