/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The run directory of a device: /run/ublk-bridge/NAME (or below $UBLK_BRIDGE_RUNDIR), root only.
 *
 *   lock         held (flock) by the keeper as long as it lives
 *   state.json   what is served, by whom; written atomically, no secret in it
 *   side         of a migration: which of both sides the device is on
 *   taking       there while a server fetches, where half of that would be fatal
 *   server.sock  where the server itself can be reached, with the keeper or without
 *   control.sock where the keeper is asked, and told what to do
 *
 * Control plane.
 */
#ifndef UB_KEEPER_RUNDIR_H
#define UB_KEEPER_RUNDIR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <ublk-bridge/message.h>

#include "base/err.h"

#define UB_NAME_BYTES 65

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

struct ub_rundir {
	char name[UB_NAME_BYTES];
	int dir_fd;
	int lock_fd;
	int listen_fd;	/* server.sock, bound and listening */
	int control_fd; /* likewise, control.sock, until the keeper takes it */
};

#define UB_RUNDIR_NONE \
	{ \
		.dir_fd = -1, .lock_fd = -1, .listen_fd = -1, .control_fd = -1 \
	}

/*
 * Whether devices can be looked at. 0, or -EPERM with *err: this is not root, or root of a
 * container that may not.
 */
int ub_rundir_check_rights(struct ub_err *err);

/* Letters, digits, '.', '_', '-'; at most 64; the first no '.' or '-', and not only digits. */
int ub_name_check(const char *name, struct ub_err *err);

/* Makes or takes over the directory, locks it and binds both sockets. -EBUSY: a keeper has it. */
int ub_rundir_create(struct ub_rundir *dir, const char *name, struct ub_err *err);
/* The same in steps, for a keeper that comes later: the server may have its socket already. */
int ub_rundir_lock(struct ub_rundir *dir, const char *name, struct ub_err *err);
int ub_rundir_listen_server(struct ub_rundir *dir, struct ub_err *err);
int ub_rundir_listen_control(struct ub_rundir *dir, struct ub_err *err);
/* recipe: recipe.h, migration: migrate.h; the caller's; NULL: without one. */
int ub_rundir_write_state(struct ub_rundir *dir, const struct ub_state *state, json_t *recipe,
			  json_t *migration, struct ub_err *err);
/* That a server is fetching, for a keeper that comes later. Best effort. */
void ub_rundir_mark_taking(struct ub_rundir *dir, bool is_taking);
bool ub_rundir_is_taking(const struct ub_rundir *dir);
void ub_rundir_remove(struct ub_rundir *dir); /* the files too; idempotent */
void ub_rundir_let_go(struct ub_rundir *dir); /* they stay: for the next keeper */

/*
 * The file `side`: eight bytes that are 0, until a server moves the device to the migration's
 * destination: then they are that migration's cookie. Makes it afresh, so that nobody has it but
 * who gets it from here: a descriptor, or -errno with *err.
 */
int ub_rundir_make_side(struct ub_rundir *dir, struct ub_err *err);
uint64_t ub_rundir_read_side(const struct ub_rundir *dir); /* 0: there is none */
void ub_rundir_remove_side(struct ub_rundir *dir);
/*
 * The migration has ended where it began, whatever state.json says until it can be written. Needs
 * no room.
 */
void ub_rundir_void_side(struct ub_rundir *dir);

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

/* The names of all run directories, sorted; *names and each is to be freed. How many, or -errno. */
int ub_rundir_names(char ***names);

/* True while a keeper holds NAME's lock. */
bool ub_rundir_is_held(const char *name);

/*
 * Removes what a dead keeper left of NAME. 0, -EBUSY while it is held, -ENOENT, or another -errno
 * if something is left.
 */
int ub_rundir_sweep(const char *name);

/*
 * A path for a socket of this process, beside the devices' directories, and removes those that dead
 * processes left. 0 or -errno with *err.
 */
int ub_rundir_socket_path(char *path, size_t len, struct ub_err *err);

/* A server that has a keeper again. The descriptors are the caller's. */
struct ub_adoption {
	uint32_t state;	  /* enum ub_adopted */
	unsigned version; /* of the messages: what is spoken with it */
	pid_t pid;
	uint32_t nr_links; /* so many LINKs follow there */
	int fd;
	int fds[UB_MESSAGE_MAX_FDS]; /* enum ub_serve_fd */
};

/*
 * Becomes the keeper of NAME's server, or of the standby that has outlived it. *a is filled in in
 * either case. 0 or -errno: -ENOENT, -ECONNREFUSED: there is none, -ENOTCONN: it has a keeper, or
 * is ending, -ETIMEDOUT: it does not answer.
 */
int ub_rundir_adopt(const char *name, struct ub_adoption *a);

/*
 * Asks NAME's server how its back end is, for at most half a second. 0 with *health (enum
 * ub_health) and why in words, or -errno.
 */
int ub_rundir_ask_health(const char *name, unsigned *health, char *why, size_t len);

/* Has NAME's server fail all that it holds, and all that comes. 0: it does so, or -errno. */
int ub_rundir_cancel_io(const char *name);

/* True while NAME's server waits for what stands behind it, or has given it up; why in words. */
bool ub_rundir_is_offline(const char *name, char *why, size_t len);

/* A connection to NAME's server.sock or control.sock, or -errno. */
int ub_rundir_connect(const char *name);
int ub_rundir_connect_control(const char *name);

#endif
