/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The keeper's life: one state at a time, and which may follow which. HACKING.md draws it.
 *
 *   ATTACHING ─► LIVE ◄─► RECOVERING           the server died: its standby takes over
 *   ADOPTING ──► LIVE ◄─► SWITCHING            the server is asked to make place for its standby
 *                LIVE  ─► HANDING_OVER ─► OVER  another keeper takes it (or: ADOPTING again)
 *   and from each of them to GOING ─► OVER      the device is taken away
 *
 * The keeper's main thread.
 */
#ifndef UB_KEEPER_LIFE_H
#define UB_KEEPER_LIFE_H

#include <stdbool.h>

struct ub_keeper;

enum ub_life {
	UB_ATTACHING,
	UB_ADOPTING,
	UB_LIVE,
	UB_RECOVERING,
	UB_SWITCHING,
	UB_HANDING_OVER,
	UB_GOING,
	UB_OVER,
	UB_NR_LIVES
};

/*
 * The only writer of k->life, and of k->was_live: it is true from the first LIVE on. Asserts that
 * this state may follow the present one.
 */
void ub_life_enter(struct ub_keeper *k, enum ub_life to);

/*
 * Whether somebody has insisted on the device's end for so long that what is dirty has to be lost.
 */
bool ub_life_is_given_up(struct ub_keeper *k);

/* "attaching", "live", "recovering", "failed", "ending": as `info` calls it. */
const char *ub_life_name(const struct ub_keeper *k);

#endif
