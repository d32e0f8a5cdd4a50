/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The verb `migrate`, and what belongs to it: a device that is in use is moved to something else.
 * The server copies and mirrors; the keeper holds what both sides need, and writes down which one
 * counts.
 *
 *      keeper                                           server
 *        │  its command, state.json with "migration",
 *        │  NAME/side, its memory
 *        │── MIGRATE + side, mounts, memory ────────────►│  opens the destination
 *        │ ◄───────────────────────────────── READY ─────│  what it is
 *        │  state.json with the destination's recipe
 *        │── GO ────────────────────────────────────────►│  COPYING, PAUSED, … IN_STEP
 *        │                                               │  CUTOVER: the cookie goes to NAME/side
 *        │ ◄───────────────────────────────── MOVED ─────│
 *        │  the sides change their places; a new standby;
 *        │  state.json without "migration"; NAME/side goes
 *
 * The one fact that decides is NAME/side: when it has the cookie of the migration in state.json,
 * the destination counts, whoever has died since. Else the source does, and a migration that lost
 * its server or its keeper begins anew.
 *
 * What state.json has of it: "migration": { "cookie", "wait", "cancelled", "rate_bytes",
 * "mirror_timeout_ms", "began", "destination": a recipe as it was asked for, "recipe": from READY
 * on, the destination's }.
 *
 * The keeper's main thread.
 */
#ifndef UB_KEEPER_MIGRATE_H
#define UB_KEEPER_MIGRATE_H

#include <jansson.h>

#include <ublk-bridge/message.h>

#include "base/err.h"
#include "keeper/control.h"
#include "run/state.h"

struct ub_recipe;
struct ub_state;

#define UB_MIGRATE_LABEL_BYTES 256

/* How far the destination is: what the page counts. */
struct ub_migration_progress {
	uint64_t total_bytes, dirty_bytes, copied_bytes, zeroed_bytes, mirrored_bytes;
};

/* How far an attempt is. */
enum ub_migrate_attempt {
	UB_ATTEMPT_NONE,
	UB_ATTEMPT_PREPARED, /* side_fd and the other side are this attempt's */
	UB_ATTEMPT_SENT,     /* the server has been told of it */
	UB_ATTEMPT_HEARD,    /* and has said something */
};

struct ub_keeper_migration {
	json_t *request; /* of the verb `migrate`, until it is answered; NULL: none */
	struct ub_control_caller caller;

	enum ub_migrate_attempt attempt;
	bool is_again;	   /* an earlier attempt has lost its server */
	bool is_cancelled; /* its end is wanted */
	bool waits;	   /* in step, until `migrate-complete` */
	/* NONE: there is none. As the server told it last; CONNECTING before that */
	enum ub_migration_phase phase;
	uint32_t id;
	uint64_t cookie;
	uint64_t rate_bytes; /* 0: no limit */
	uint64_t mirror_timeout_ms;
	uint64_t began_unix_s, began_ms, sent_ms;
	/* of the other side's command, once that was told to end; 0: it was not */
	uint64_t clear_deadline_ms;
	/* when state.json is to be written, which could not be; 0: it has been */
	uint64_t note_due_ms;
	struct ub_err refused; /* its code is not 0: this keeper has cancelled it, and why */
	char label[UB_MIGRATE_LABEL_BYTES];
	char why[512]; /* "": nothing to say */
	struct ub_control_callers cancellers;

	int side_fd; /* NAME/side, until the server has it; -1: none */

	/* The one before. */
	struct ub_migration_result {
		const char *result; /* NULL: there was none */
		char label[UB_MIGRATE_LABEL_BYTES];
		char why[512];
		uint64_t took_ms;
		int64_t pause_us; /* -1: nobody knows */
		struct ub_migration_progress progress;
	} last;
};

#define UB_KEEPER_MIGRATION_NONE \
	{ \
		.side_fd = -1 \
	}

extern const struct ub_job ub_job_migrate;

/* Whether one goes on. */
bool ub_migrate_is_on(const struct ub_keeper *k);
/* Whether it is over, and the other side is still to be cleared away. */
bool ub_migrate_has_leftovers(const struct ub_keeper *k);

/* The device shall go, but not by force: true when no migration is in the way any more. */
bool ub_migrate_give_up(struct ub_keeper *k);
/* ---- keepers that come and go -------------------------------------------- */

/*
 * What state.json (all of it) says of one: it is begun anew, or, where it has come to its end, the
 * old side is cleared away. Before the server is adopted. 0 or -errno with *err.
 */
int ub_migrate_adopt(struct ub_keeper *k, const json_t *json, const struct ub_state *state,
		     struct ub_err *err);
/*
 * Likewise for a keeper that has let go of the device and gets it back: the sides change places if
 * they must.
 */
void ub_migrate_adopt_again(struct ub_keeper *k);
/*
 * After it: true when the migration has come to its end since, and what this keeper believes is
 * wrong.
 */
bool ub_migrate_has_raced(const struct ub_keeper *k);

/* ---- for `info` and `stats` ---------------------------------------------- */

json_t *ub_migrate_to_json(const struct ub_keeper *k); /* null: none goes on */
json_t *ub_migrate_last_to_json(const struct ub_keeper *k);

#endif
