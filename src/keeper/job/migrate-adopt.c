/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Servers that die, and keepers that come and go, in a migration. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "keeper/job/destination.h"
#include "keeper/job/migrate-parts.h"
#include "keeper/keeper.h"
#include "keeper/recipe.h"
#include "run/state.h"

bool ub_migrate_has_moved(const struct ub_keeper *k)
{
	return ub_migrate_is_on(k) && k->other->identity &&
	       ub_rundir_read_side(&k->rundir) == k->job.migration.cookie;
}

static void migrate_close(struct ub_keeper *k)
{
	ub_migrate_close_attempt(&k->job.migration);
	ub_close(&k->other->store_fd);
	k->job.migration.phase = UB_MIGRATION_CONNECTING;
}

/* It is begun anew, from the beginning. */
static void migrate_rewind(struct ub_keeper *k)
{
	migrate_close(k);
	free(k->other->identity);
	k->other->identity = NULL;
}

/*
 * The server died in a cutover: which side of the pages is the device's says the same fact as for
 * everything else.
 */
static void migrate_settle_side(struct ub_keeper *k)
{
	uint64_t cookie = k->shared.ledger ? atomic_load(&k->shared.ledger->cut_cookie) : 0;

	if (!cookie)
		return;
	if (ub_rundir_read_side(&k->rundir) == cookie)
		atomic_store_explicit(&k->shared.stats->side,
				      atomic_load(&k->shared.ledger->cut_side) % UB_STATS_SIDES,
				      memory_order_release);
	atomic_store(&k->shared.ledger->cut_cookie, 0);
}

void ub_migrate_server_gone(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->job.migration;
	bool was_sent = m->attempt >= UB_ATTEMPT_SENT;

	migrate_settle_side(k);
	if (ub_migrate_has_moved(k))
		ub_migrate_moved(k, NULL);
	if (!ub_migrate_is_on(k))
		return;
	migrate_rewind(k);
	if (m->is_cancelled)
		ub_migrate_failed(k, ECANCELED, "");
	else if (was_sent)
		snprintf(m->why, sizeof(m->why), "the server died: it begins anew");
	m->is_again = true;
}

void ub_migrate_let_go(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->job.migration;

	m->cancellers.nr = 0;
	json_decref(m->request);
	m->request = NULL;
	ub_close(&m->side_fd);
	ub_close(&k->other->store_fd);
}

void ub_migrate_adopt_again(struct ub_keeper *k)
{
	if (ub_migrate_has_moved(k)) {
		ub_migrate_remember(k, "moved", "");
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: migrated to %.300s", k->device.info.dev_id,
		       k->job.migration.label);
		ub_migrate_swap(k);
	} else if (ub_migrate_is_on(k)) {
		/* It may move until the server is ours: ub_migrate_adopted() does the rest. */
		migrate_close(k);
	}
}

void ub_migrate_adopted(struct ub_keeper *k)
{
	if (ub_migrate_is_on(k))
		migrate_rewind(k);
}

bool ub_migrate_has_raced(const struct ub_keeper *k)
{
	return ub_migrate_is_on(k) && ub_rundir_read_side(&k->rundir) == k->job.migration.cookie;
}

/* The other side's command, as another keeper has started it. */
static int migrate_adopt_command(struct ub_keeper *k, struct ub_err *err)
{
	const struct ub_recipe *recipe = k->other->recipe;
	pid_t pid = ub_recipe_command_pid(recipe);
	int ret;

	if (!recipe->command || !pid)
		return 0;
	ret = ub_side_set_command(k, k->other, err);
	return ret ? ret : ub_command_adopt(&k->other->command, &k->loop, pid, err);
}

/*
 * The migration is over: what the device was made of before it. Nothing that could go wrong matters
 * to the device.
 */
static void migrate_adopt_old_side(struct ub_keeper *k, json_t *recipe)
{
	struct ub_err err = { 0 };

	if (ub_destination_read(k, recipe, &err) != 0 || migrate_adopt_command(k, &err) != 0)
		ub_log(UB_LOG_WARNING,
		       "what the device was made of before it was migrated is left alone: %s",
		       err.text);
}

int ub_migrate_adopt(struct ub_keeper *k, const json_t *json, const struct ub_state *state,
		     struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->job.migration;
	json_t *migration = json_object_get(json, "migration"), *destination;
	json_int_t rate, timeout, began;
	const char *cookie;
	uint64_t now = (uint64_t)time(NULL);
	int waits, is_cancelled = 0, ret;

	if (state->has_moved)
		migrate_adopt_old_side(k, json_object_get(json, "recipe"));
	if (!state->is_migrating)
		return 0;
	if (json_unpack(migration, "{s:s, s:b, s?b, s:I, s:I, s:I, s:o}", "cookie", &cookie, "wait",
			&waits, "cancelled", &is_cancelled, "rate_bytes", &rate,
			"mirror_timeout_ms", &timeout, "began", &began, "destination",
			&destination) < 0)
		return ub_err_set(err, EBADMSG,
				  "state.json does not say where the device was being migrated to");
	ret = ub_destination_read(k, destination, err);
	if (ret == 0)
		ret = migrate_adopt_command(k, err);
	if (ret)
		return ret;
	m->phase = UB_MIGRATION_CONNECTING;
	m->cookie = strtoull(cookie, NULL, 16);
	m->waits = waits;
	m->is_cancelled = is_cancelled;
	m->rate_bytes = (uint64_t)rate;
	m->mirror_timeout_ms = (uint64_t)timeout;
	m->began_unix_s = (uint64_t)began;
	m->began_ms = ub_now_ms();
	if (now > m->began_unix_s && (now - m->began_unix_s) * 1000 < m->began_ms)
		m->began_ms -= (now - m->began_unix_s) * 1000;
	ub_side_describe(k->other, m->label, sizeof(m->label));
	snprintf(m->why, sizeof(m->why), "another keeper has taken over: it begins anew");
	if (!m->is_cancelled)
		ub_log(UB_LOG_NOTICE, "%s: migrating it to %.300s begins anew", state->name,
		       m->label);
	return 0;
}
