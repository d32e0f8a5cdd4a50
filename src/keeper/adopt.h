/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A keeper for a device that has lost its own. The keeper's main thread; waits. */
#ifndef UB_KEEPER_ADOPT_H
#define UB_KEEPER_ADOPT_H

#include "base/err.h"

struct ub_keeper;

/*
 * Becomes the keeper of a device that has none: of its server, of the standby, or, where both are
 * gone, of what state.json says. 0 or -errno with *err; then ub_adopt_let_go().
 */
int ub_adopt(struct ub_keeper *k, const char *name, struct ub_err *err);
/* Likewise, of a device that this keeper has let go of: what it knows of it is still true. */
int ub_adopt_again(struct ub_keeper *k, const char *name, struct ub_err *err);
/* Is its keeper no more, and leaves all as it is. */
void ub_adopt_let_go(struct ub_keeper *k);

#endif
