/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The spare server of a device. The keeper's main thread. */
#ifndef UB_KEEPER_STANDBY_H
#define UB_KEEPER_STANDBY_H

struct ub_keeper;

/*
 * Takes a step towards a standby, if one is missing. Waits for nothing. When to call it again, in
 * ms; -1: never.
 */
int ub_standby_tend(struct ub_keeper *k);
/* Has it end: the device goes to another keeper, who makes its own. */
void ub_standby_drop(struct ub_keeper *k);
/* It ends, and another one is made: what it was told is true no longer. Not one that takes over. */
void ub_standby_renew(struct ub_keeper *k);
/* Likewise, also while it takes over. */
void ub_standby_dismiss(struct ub_keeper *k);

#endif
