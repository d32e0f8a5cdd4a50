/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Moving a device while it is in use, as its keeper sees it: the order of things is in migrate.h.
 */
#include "keeper/job/migrate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "backend/limits.h"
#include "base/log.h"
#include "base/step.h"
#include "base/text.h"
#include "keeper/job/args.h"
#include "keeper/job/destination.h"
#include "keeper/job/migrate-parts.h"
#include "keeper/job/verbs.h"
#include "keeper/jobs.h"
#include "keeper/keeper.h"
#include "keeper/note.h"

#define MIGRATE_TURN_MS 100
/* for its first word: a server that can says at once that it has begun */
#define MIGRATE_ANSWER_MS 10000
/* in a row, as recovery counts them, and less than what is too many there */
#define MIGRATE_MAX_DEATHS	  4
#define MIGRATE_MIN_MIRROR_MS	  100
#define MIGRATE_DEFAULT_MIRROR_MS 1000
#define MIGRATE_MAX_MIRROR_MS	  3600000

/* ---- what a server says -------------------------------------------------- */

static int migrate_control(struct ub_keeper *k, enum ub_migrate_control what)
{
	struct ub_keeper_migration *m = &k->job.migration;
	struct ub_msg_migrate_control msg = {
		.header = { .type = UB_MSG_MIGRATE_CONTROL, .len_bytes = sizeof(msg) },
		.id = m->id,
		.what = what,
		.rate_bytes = m->rate_bytes,
	};

	if (m->attempt < UB_ATTEMPT_SENT)
		return 0;
	return ub_message_send(k->server->fd, &msg.header, NULL, 0, MSG_DONTWAIT);
}

static void migrate_cancel(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->job.migration;

	m->is_cancelled = true;
	if (m->attempt < UB_ATTEMPT_SENT)
		ub_migrate_failed(k, ECANCELED, "");
	else if (migrate_control(k, UB_MIGRATE_CANCEL) < 0)
		ub_log(UB_LOG_DEBUG, "the server is gone already"); /* and then it ends, too */
}

/* What the device would be: with the size and the blocks that it has. */
static int migrate_take_limits(struct ub_keeper *k, const struct ub_limits *limits,
			       struct ub_err *err)
{
	k->other->limits = *limits;
	if (limits->size_bytes < k->side->limits.size_bytes)
		return ub_err_set(err, ENOSPC, "it has %llu bytes, and the device has %llu",
				  (unsigned long long)limits->size_bytes,
				  (unsigned long long)k->side->limits.size_bytes);
	k->other->limits.size_bytes = k->side->limits.size_bytes;
	k->other->limits.logical_block_bytes = k->side->limits.logical_block_bytes;
	if (k->other->limits.physical_block_bytes < k->other->limits.logical_block_bytes)
		k->other->limits.physical_block_bytes = k->other->limits.logical_block_bytes;
	k->other->limits.read_only = k->side->limits.read_only;
	return ub_limits_check(&k->other->limits, err);
}

/*
 * The destination is there. It is written down what it is, before the first moment at which the
 * device may be on it.
 */
static int migrate_ready(struct ub_keeper *k, const struct ub_msg_migration *msg,
			 struct ub_err *err)
{
	int ret = ub_step("migrate-ready", err);

	if (ret == 0)
		ret = migrate_take_limits(k, &msg->limits, err);
	if (ret)
		return ret;
	k->other->caps = msg->caps;
	free(k->other->identity);
	k->other->identity = strdup(msg->identity);
	if (!k->other->identity)
		return ub_err_errno(err, ENOMEM, "what the destination is");
	return ub_note_write(k, err);
}

static void migrate_take_ready(struct ub_keeper *k, const struct ub_msg_migration *msg)
{
	struct ub_keeper_migration *m = &k->job.migration;
	struct ub_err err = { 0 };

	if (k->other->identity || m->is_cancelled)
		return;
	if (migrate_ready(k, msg, &err) == 0) {
		if (migrate_control(k, UB_MIGRATE_GO) < 0)
			ub_log(UB_LOG_DEBUG, "the server is gone already");
		return;
	}
	/* It ends when the server has said so; what for is known here. */
	m->refused = err;
	migrate_cancel(k);
}

static void migrate_paused(struct ub_keeper *k, const char *why)
{
	struct ub_keeper_migration *m = &k->job.migration;

	/* Again and again for the same reason is told once. */
	if (strcmp(m->why, why) != 0)
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: migrating it to %.150s pauses: %.250s",
		       k->device.info.dev_id, m->label, why);
	snprintf(m->why, sizeof(m->why), "%s", why);
}

static void migrate_in_step(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->job.migration;

	m->why[0] = '\0';
	ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: in step with %.200s%s", k->device.info.dev_id,
	       m->label, m->waits ? ": waits to be told to go there (migrate --complete)" : "");
}

static void migrate_take_failed(struct ub_keeper *k, const struct ub_msg_migration *msg)
{
	const struct ub_keeper_migration *m = &k->job.migration;
	int code = msg->code ? (int)msg->code : EIO;

	if (code == ECANCELED && m->refused.code)
		ub_migrate_failed(k, m->refused.code, m->refused.text);
	else
		ub_migrate_failed(k, code, msg->text[0] ? msg->text : strerror(code));
}

static void migrate_said(struct ub_keeper *k, struct ub_msg_migration *msg)
{
	struct ub_keeper_migration *m = &k->job.migration;

	if (!ub_migrate_is_on(k) || m->attempt < UB_ATTEMPT_SENT || msg->id != m->id ||
	    !ub_message_string(&msg->header, sizeof(*msg), 0) ||
	    msg->phase >= UB_NR_MIGRATION_PHASES)
		return;
	msg->text[sizeof(msg->text) - 1] = '\0';
	ub_text_clean(msg->text);
	m->attempt = UB_ATTEMPT_HEARD;
	if (msg->phase < UB_MIGRATION_MOVED && msg->phase != UB_MIGRATION_NONE)
		m->phase = msg->phase;
	switch (msg->phase) {
	case UB_MIGRATION_READY:
		migrate_take_ready(k, msg);
		break;
	case UB_MIGRATION_COPYING:
		m->why[0] = '\0';
		break;
	case UB_MIGRATION_PAUSED:
		migrate_paused(k, msg->text);
		break;
	case UB_MIGRATION_IN_STEP:
		migrate_in_step(k);
		break;
	case UB_MIGRATION_MOVED:
		ub_migrate_moved(k, &msg->pause_us);
		break;
	case UB_MIGRATION_FAILED:
		migrate_take_failed(k, msg);
		break;
	default:
		break;
	}
}

/*
 * Takes the next step of one that goes on. When to be called again, in ms; -1: the server has the
 * word.
 */
static int migrate_go_on(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->job.migration;
	struct ub_err err = { 0 };
	int ret = 0;

	if (m->attempt >= UB_ATTEMPT_SENT) {
		if (m->attempt == UB_ATTEMPT_HEARD)
			return -1;
		if (ub_now_ms() - m->sent_ms < MIGRATE_ANSWER_MS)
			return MIGRATE_TURN_MS;
		/* It has not been let go, so nothing has happened. */
		migrate_control(k, UB_MIGRATE_CANCEL);
		ub_err_set(&err, ETIMEDOUT, "the server does not answer");
	} else if (m->is_cancelled) {
		ub_err_set(&err, ECANCELED, "the keeper before this one was to give it up");
	} else if (k->recovery.has_failed) {
		ub_err_set(&err, EIO, "the device has failed: detach it, and attach it anew");
	} else if (m->is_again && k->recovery.nr_deaths >= MIGRATE_MAX_DEATHS) {
		/* Of this, perhaps: the device is not to fail of it. */
		ub_err_set(&err, EIO, "%u servers died one after the other", k->recovery.nr_deaths);
	} else if (!ub_migrate_may_send(k)) {
		return MIGRATE_TURN_MS;
	} else {
		if (m->attempt == UB_ATTEMPT_NONE)
			ret = ub_migrate_prepare(k, &err);
		if (ret == 0)
			ret = ub_migrate_send(k, &err);
		if (ret == 0)
			return MIGRATE_TURN_MS;
	}
	ub_migrate_failed(k, err.code, err.text);
	return -1;
}

/* ---- the verb `migrate` -------------------------------------------------- */

static int migrate_check(struct ub_keeper *k, struct ub_err *err)
{
	if (ub_migrate_is_on(k))
		return ub_err_set(err, EBUSY,
				  "it is being migrated to %.200s already: cancel that first, or "
				  "wait",
				  k->job.migration.label);
	if (k->recovery.has_failed)
		return ub_err_set(err, EIO, "the device has failed: detach it, and attach it anew");
	if (!k->was_live || k->server->gone || k->server->fd < 0 || k->life == UB_RECOVERING)
		return ub_err_set(err, EAGAIN, "the device is not live now: try again");
	if (k->signals.nr || k->job.detach.callers.nr || k->job.detach.is_forced)
		return ub_err_set(err, EBUSY, "the device is being taken away");
	if (k->job.resize.is_running || k->job.resize.is_asked || k->job.resize.must_settle)
		return ub_err_set(err, EBUSY, "its size is being changed: try again");
	return 0;
}

static int migrate_parse(struct ub_keeper *k, const json_t *args, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->job.migration;
	int ret;

	m->rate_bytes = 0;
	m->mirror_timeout_ms = MIGRATE_DEFAULT_MIRROR_MS;
	ret = ub_args_flag(args, "wait", &m->waits, err);
	if (ret == 0)
		ret = ub_args_u64(args, "rate_bytes", 0, INT64_MAX, &m->rate_bytes, err);
	if (ret == 0)
		ret = ub_args_u64(args, "mirror_timeout_ms", MIGRATE_MIN_MIRROR_MS,
				  MIGRATE_MAX_MIRROR_MS, &m->mirror_timeout_ms, err);
	return ret ? ret : ub_destination_parse(k, json_object_get(args, "destination"), err);
}

static int migrate_begin(struct ub_keeper *k, const json_t *args, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->job.migration;
	int ret = migrate_check(k, err);

	if (ret)
		return ret;
	m->is_cancelled = m->is_again = false;
	m->refused.code = 0;
	m->why[0] = '\0';
	m->began_ms = ub_now_ms();
	m->began_unix_s = (uint64_t)time(NULL);
	ret = ub_step("migrate", err);
	if (ret == 0)
		ret = migrate_parse(k, args, err);
	if (ret == 0) {
		m->phase = UB_MIGRATION_CONNECTING;
		ret = ub_migrate_prepare(k, err);
	}
	if (ret == 0 && ub_migrate_may_send(k))
		ret = ub_migrate_send(k, err);
	if (ret == 0) {
		ub_side_describe(k->other, m->label, sizeof(m->label));
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: migrating it to %.300s", k->device.info.dev_id,
		       m->label);
		return 0;
	}
	ub_migrate_close_attempt(m);
	if (ub_migrate_is_on(k)) {
		m->phase = UB_MIGRATION_NONE;
		ub_migrate_note(k);
	}
	return ret;
}

static void migrate_take_request(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->job.migration;
	struct ub_control_caller caller = m->caller;
	json_t *request = m->request;
	struct ub_err err = { 0 };

	m->request = NULL;
	migrate_begin(k, request, &err);
	json_decref(request);
	ub_control_answer(&k->control, caller, NULL, &err);
}

static int migrate_tend(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->job.migration;
	int wait_ms = -1;

	if (k->server->gone || !k->was_live)
		return -1;
	if (ub_migrate_has_leftovers(k) && ub_migrate_command_has_ended(k))
		ub_migrate_clear(k);
	if (m->request && !ub_migrate_has_leftovers(k))
		migrate_take_request(k);
	if (ub_migrate_is_on(k))
		wait_ms = migrate_go_on(k);
	if (m->note_due_ms && ub_now_ms() >= m->note_due_ms)
		ub_migrate_note(k);
	return m->note_due_ms || ub_migrate_has_leftovers(k) ? MIGRATE_TURN_MS : wait_ms;
}

int ub_verb_migrate(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
		    json_t *reply, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->job.migration;
	int ret = migrate_check(k, err);

	(void)reply;
	if (ret)
		return ret;
	if (m->request)
		return ub_err_set(err, EBUSY, "somebody else migrates it already: try again");
	m->request = json_deep_copy(args);
	if (!m->request)
		return ub_err_errno(err, ENOMEM, "the request");
	m->caller = caller;
	return 1; /* keeper_watch() sees it */
}

/* ---- the others ---------------------------------------------------------- */

static int migrate_check_is_on(const struct ub_keeper *k, struct ub_err *err)
{
	return ub_migrate_is_on(k) ? 0 :
				     ub_err_set(err, ENOENT, "the device is not being migrated");
}

int ub_verb_migrate_complete(struct ub_keeper *k, struct ub_control_caller caller,
			     const json_t *args, json_t *reply, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->job.migration;
	int ret = migrate_check_is_on(k, err);

	(void)caller;
	(void)args;
	(void)reply;
	if (ret)
		return ret;
	ret = migrate_control(k, UB_MIGRATE_COMPLETE);
	if (ret)
		return ub_err_errno(err, -ret, "the server cannot be told");
	if (m->waits) {
		m->waits = false;
		ub_migrate_note(k);
	}
	return 0;
}

int ub_verb_migrate_rate(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
			 json_t *reply, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->job.migration;
	uint64_t was = m->rate_bytes;
	int ret = migrate_check_is_on(k, err);

	(void)caller;
	(void)reply;
	if (ret == 0 && !json_object_get(args, "rate_bytes"))
		ret = ub_err_set(err, EINVAL,
				 "rate_bytes: how many a second, it must say; 0: as many as there "
				 "can be");
	if (ret == 0)
		ret = ub_args_u64(args, "rate_bytes", 0, INT64_MAX, &m->rate_bytes, err);
	if (ret)
		return ret;
	ret = migrate_control(k, UB_MIGRATE_RATE);
	if (ret) {
		m->rate_bytes = was;
		return ub_err_errno(err, -ret, "the server cannot be told");
	}
	ub_migrate_note(k);
	return 0;
}

int ub_verb_migrate_cancel(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
			   json_t *reply, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->job.migration;
	int ret = migrate_check_is_on(k, err);

	(void)args;
	(void)reply;
	if (ret == 0)
		ret = ub_control_callers_add(&k->control, &m->cancellers, caller, err);
	if (ret)
		return ret;
	migrate_cancel(k);
	if (ub_migrate_is_on(k))
		/* the next keeper, if one comes before the end, does not begin it anew */
		ub_migrate_note(k);
	return 1; /* with its end */
}

bool ub_migrate_give_up(struct ub_keeper *k)
{
	if (ub_migrate_is_on(k) && !k->job.migration.is_cancelled)
		migrate_cancel(k);
	return !ub_migrate_is_on(k);
}

static void migrate_end(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->job.migration;

	if (ub_migrate_has_moved(k)) {
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: it had been migrated to %.300s",
		       k->device.info.dev_id, m->label);
	} else if (ub_migrate_is_on(k)) {
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: migrating it to %.300s is given up",
		       k->device.info.dev_id, m->label);
	}
	ub_control_callers_answer(&k->control, &m->cancellers, &(struct ub_err){ .code = 0 });
	ub_migrate_close_attempt(m);
	m->phase = UB_MIGRATION_NONE;
	ub_migrate_clear(k);
	json_decref(m->request);
	m->request = NULL;
}

/* ---- the job ------------------------------------------------------------- */

static bool migrate_hear(struct ub_keeper *k, struct ub_msg_header *msg)
{
	if (msg->type != UB_MSG_MIGRATION)
		return false;
	if (msg->len_bytes > UB_V3_BYTES_MIGRATION)
		migrate_said(k, (struct ub_msg_migration *)msg);
	return true;
}

static void migrate_event(struct ub_keeper *k, enum ub_event event)
{
	if (event == UB_EVENT_RECOVERING)
		ub_migrate_server_gone(k);
	else if (event == UB_EVENT_ADOPTED)
		ub_migrate_adopted(k);
	else if (event == UB_EVENT_LET_GO)
		ub_migrate_let_go(k);
	else if (event == UB_EVENT_ENDING)
		migrate_end(k);
}

const struct ub_job ub_job_migrate = { "migrate", migrate_tend, migrate_event, migrate_hear };
