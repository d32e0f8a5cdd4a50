/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The keeper's loop while its device is live, and the device's end. The keeper's main thread. */
#ifndef UB_KEEPER_WATCH_H
#define UB_KEEPER_WATCH_H

#include <stdbool.h>

struct ub_keeper;

/* Serves until the device has gone, or is another keeper's. An exit status. */
int ub_watch(struct ub_keeper *k);

/*
 * Takes away what was made, whatever state it is in; force: what is in flight is failed. The end of
 * an attach that failed, too.
 */
void ub_watch_teardown(struct ub_keeper *k, bool force);

#endif
