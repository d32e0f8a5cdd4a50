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
 * Keeper and verbs; never the server. Control plane.
 */
#ifndef UB_RUN_RUNDIR_H
#define UB_RUN_RUNDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define UB_NAME_BYTES 65

struct ub_rundir {
	char name[UB_NAME_BYTES];
	int dir_fd;
	int lock_fd;
	int listen_fd;	/* server.sock, bound and listening */
	int control_fd; /* likewise, control.sock, until the keeper takes it */
};

#define UB_RUNDIR_SIDE_VOID UINT64_MAX /* no migration's cookie */

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

/* The directory of all run directories. */
const char *ub_rundir_base(void);
/* Opens it; create: makes it first. A descriptor, or -errno with *err. */
int ub_rundir_open_base(bool create, struct ub_err *err);
/* Opens NAME's directory: a descriptor, or -errno. */
int ub_rundir_open(const char *name);

/* Makes or takes over the directory, locks it and binds both sockets. -EBUSY: a keeper has it. */
int ub_rundir_create(struct ub_rundir *dir, const char *name, struct ub_err *err);
/* The same in steps, for a keeper that comes later: the server may have its socket already. */
int ub_rundir_lock(struct ub_rundir *dir, const char *name, struct ub_err *err);
int ub_rundir_listen_server(struct ub_rundir *dir, struct ub_err *err);
int ub_rundir_listen_control(struct ub_rundir *dir, struct ub_err *err);
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
/* Likewise, in a directory that ub_rundir_open() has opened. */
uint64_t ub_rundir_read_side_at(int dir_fd);
void ub_rundir_remove_side(struct ub_rundir *dir);
/*
 * The migration has ended where it began, whatever state.json says until it can be written. Needs
 * no room.
 */
void ub_rundir_void_side(struct ub_rundir *dir);

/* The names of all run directories, sorted; *names and each is to be freed. How many, or -errno. */
int ub_rundir_names(char ***names);

/* True while a keeper holds NAME's lock. */
bool ub_rundir_is_held(const char *name);

/*
 * Removes what a dead keeper left of NAME. 0, -EBUSY while it is held, -ENOENT, or another -errno
 * if something is left.
 */
int ub_rundir_sweep(const char *name);

/* A connection to NAME's server.sock or control.sock, or -errno. */
int ub_rundir_connect(const char *name);
int ub_rundir_connect_control(const char *name);

#endif
