/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* state.json, as the keeper has it to say. */
#include "keeper/note.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "base/process.h"
#include "keeper/keeper.h"
#include "keeper/recipe.h"
#include "run/state.h"

/*
 * A migration's part, the caller's to json_decref(). NULL: there is none or, while one goes on, no
 * memory (*err).
 */
static json_t *note_migration(const struct ub_keeper *k, struct ub_err *err)
{
	const struct ub_keeper_migration *m = &k->job.migration;
	struct ub_side asked;
	char cookie[17];
	json_t *json;

	if (m->phase == UB_MIGRATION_NONE)
		return NULL;
	asked = *k->other;
	asked.identity = NULL; /* as if nobody had seen it yet */
	snprintf(cookie, sizeof(cookie), "%016llx", (unsigned long long)m->cookie);
	json = json_pack("{s:s, s:b, s:b, s:I, s:I, s:I, s:o, s:o*}", "cookie", cookie, "wait",
			 m->waits, "cancelled", m->is_cancelled, "rate_bytes",
			 (json_int_t)m->rate_bytes, "mirror_timeout_ms",
			 (json_int_t)m->mirror_timeout_ms, "began", (json_int_t)m->began_unix_s,
			 "destination", ub_recipe_make(k, &asked), "recipe",
			 k->other->identity ? ub_recipe_make(k, k->other) : NULL);
	if (!json)
		ub_err_errno(err, ENOMEM, "state.json");
	return json;
}

/* It has been written: NAME/side is asked by nobody any more, once no migration goes on. */
static void note_is_written(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->job.migration;

	m->note_due_ms = 0;
	if (m->phase == UB_MIGRATION_NONE)
		ub_rundir_remove_side(&k->rundir);
}

int ub_note_write(struct ub_keeper *k, struct ub_err *err)
{
	struct ub_state state = {
		.dev_id = k->device.info.dev_id,
		.cookie = k->device.info.ublksrv_flags,
		.keeper_pid = getpid(),
		.server_pid = k->server->pid,
		.standby_pid = k->standby->stage == UB_STANDBY_READY && !k->standby->is_dismissed ?
				       k->standby->pid :
				       0,
	};
	json_t *recipe, *migration;
	int ret;

	state.standby_started = ub_process_started(state.standby_pid);
	state.spare_pid = k->standby->stage >= UB_STANDBY_PREPARING ? k->standby->pid : 0;
	state.spare_started = ub_process_started(state.spare_pid);
	snprintf(state.name, sizeof(state.name), "%s", k->rundir.name);
	snprintf(state.backend, sizeof(state.backend), "%s", k->side->o->kind);
	migration = note_migration(k, err);
	if (!migration && k->job.migration.phase != UB_MIGRATION_NONE)
		return -err->code;
	recipe = ub_recipe_make(k, k->side);
	ret = recipe ? ub_state_write(&k->rundir, &state, recipe, migration, err) :
		       ub_err_errno(err, ENOMEM, "state.json");
	json_decref(recipe);
	json_decref(migration);
	if (ret == 0)
		note_is_written(k);
	return ret;
}

void ub_note(struct ub_keeper *k)
{
	struct ub_err err = { 0 };

	if (ub_note_write(k, &err) == 0)
		return;
	ub_log(UB_LOG_WARNING, "/dev/ublkb%u: %s", k->device.info.dev_id, err.text);
	k->job.migration.note_due_ms = 1;
}
