/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a migration goes: for people and programs. */

#include "base/loop.h"
#include "keeper/job/migrate-parts.h"
#include "keeper/keeper.h"

bool ub_migrate_is_on(const struct ub_keeper *k)
{
	return k->job.migration.phase != UB_MIGRATION_NONE;
}

bool ub_migrate_has_leftovers(const struct ub_keeper *k)
{
	return !ub_migrate_is_on(k) && k->other->o;
}

static const char *const migrate_phases[UB_NR_MIGRATION_PHASES] = {
	[UB_MIGRATION_CONNECTING] = "connecting", [UB_MIGRATION_READY] = "connecting",
	[UB_MIGRATION_COPYING] = "copying",	  [UB_MIGRATION_PAUSED] = "paused",
	[UB_MIGRATION_IN_STEP] = "in-step",	  [UB_MIGRATION_CUTOVER] = "cutover",
};

struct ub_migration_progress ub_migrate_progress(const struct ub_keeper *k)
{
	struct ub_migration_progress p = { 0 };

	if (!k->shared.stats)
		return p;
	p.total_bytes = ub_stat_read(&k->shared.stats->migration.total_bytes);
	p.dirty_bytes = ub_stat_read(&k->shared.stats->migration.dirty_bytes);
	p.copied_bytes = ub_stat_read(&k->shared.stats->migration.copied_bytes);
	p.zeroed_bytes = ub_stat_read(&k->shared.stats->migration.zeroed_bytes);
	for (unsigned i = 0; i < k->device.info.nr_hw_queues; i++)
		p.mirrored_bytes += ub_stat_read(&k->shared.stats->queues[i].mirrored_bytes);
	return p;
}

static json_t *migrate_text(const char *text)
{
	return *text ? json_string(text) : json_null();
}

json_t *ub_migrate_to_json(const struct ub_keeper *k)
{
	const struct ub_keeper_migration *m = &k->job.migration;
	struct ub_migration_progress p;

	if (!ub_migrate_is_on(k))
		return json_null();
	p = ub_migrate_progress(k);
	return json_pack("{s:s, s:s, s:o, s:b, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I}", "phase",
			 migrate_phases[m->phase], "destination", m->label, "why",
			 migrate_text(m->why), "wait", m->waits, "rate_bytes",
			 (json_int_t)m->rate_bytes, "mirror_timeout_ms",
			 (json_int_t)m->mirror_timeout_ms, "seconds",
			 (double)(ub_now_ms() - m->began_ms) / 1000, "total_bytes",
			 (json_int_t)p.total_bytes, "dirty_bytes", (json_int_t)p.dirty_bytes,
			 "copied_bytes", (json_int_t)p.copied_bytes, "zeroed_bytes",
			 (json_int_t)p.zeroed_bytes, "mirrored_bytes",
			 (json_int_t)p.mirrored_bytes);
}

json_t *ub_migrate_last_to_json(const struct ub_keeper *k)
{
	const struct ub_migration_result *r = &k->job.migration.last;

	if (!r->result)
		return json_null();
	return json_pack("{s:s, s:s, s:o, s:f, s:o, s:I, s:I, s:I}", "result", r->result,
			 "destination", r->label, "why", migrate_text(r->why), "seconds",
			 (double)r->took_ms / 1000, "pause_ms",
			 r->pause_us >= 0 ? json_real((double)r->pause_us / 1000) : json_null(),
			 "copied_bytes", (json_int_t)r->progress.copied_bytes, "zeroed_bytes",
			 (json_int_t)r->progress.zeroed_bytes, "mirrored_bytes",
			 (json_int_t)r->progress.mirrored_bytes);
}
