/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of a migration have of each other. Private to job/migrate*.c. */
#ifndef UB_KEEPER_JOB_MIGRATE_PARTS_H
#define UB_KEEPER_JOB_MIGRATE_PARTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "keeper/job/migrate.h"

struct ub_keeper;

/* ---- migrate-show.c ------------------------------------------------------ */

struct ub_migration_progress ub_migrate_progress(const struct ub_keeper *k);

/* ---- migrate-end.c: its end, one way or the other ------------------------ */

/* What has happened already: it is written down now or, where /run is full, later. */
void ub_migrate_note(struct ub_keeper *k);
/* The result that `info` shows from now on. */
void ub_migrate_remember(struct ub_keeper *k, const char *result, const char *why);
void ub_migrate_close_attempt(struct ub_keeper_migration *m);
/* The device is on its source, as before. code: an errno; ECANCELED: as somebody wished. */
void ub_migrate_failed(struct ub_keeper *k, int code, const char *why);
/* The device is on the destination now. Waits for nothing, and allocates nothing. */
void ub_migrate_swap(struct ub_keeper *k);
/* Likewise, and it is told. pause_us: NULL: the server died before it could tell. */
void ub_migrate_moved(struct ub_keeper *k, const uint64_t *pause_us);
/* Whether the command has ended that nobody needs any more. Waits for nothing. */
bool ub_migrate_command_has_ended(struct ub_keeper *k);
/* What the device is not made of, or not any more. Waits for its command. */
void ub_migrate_clear(struct ub_keeper *k);

/* ---- migrate-attempt.c --------------------------------------------------- */

/*
 * All that an attempt needs, under a new cookie: nothing that an earlier one still does has an
 * effect. 0 or -errno with *err.
 */
int ub_migrate_prepare(struct ub_keeper *k, struct ub_err *err);
/* MIGRATE, to the server. 0 or -errno with *err. */
int ub_migrate_send(struct ub_keeper *k, struct ub_err *err);
/*
 * Not while the size may change. What an earlier server had sent to the destination is in the
 * ledger: the mirror waits.
 */
bool ub_migrate_may_send(const struct ub_keeper *k);

/* ---- migrate-adopt.c: servers that die, keepers that come and go --------- */

bool ub_migrate_has_moved(const struct ub_keeper *k);
/*
 * The server has died and shall have a successor: where the device is by now, and that what it was
 * doing is to be done again.
 */
void ub_migrate_server_gone(struct ub_keeper *k);
/*
 * This keeper has got the device, and the migration had not come to its end: it is begun anew, from
 * the beginning.
 */
void ub_migrate_adopted(struct ub_keeper *k);
/* This keeper has the device no more: what is needed to begin it anew stays. */
void ub_migrate_let_go(struct ub_keeper *k);

#endif
