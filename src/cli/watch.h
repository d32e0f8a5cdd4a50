/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Looking on at a migration until it is over: a bar on a terminal, else a line now and then.
 * Control plane; blocks.
 */
#ifndef UB_CLI_WATCH_H
#define UB_CLI_WATCH_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "run/state.h"

/* From now on SIGINT and SIGTERM cancel the migration that is looked on at; a second one kills. */
void ub_cli_watch_catch_signals(void);
bool ub_cli_watch_has_signal(void);

/*
 * Until it is over: 2 with *last, how it ended (the caller's to json_decref()); or, if
 * until_in_step, until both sides agree: 1. -errno with *err: nobody says how it goes on. state: of
 * the device; before: how the one before it ended, which is no news (borrowed).
 */
int ub_cli_watch(const struct ub_state *state, const json_t *before, bool until_in_step,
		 json_t **last, struct ub_err *err);

#endif
