/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a migration was asked to move the device to, checked: it becomes k->other. The keeper's main
 * thread.
 */
#ifndef UB_KEEPER_JOB_DESTINATION_H
#define UB_KEEPER_JOB_DESTINATION_H

#include <jansson.h>

#include "base/err.h"

struct ub_keeper;

/*
 * destination: the member of the request, ublk-bridge-control(7). k->other gets a recipe of it, as
 * state.json would have it. 0 or -errno with *err; ub_side_clear() in either case.
 */
int ub_destination_parse(struct ub_keeper *k, const json_t *destination, struct ub_err *err);

/* Likewise, of a recipe that another keeper has written. */
int ub_destination_read(struct ub_keeper *k, json_t *json, struct ub_err *err);

#endif
