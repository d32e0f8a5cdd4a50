/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A side: what a device is made of, or shall be. A keeper has two: the one that the device is on
 * (k->side) and the other (k->other), which is the destination of a migration while one goes on,
 * and what the device was made of for a while after it. The keeper's main thread.
 */
#ifndef UB_KEEPER_SIDE_H
#define UB_KEEPER_SIDE_H

#include <ublk-bridge/io.h>
#include <ublk-bridge/backend.h>

#include "base/err.h"
#include "keeper/command.h"
#include "keeper/main.h"

struct ub_keeper;
struct ub_recipe;

struct ub_side {
	const struct ub_side_options *o; /* what was asked for; NULL: there is no such side */
	struct ub_recipe *recipe;	 /* o is in it, and goes with it; NULL: o is another's */
	/* What a server has said of it: from LIMITS or READY on. */
	char *identity; /* "" where there is none; NULL: nothing is known yet, of limits and caps */
	struct ub_limits limits;
	uint32_t caps;
	struct ub_command command; /* its argv is NULL: there is none */
	/* Memory's memfd, or a connected socket until the server has it; -1: none. */
	int store_fd;
};

#define UB_SIDE_NONE \
	{ \
		.command = UB_COMMAND_NONE_YET, .store_fd = -1 \
	}

/* Makes the memory of a side that is made of it. 0 or -errno with *err. */
int ub_side_make_store(struct ub_side *side, struct ub_err *err);

/* Says how the side's command is started, as its recipe has it. 0 or -errno with *err. */
int ub_side_set_command(struct ub_keeper *k, struct ub_side *side, struct ub_err *err);
/*
 * Starts the command that was set, and names its socket in o->nbd; of one that is connected, the
 * connection becomes store_fd. 0 or -errno with *err.
 */
int ub_side_start_command(struct ub_keeper *k, struct ub_side *side, struct ub_err *err);
/*
 * Gives the socket of a --command that was started again to the server, if there is both. arg: the
 * keeper.
 */
void ub_side_give_socket(void *arg);

/* The recipe (recipe.h) becomes the side's, and its options too. */
void ub_side_take_recipe(struct ub_side *side, struct ub_recipe *recipe);

/* The sides change their places. Waits for nothing, and allocates nothing. */
void ub_side_swap(struct ub_keeper *k);

/* Lets go of all that a side has. Waits for its command, if that has not ended. Idempotent. */
void ub_side_clear(struct ub_side *side);

/* "nbd://host/export", "memory of 64 MiB": for people. buf. */
const char *ub_side_describe(const struct ub_side *side, char *buf, size_t len);

#endif
