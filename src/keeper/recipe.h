/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All that another keeper must know to go on with a device: a part of state.json. It has names of
 * files and no secrets. Control plane.
 */
#ifndef UB_KEEPER_RECIPE_H
#define UB_KEEPER_RECIPE_H

#include <jansson.h>

#include "keeper/keeper.h"

/* What a recipe was read into. */
struct ub_recipe {
	struct ub_attach_options opts; /* its strings are here */
	struct nbd_options nbd;
	json_t *json; /* holds the strings */
	char **command;
};

/*
 * Of a device that is on this side: the present one, or the destination. What no server has said of
 * it yet (identity NULL) is not in it. NULL: no memory.
 */
json_t *ub_recipe_make(const struct ub_keeper *k, const struct ub_side *side);

/*
 * Reads it: what was asked for into r, which outlives the keeper's use of it, and what came of that
 * into k. 0 or -errno with *err. ub_recipe_destroy() in either case.
 */
int ub_recipe_read(json_t *json, struct ub_recipe *r, struct ub_err *err);
int ub_recipe_apply(const struct ub_recipe *r, struct ub_keeper *k, struct ub_err *err);
/*
 * How its command is started, as far as the recipe says it; nothing if it has none. 0 or -errno
 * with *err.
 */
int ub_recipe_apply_command(const struct ub_recipe *r, struct ub_command *c, struct ub_err *err);
/* The command's process, if it still runs: else 0. */
pid_t ub_recipe_command_pid(const struct ub_recipe *r);
void ub_recipe_destroy(struct ub_recipe *r);

#endif
