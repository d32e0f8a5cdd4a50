/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The end of a migration, one way or the other. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/step.h"
#include "base/text.h"
#include "keeper/job/migrate-parts.h"
#include "keeper/jobs.h"
#include "keeper/keeper.h"
#include "keeper/note.h"
#include "keeper/standby.h"

#define MIGRATE_END_MS	5000 /* for a command; then it is killed */
#define MIGRATE_NOTE_MS 1000 /* between tries to write state.json */

/* What has happened already: it is written down now or, where /run is full, later. */
void ub_migrate_note(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->job.migration;
	struct ub_err err = { 0 };

	/*
	 * I/O waits for another server, and whoever writes may wait for memory: until then
	 * NAME/side says it.
	 */
	if (k->server->gone) {
		m->note_due_ms = 1;
		return;
	}
	if (ub_note_write(k, &err) == 0)
		return;
	if (!m->note_due_ms)
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: %s", k->device.info.dev_id, err.text);
	m->note_due_ms = ub_now_ms() + MIGRATE_NOTE_MS;
}

void ub_migrate_remember(struct ub_keeper *k, const char *result, const char *why)
{
	struct ub_keeper_migration *m = &k->job.migration;
	struct ub_migration_result *r = &m->last;

	*r = (struct ub_migration_result){ .result = result,
					   .pause_us = -1,
					   .took_ms = ub_now_ms() - m->began_ms };
	r->progress = ub_migrate_progress(k);
	snprintf(r->label, sizeof(r->label), "%s", m->label);
	snprintf(r->why, sizeof(r->why), "%s", why);
	ub_text_clean(r->why);
}

void ub_migrate_close_attempt(struct ub_keeper_migration *m)
{
	ub_close(&m->side_fd);
	m->attempt = UB_ATTEMPT_NONE;
}

/* The device is on its source, as before. code: an errno; ECANCELED: as somebody wished. */
void ub_migrate_failed(struct ub_keeper *k, int code, const char *why)
{
	struct ub_keeper_migration *m = &k->job.migration;

	ub_migrate_remember(k, code == ECANCELED ? "cancelled" : "failed",
			    code == ECANCELED ? "" : why);
	if (code == ECANCELED)
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: migrating it to %.200s was cancelled",
		       k->device.info.dev_id, m->label);
	else
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: it is not migrated to %.150s: %.250s",
		       k->device.info.dev_id, m->label, why);
	ub_migrate_close_attempt(m);
	ub_close(&k->other->store_fd);
	m->phase = UB_MIGRATION_NONE;
	/* else the next keeper would begin it anew if state.json cannot be written */
	ub_rundir_void_side(&k->rundir);
	ub_migrate_note(k);
	ub_control_callers_answer(&k->control, &m->cancellers, &(struct ub_err){ .code = 0 });
}

/* The device is on the destination now. Waits for nothing, and allocates nothing. */
void ub_migrate_swap(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->job.migration;

	ub_side_swap(k);
	ub_close(&k->other->store_fd); /* the server has given the source up */
	ub_migrate_close_attempt(m);
	m->phase = UB_MIGRATION_NONE;
	ub_jobs_raise(k, UB_EVENT_SIDE_CHANGED);
}

/* pause_us: NULL: the server died before it could tell. */
void ub_migrate_moved(struct ub_keeper *k, const uint64_t *pause_us)
{
	struct ub_keeper_migration *m = &k->job.migration;
	struct ub_err late = { 0 };
	char pause[64] = "";

	ub_step("migrate-moved", &late); /* which cannot fail: it has happened */
	ub_migrate_remember(k, "moved", "");
	m->last.pause_us = pause_us ? (int64_t)*pause_us : -1;
	if (pause_us)
		snprintf(pause, sizeof(pause), "; I/O stood still for %llu.%03llu ms",
			 (unsigned long long)*pause_us / 1000,
			 (unsigned long long)*pause_us % 1000);
	ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: migrated to %.300s%s", k->device.info.dev_id, m->label,
	       pause);
	ub_migrate_swap(k);
	ub_standby_renew(k); /* it was made for the source */
	ub_migrate_note(k);
	ub_err_set(&late, EALREADY, "it is too late: the device has been migrated to %.300s",
		   m->label);
	ub_control_callers_answer(&k->control, &m->cancellers, &late);
}

/*
 * Whether the command has ended that nobody needs any more. Waits for nothing: a server may die
 * meanwhile.
 */
bool ub_migrate_command_has_ended(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->job.migration;
	struct ub_command *c = &k->other->command;

	if (!c->argv)
		return true;
	if (!m->clear_deadline_ms) {
		ub_command_begin_end(c);
		m->clear_deadline_ms = ub_now_ms() + MIGRATE_END_MS;
	} else if (c->pid && ub_now_ms() >= m->clear_deadline_ms) {
		kill(-c->pid, SIGKILL);
	}
	return c->pid == 0;
}

/* What the device is not made of, or not any more. Waits for its command, if that has not ended. */
void ub_migrate_clear(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->job.migration;

	m->clear_deadline_ms = 0;
	ub_side_clear(k->other);
}
