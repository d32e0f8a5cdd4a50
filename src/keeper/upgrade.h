/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another program version takes a device over while it is in use: a new keeper, then a new server.
 *
 *   old keeper                                      new keeper
 *      │ ◄──────────── {"verb":"handover"} ────────────│
 *      │  lets go of the server, the lock, its standby │
 *      │── {"ok":true} ───────────────────────────────►│  adopts the server, as `recover` does
 *      │  waits                                        │  makes a standby of its own
 *      │                                               │  has the server yield to it
 *      │ ◄──────────── {"verb":"done","pid":N} ────────│
 *      │  ends                                         │  serves on
 *
 * Whatever goes wrong before `done`, the connection ends, and the old keeper adopts the server
 * again. Specification: ublk-bridge-control(7).
 */
#ifndef UB_KEEPER_UPGRADE_H
#define UB_KEEPER_UPGRADE_H

#include "keeper/keeper.h"

/*
 * The old keeper's side, when somebody has asked: gives the device away. Afterwards k->life is
 * OVER: the device is another keeper's, and this process is to end; or LIVE: this one has it back.
 */
void ub_upgrade_hand_over(struct ub_keeper *k);

/* The new keeper's side, before ub_adopt(). 0 or -errno with *err. */
int ub_upgrade_ask(struct ub_keeper *k, const char *name, struct ub_err *err);
/*
 * And after it: a server of this version. 0: the old keeper was told to end; or -errno with *err.
 */
int ub_upgrade_finish(struct ub_keeper *k, struct ub_err *err);

#endif
