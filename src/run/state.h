/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * state.json in a device's run directory: what is served, by whom. Written by the device's keeper,
 * read by verbs and by the next keeper; it has names of files and no secrets. Control plane.
 */
#ifndef UB_RUN_STATE_H
#define UB_RUN_STATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "run/rundir.h"

/* What state.json says. */
struct ub_state {
	char name[UB_NAME_BYTES];
	uint32_t dev_id;
	uint64_t cookie; /* as in the driver's ublksrv_flags: tells our device from a later one */
	pid_t keeper_pid;
	pid_t server_pid;
	pid_t standby_pid;	  /* 0: none is ready */
	uint64_t standby_started; /* of ub_process_started() */
	/* of one that is made ready, or is: it outlives its keeper from then on. 0: none */
	pid_t spare_pid;
	uint64_t spare_started;
	char backend[16];
	bool is_migrating; /* on its first side: a migration was going on */
	/* the inode of the memory in the recipe; 0: there is none, or it is not known */
	uint64_t store;
	/*
	 * a migration has come to its end, though nobody has written that down: backend is the new
	 * one
	 */
	bool has_moved;
};

/*
 * Writes it atomically. recipe, migration: the members of these names, the caller's; NULL: without
 * one. 0 or -errno with *err.
 */
int ub_state_write(struct ub_rundir *dir, const struct ub_state *state, json_t *recipe,
		   json_t *migration, struct ub_err *err);

/*
 * Reads NAME/state.json. 0 or -errno (-ENOENT: there is none; -EBADMSG: it cannot be understood).
 */
int ub_state_read(const char *name, struct ub_state *state);

/* Likewise, and *json: all of it, the caller's to json_decref(). */
int ub_state_read_all(const char *name, struct ub_state *state, json_t **json);

/* The recipe in what was read: of what the device is made of now. Borrowed; NULL: there is none. */
json_t *ub_state_recipe(const json_t *json, const struct ub_state *state);

/* Calls take() with each state that can be read, in no order, until it returns false. */
void ub_state_each(bool (*take)(const struct ub_state *state, void *arg), void *arg);

/* The state of the device with this cookie, searched through all names. */
int ub_state_find(uint64_t cookie, struct ub_state *state);

#endif
