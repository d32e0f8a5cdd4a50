/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Moving a device while it is in use, as its keeper sees it: the order of things is in migrate.h.
 */
#include "keeper/migrate.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

#include "backend/store.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/size.h"
#include "base/step.h"
#include "base/text.h"
#include "keeper/keeper.h"
#include "keeper/recipe.h"
#include "keeper/verbs.h"
#include "ublk/params.h"

#define MIGRATE_TURN_MS 100
/* for its first word: a server that can says at once that it has begun */
#define MIGRATE_ANSWER_MS 10000
#define MIGRATE_END_MS	  5000 /* for a command; then it is killed */
#define MIGRATE_NOTE_MS	  1000 /* between tries to write state.json */
/* in a row, as recovery counts them, and less than what is too many there */
#define MIGRATE_MAX_DEATHS	  4
#define MIGRATE_MIN_MIRROR_MS	  100
#define MIGRATE_DEFAULT_MIRROR_MS 1000
#define MIGRATE_MAX_MIRROR_MS	  3600000

bool ub_migrate_is_on(const struct ub_keeper *k)
{
	return k->migration.phase != UB_MIGRATION_NONE;
}

/* ---- state.json ---------------------------------------------------------- */

static struct ub_target migrate_target(const struct ub_keeper *k)
{
	const struct ub_keeper_migration *m = &k->migration;
	bool is_known = m->identity != NULL;

	return (struct ub_target){ &m->recipe->opts,	   is_known ? &m->limits : NULL,
				   is_known ? m->caps : 0, m->identity,
				   k->next_command,	   m->store_fd };
}

json_t *ub_migrate_make_state(const struct ub_keeper *k, struct ub_err *err)
{
	const struct ub_keeper_migration *m = &k->migration;
	struct ub_target target, asked;
	char cookie[17];
	json_t *json;

	if (!ub_migrate_is_on(k))
		return NULL;
	target = asked = migrate_target(k);
	asked.limits = NULL;
	asked.identity = NULL;
	snprintf(cookie, sizeof(cookie), "%016llx", (unsigned long long)m->cookie);
	json = json_pack("{s:s, s:b, s:b, s:I, s:I, s:I, s:o, s:o*}", "cookie", cookie, "wait",
			 m->waits, "cancelled", m->is_cancelled, "rate_bytes",
			 (json_int_t)m->rate_bytes, "mirror_timeout_ms",
			 (json_int_t)m->mirror_timeout_ms, "began", (json_int_t)m->began_unix_s,
			 "destination", ub_recipe_make_of(k, &asked), "recipe",
			 m->identity ? ub_recipe_make_of(k, &target) : NULL);
	if (!json)
		ub_err_errno(err, ENOMEM, "state.json");
	return json;
}

void ub_migrate_noted(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;

	m->must_note = false;
	/* Nobody asks it any more. */
	if (!ub_migrate_is_on(k) && m->has_side) {
		ub_rundir_remove_side(&k->rundir);
		m->has_side = false;
	}
}

/* What has happened already: it is written down now or, where /run is full, later. */
static void migrate_note(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;
	struct ub_err err = { 0 };

	/*
	 * I/O waits for another server, and whoever writes may wait for memory: until then
	 * NAME/side says it.
	 */
	if (k->server->gone) {
		m->must_note = true;
		m->note_not_before_ms = 0;
		return;
	}
	if (ub_keeper_write_state(k, &err) == 0)
		return;
	if (!m->must_note)
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: %s", k->info.dev_id, err.text);
	m->must_note = true;
	m->note_not_before_ms = ub_now_ms() + MIGRATE_NOTE_MS;
}

/* ---- how it goes: for people and programs -------------------------------- */

static const char *const migrate_phases[UB_NR_MIGRATION_PHASES] = {
	[UB_MIGRATION_CONNECTING] = "connecting", [UB_MIGRATION_READY] = "connecting",
	[UB_MIGRATION_COPYING] = "copying",	  [UB_MIGRATION_PAUSED] = "paused",
	[UB_MIGRATION_IN_STEP] = "in-step",	  [UB_MIGRATION_CUTOVER] = "cutover",
};

static void migrate_set_label(struct ub_keeper_migration *m)
{
	const struct ub_attach_options *o = &m->recipe->opts;
	char size[32];

	if (o->nbd)
		nbd_options_describe(o->nbd, m->label, sizeof(m->label));
	else
		snprintf(m->label, sizeof(m->label), "memory of %s",
			 ub_size_format(o->size_bytes, size, sizeof(size)));
	ub_text_clean(m->label);
}

static struct ub_migration_progress migrate_progress(const struct ub_keeper *k)
{
	struct ub_migration_progress p = { 0 };

	if (!k->stats)
		return p;
	p.total_bytes = ub_stat_read(&k->stats->migration.total_bytes);
	p.dirty_bytes = ub_stat_read(&k->stats->migration.dirty_bytes);
	p.copied_bytes = ub_stat_read(&k->stats->migration.copied_bytes);
	p.zeroed_bytes = ub_stat_read(&k->stats->migration.zeroed_bytes);
	for (unsigned i = 0; i < k->info.nr_hw_queues; i++)
		p.mirrored_bytes += ub_stat_read(&k->stats->queues[i].mirrored_bytes);
	return p;
}

static json_t *migrate_text(const char *text)
{
	return *text ? json_string(text) : json_null();
}

json_t *ub_migrate_to_json(const struct ub_keeper *k)
{
	const struct ub_keeper_migration *m = &k->migration;
	struct ub_migration_progress p;

	if (!ub_migrate_is_on(k))
		return json_null();
	p = migrate_progress(k);
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
	const struct ub_migration_result *r = &k->migration.last;

	if (!r->result)
		return json_null();
	return json_pack("{s:s, s:s, s:o, s:f, s:o, s:I, s:I, s:I}", "result", r->result,
			 "destination", r->label, "why", migrate_text(r->why), "seconds",
			 (double)r->took_ms / 1000, "pause_ms",
			 r->has_pause ? json_real((double)r->pause_us / 1000) : json_null(),
			 "copied_bytes", (json_int_t)r->progress.copied_bytes, "zeroed_bytes",
			 (json_int_t)r->progress.zeroed_bytes, "mirrored_bytes",
			 (json_int_t)r->progress.mirrored_bytes);
}

static void migrate_remember(struct ub_keeper *k, const char *result, const char *why)
{
	struct ub_keeper_migration *m = &k->migration;
	struct ub_migration_result *r = &m->last;

	*r = (struct ub_migration_result){ .result = result, .took_ms = ub_now_ms() - m->began_ms };
	r->progress = migrate_progress(k);
	snprintf(r->label, sizeof(r->label), "%s", m->label);
	snprintf(r->why, sizeof(r->why), "%s", why);
	ub_text_clean(r->why);
}

/* ---- its end, one way or the other --------------------------------------- */

static void migrate_close_attempt(struct ub_keeper_migration *m)
{
	ub_close(&m->side_fd);
	m->is_prepared = m->is_sent = m->is_heard = false;
}

static void migrate_answer_cancellers(struct ub_keeper *k, const struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->migration;
	struct ub_control_caller callers[UB_CONTROL_MAX_CLIENTS];
	unsigned nr = m->nr_cancellers;

	/* An answer may be followed by the next request. */
	memcpy(callers, m->cancellers, sizeof(callers));
	m->nr_cancellers = 0;
	for (unsigned i = 0; i < nr; i++)
		ub_control_answer(&k->control, callers[i], NULL, err);
}

/* The device is on its source, as before. code: an errno; ECANCELED: as somebody wished. */
static void migrate_failed(struct ub_keeper *k, int code, const char *why)
{
	struct ub_keeper_migration *m = &k->migration;

	migrate_remember(k, code == ECANCELED ? "cancelled" : "failed",
			 code == ECANCELED ? "" : why);
	if (code == ECANCELED)
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: migrating it to %.200s was cancelled",
		       k->info.dev_id, m->label);
	else
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: it is not migrated to %.150s: %.250s",
		       k->info.dev_id, m->label, why);
	migrate_close_attempt(m);
	ub_close(&m->store_fd);
	m->phase = UB_MIGRATION_NONE;
	m->has_leftovers = true;
	/* else the next keeper would begin it anew if state.json cannot be written */
	ub_rundir_void_side(&k->rundir);
	migrate_note(k);
	migrate_answer_cancellers(k, &(struct ub_err){ .code = 0 });
}

/* What the server will not resize by itself any more, or may from now on. */
static void migrate_forget_growth(struct ub_keeper *k)
{
	if (k->resize.is_asked && !k->resize.has_caller)
		k->resize.is_asked = false;
	ub_resize_export_grown(k);
}

/*
 * What the device is made of changes its place with what it is being moved to. Waits for nothing,
 * and allocates nothing.
 */
static void migrate_swap(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;
	struct ub_recipe *recipe = k->recipe;
	struct ub_command *command = k->command;
	char *identity = k->identity;
	int store_fd = k->store_fd;

	k->opts = &m->recipe->opts;
	k->recipe = m->recipe;
	m->recipe = recipe;
	k->command = k->next_command;
	k->command->is_in_use = true;
	k->next_command = command;
	k->next_command->restarts = false; /* it ends with its last connection, perhaps */
	k->store_fd = m->store_fd;
	m->store_fd = store_fd;
	k->identity = m->identity;
	m->identity = identity;
	k->caps = m->caps;
	k->limits = m->limits;
	ub_close(&m->store_fd); /* the server has given the source up */
	migrate_close_attempt(m);
	m->phase = UB_MIGRATION_NONE;
	m->has_leftovers = true;
	migrate_forget_growth(k);
}

/* pause_us: NULL: the server died before it could tell. */
static void migrate_moved(struct ub_keeper *k, const uint64_t *pause_us)
{
	struct ub_keeper_migration *m = &k->migration;
	struct ub_err late = { 0 };
	char pause[64] = "";

	ub_step("migrate-moved", &late); /* which cannot fail: it has happened */
	migrate_remember(k, "moved", "");
	m->last.has_pause = pause_us != NULL;
	m->last.pause_us = pause_us ? *pause_us : 0;
	if (pause_us)
		snprintf(pause, sizeof(pause), "; I/O stood still for %llu.%03llu ms",
			 (unsigned long long)*pause_us / 1000,
			 (unsigned long long)*pause_us % 1000);
	ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: migrated to %.300s%s", k->info.dev_id, m->label,
	       pause);
	migrate_swap(k);
	ub_keeper_renew_standby(k); /* it was made for the source */
	migrate_note(k);
	ub_err_set(&late, EALREADY, "it is too late: the device has been migrated to %.300s",
		   m->label);
	migrate_answer_cancellers(k, &late);
}

/*
 * Whether the command has ended that nobody needs any more. Waits for nothing: a server may die
 * meanwhile.
 */
static bool migrate_command_has_ended(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;
	struct ub_command *c = k->next_command;

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
static void migrate_clear(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;

	m->has_leftovers = false;
	m->clear_deadline_ms = 0;
	ub_command_end(k->next_command);
	*k->next_command = (struct ub_command)UB_COMMAND_NONE_YET;
	ub_close(&m->store_fd);
	free(m->identity);
	m->identity = NULL;
	if (m->recipe)
		ub_recipe_destroy(m->recipe);
	free(m->recipe);
	m->recipe = NULL;
}

/* ---- what a server says -------------------------------------------------- */

static int migrate_control(struct ub_keeper *k, enum ub_migrate_control what)
{
	struct ub_keeper_migration *m = &k->migration;
	struct ub_msg_migrate_control msg = {
		.header = { .type = UB_MSG_MIGRATE_CONTROL, .len_bytes = sizeof(msg) },
		.id = m->id,
		.what = what,
		.rate_bytes = m->rate_bytes,
	};

	return m->is_sent ? ub_message_send(k->server->fd, &msg.header, NULL, 0, MSG_DONTWAIT) : 0;
}

static void migrate_cancel(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;

	m->is_cancelled = true;
	if (!m->is_sent)
		migrate_failed(k, ECANCELED, "");
	else if (migrate_control(k, UB_MIGRATE_CANCEL) < 0)
		ub_log(UB_LOG_DEBUG, "the server is gone already"); /* and then it ends, too */
}

/* What the device would be: with the size and the blocks that it has. */
static int migrate_take_limits(struct ub_keeper *k, const struct ub_limits *limits,
			       struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->migration;

	m->limits = *limits;
	if (limits->size_bytes < k->limits.size_bytes)
		return ub_err_set(err, ENOSPC, "it has %llu bytes, and the device has %llu",
				  (unsigned long long)limits->size_bytes,
				  (unsigned long long)k->limits.size_bytes);
	m->limits.size_bytes = k->limits.size_bytes;
	m->limits.logical_block_bytes = k->limits.logical_block_bytes;
	if (m->limits.physical_block_bytes < m->limits.logical_block_bytes)
		m->limits.physical_block_bytes = m->limits.logical_block_bytes;
	m->limits.read_only = k->limits.read_only;
	return ub_limits_check(&m->limits, err);
}

/*
 * The destination is there. It is written down what it is, before the first moment at which the
 * device may be on it.
 */
static int migrate_ready(struct ub_keeper *k, const struct ub_msg_migration *msg,
			 struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->migration;
	int ret = ub_step("migrate-ready", err);

	if (ret == 0)
		ret = migrate_take_limits(k, &msg->limits, err);
	if (ret)
		return ret;
	m->caps = msg->caps;
	free(m->identity);
	m->identity = strdup(msg->identity);
	if (!m->identity)
		return ub_err_errno(err, ENOMEM, "what the destination is");
	return ub_keeper_write_state(k, err);
}

static void migrate_take_ready(struct ub_keeper *k, const struct ub_msg_migration *msg)
{
	struct ub_keeper_migration *m = &k->migration;
	struct ub_err err = { 0 };

	if (m->identity || m->is_cancelled)
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
	struct ub_keeper_migration *m = &k->migration;

	/* Again and again for the same reason is told once. */
	if (strcmp(m->why, why) != 0)
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: migrating it to %.150s pauses: %.250s",
		       k->info.dev_id, m->label, why);
	snprintf(m->why, sizeof(m->why), "%s", why);
}

static void migrate_in_step(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;

	m->why[0] = '\0';
	ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: in step with %.200s%s", k->info.dev_id, m->label,
	       m->waits ? ": waits to be told to go there (migrate --complete)" : "");
}

static void migrate_take_failed(struct ub_keeper *k, const struct ub_msg_migration *msg)
{
	const struct ub_keeper_migration *m = &k->migration;
	int code = msg->code ? (int)msg->code : EIO;

	if (code == ECANCELED && m->refused.code)
		migrate_failed(k, m->refused.code, m->refused.text);
	else
		migrate_failed(k, code, msg->text[0] ? msg->text : strerror(code));
}

void ub_migrate_said(struct ub_keeper *k, struct ub_msg_migration *msg)
{
	struct ub_keeper_migration *m = &k->migration;

	if (!ub_migrate_is_on(k) || !m->is_sent || msg->id != m->id ||
	    !ub_message_string(&msg->header, sizeof(*msg), 0) ||
	    msg->phase >= UB_NR_MIGRATION_PHASES)
		return;
	msg->text[sizeof(msg->text) - 1] = '\0';
	ub_text_clean(msg->text);
	m->is_heard = true;
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
		migrate_moved(k, &msg->pause_us);
		break;
	case UB_MIGRATION_FAILED:
		migrate_take_failed(k, msg);
		break;
	default:
		break;
	}
}

/* ---- an attempt ---------------------------------------------------------- */

/* How the command is started, and who is told of it. */
static int migrate_set_command(struct ub_keeper *k, struct ub_err *err)
{
	struct ub_command *c = k->next_command;

	*c = (struct ub_command)UB_COMMAND_NONE_YET;
	c->loop = &k->loop;
	c->is_daemon = k->opts->daemon;
	c->reconnected = ub_keeper_hand_over_socket;
	c->arg = k;
	return ub_recipe_apply_command(k->migration.recipe, c, err);
}

/* Starts [ COMMAND ], if there is one and it does not run. */
static int migrate_start_command(struct ub_keeper *k, struct ub_err *err)
{
	struct ub_attach_options *o = &k->migration.recipe->opts;
	struct ub_command *c = k->next_command;
	int ret;

	if (!o->command || c->pid)
		return 0;
	ub_command_end(c);
	ret = migrate_set_command(k, err);
	if (ret == 0)
		ret = ub_command_start(c, err);
	if (ret)
		return ret;
	free(o->nbd->path);
	o->nbd->path = strdup(c->path);
	return o->nbd->path ? 0 : ub_err_errno(err, ENOMEM, "the command's socket");
}

static int migrate_make_store(struct ub_keeper *k, struct ub_err *err)
{
	const struct ub_attach_options *o = &k->migration.recipe->opts;
	int fd;

	if (o->nbd)
		return 0;
	fd = ub_store_create(o->size_bytes, o->prealloc, err);
	if (fd < 0)
		return fd;
	k->migration.store_fd = fd;
	return 0;
}

/*
 * All that an attempt needs, under a new cookie: whatever an earlier one still does has no effect.
 */
static int migrate_prepare(struct ub_keeper *k, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->migration;
	int ret;

	if (getrandom(&m->cookie, sizeof(m->cookie), 0) != sizeof(m->cookie) || !m->cookie)
		return ub_err_set(err, EAGAIN, "there are no random numbers: try again");
	ret = migrate_start_command(k, err);
	if (ret == 0)
		ret = migrate_make_store(k, err);
	if (ret == 0)
		ret = ub_keeper_write_state(k, err);
	if (ret)
		return ret;
	m->has_side = true;
	m->side_fd = ub_rundir_make_side(&k->rundir, err);
	m->is_prepared = m->side_fd >= 0;
	return m->is_prepared ? 0 : -err->code;
}

/* What a server that does not know it does without; in a string of its own, NULL: no memory. */
static char *migrate_make_extras(const char *more_options)
{
	json_t *json = json_object(),
	       *more = more_options ? json_loads(more_options, 0, NULL) : NULL;
	char *text = NULL;

	if (!more_options || (more && json_object_set_new(json, "options", json_incref(more)) == 0))
		text = json_dumps(json, JSON_COMPACT);
	json_decref(more);
	json_decref(json);
	return text;
}

/* *msg is the caller's to free(). */
static int migrate_make_message(struct ub_keeper *k, struct ub_msg_migrate **msg,
				struct ub_err *err)
{
	const struct ub_keeper_migration *m = &k->migration;
	const struct ub_attach_options *o = &m->recipe->opts;
	cleanup_free char *needed = NULL, *more = NULL, *extras = NULL;
	bool is_whole = !o->nbd || nbd_options_to_two_json(o->nbd, &needed, &more) == 0;
	const char *options = needed ? needed : o->options;
	size_t options_bytes = strlen(options) + 1, extras_bytes, len;

	extras = is_whole ? migrate_make_extras(more) : NULL;
	if (!extras)
		return ub_err_errno(err, ENOMEM, "the message to the server");
	extras_bytes = k->server->version > UB_MESSAGE_V3 ? strlen(extras) + 1 : 0;
	len = sizeof(**msg) + options_bytes + extras_bytes;
	*msg = calloc(1, len);
	if (!*msg)
		return ub_err_errno(err, ENOMEM, "the message to the server");
	if (len > UB_MESSAGE_MAX_BYTES)
		return ub_err_set(err, E2BIG, "the options of the destination are too long");
	(*msg)->header.type = UB_MSG_MIGRATE;
	(*msg)->header.len_bytes = (uint32_t)len;
	(*msg)->id = m->id;
	(*msg)->flags = m->waits ? UB_MIGRATE_WAIT : 0;
	(*msg)->cookie = m->cookie;
	(*msg)->rate_bytes = m->rate_bytes;
	(*msg)->mirror_timeout_ms = m->mirror_timeout_ms;
	(*msg)->size_bytes = o->nbd ? 0 : o->size_bytes;
	(*msg)->options_bytes = (uint32_t)options_bytes;
	snprintf((*msg)->kind, sizeof((*msg)->kind), "%s", o->kind);
	memcpy((*msg)->options, options, options_bytes);
	memcpy((*msg)->options + options_bytes, extras, extras_bytes);
	return 0;
}

static int migrate_send(struct ub_keeper *k, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->migration;
	cleanup_fd int mounts = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	const int all[UB_NR_MIGRATE_FDS] = {
		[UB_FD_SIDE] = m->side_fd,
		[UB_FD_MOUNTS] = mounts,
		[UB_FD_DESTINATION] = m->store_fd,
	};
	cleanup_free struct ub_msg_migrate *msg = NULL;
	int packed[UB_MESSAGE_MAX_FDS], ret;
	unsigned nr;

	if (!m->id) /* the keeper before this one may have asked, too */
		m->id = (uint32_t)ub_now_ms();
	m->id++;
	ret = migrate_make_message(k, &msg, err);
	if (ret)
		return ret;
	nr = ub_message_pack_fds(all, UB_NR_MIGRATE_FDS, k->server->version, packed, &msg->has_fd);
	ret = ub_message_send(k->server->fd, &msg->header, packed, nr, MSG_DONTWAIT);
	if (ret)
		return ub_err_errno(err, -ret, "the server cannot be told");
	ub_close(&m->side_fd);
	m->is_sent = true;
	m->sent_ms = ub_now_ms();
	return 0;
}

/*
 * Not while the size may change. What an earlier server had sent to the destination is in the
 * ledger: the mirror waits.
 */
static bool migrate_may_send(const struct ub_keeper *k)
{
	return !k->server->gone && k->server->fd >= 0 && !k->recovery.is_running &&
	       !k->resize.is_running && !k->resize.must_settle;
}

/*
 * Takes the next step of one that goes on. When to be called again, in ms; -1: the server has the
 * word.
 */
static int migrate_go_on(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;
	struct ub_err err = { 0 };
	int ret = 0;

	if (m->is_sent) {
		if (m->is_heard)
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
	} else if (!migrate_may_send(k)) {
		return MIGRATE_TURN_MS;
	} else {
		if (!m->is_prepared)
			ret = migrate_prepare(k, &err);
		if (ret == 0)
			ret = migrate_send(k, &err);
		if (ret == 0)
			return MIGRATE_TURN_MS;
	}
	migrate_failed(k, err.code, err.text);
	return -1;
}

/* ---- the verb `migrate` -------------------------------------------------- */

static int migrate_check(struct ub_keeper *k, struct ub_err *err)
{
	if (ub_migrate_is_on(k))
		return ub_err_set(err, EBUSY,
				  "it is being migrated to %.200s already: cancel that first, or "
				  "wait",
				  k->migration.label);
	if (k->recovery.has_failed)
		return ub_err_set(err, EIO, "the device has failed: detach it, and attach it anew");
	if (!k->was_live || k->server->gone || k->server->fd < 0 || k->recovery.is_running)
		return ub_err_set(err, EAGAIN, "the device is not live now: try again");
	if (k->nr_signals || k->detach.nr_callers || k->detach.is_forced)
		return ub_err_set(err, EBUSY, "the device is being taken away");
	if (k->resize.is_running || k->resize.is_asked || k->resize.must_settle)
		return ub_err_set(err, EBUSY, "its size is being changed: try again");
	return 0;
}

static int migrate_take_number(const json_t *args, const char *name, uint64_t min, uint64_t max,
			       uint64_t *value, struct ub_err *err)
{
	const json_t *number = json_object_get(args, name);
	json_int_t got = json_integer_value(number);

	if (!number)
		return 0;
	if (!json_is_integer(number))
		return ub_err_set(err, EINVAL, "%s: it is a number", name);
	if (got < 0 || (uint64_t)got < min || (uint64_t)got > max)
		return ub_err_set(err, ERANGE, "%s: it is between %llu and %llu", name,
				  (unsigned long long)min, (unsigned long long)max);
	*value = (uint64_t)got;
	return 0;
}

static int migrate_take_flag(const json_t *args, const char *name, bool *value, struct ub_err *err)
{
	const json_t *flag = json_object_get(args, name);

	if (flag && !json_is_boolean(flag))
		return ub_err_set(err, EINVAL, "%s: it is true or false", name);
	*value = json_is_true(flag);
	return 0;
}

/* A text of bytes in hexadecimal digits, none of them 0. */
static bool migrate_is_hex(const json_t *json)
{
	const char *hex = json_string_value(json);
	cleanup_free char *text = hex ? ub_text_from_hex(hex) : NULL;

	return text != NULL;
}

/* The command as a recipe has it; none: null. *json is the caller's. */
static int migrate_parse_command(const struct ub_keeper *k, const json_t *destination,
				 json_t **json, struct ub_err *err)
{
	json_t *words = json_object_get(destination, "command_hex"),
	       *dir = json_object_get(destination, "dir_hex");
	bool restarts = false;
	size_t nr = json_array_size(words);
	int ret = migrate_take_flag(destination, "restart_command", &restarts, err);

	*json = NULL;
	if (ret)
		return ret;
	if (!words) {
		*json = json_null();
		return restarts ? ub_err_set(err, EINVAL,
					     "restart_command: there is no command to be started") :
				  0;
	}
	for (size_t i = 0; i < nr; i++) {
		if (!migrate_is_hex(json_array_get(words, i)))
			nr = 0;
	}
	if (nr == 0 || !migrate_is_hex(dir))
		return ub_err_set(err, EINVAL,
				  "command_hex, dir_hex: they are a list of words and a directory, "
				  "in hexadecimal digits");
	*json = json_pack("{s:O, s:b, s:b, s:O, s:i, s:s, s:i, s:I}", "words_hex", words,
			  "is_connected", 0, "restarts", restarts, "dir_hex", dir, "oom_score",
			  k->oom_score, "socket", "", "pid", 0, "started", (json_int_t)0);
	return *json ? 0 : ub_err_errno(err, ENOMEM, "the command");
}

/*
 * What was asked for, over what the device has. nbd: for o->nbd; nbd_options_destroy() in either
 * case.
 */
static int migrate_parse_nbd(struct ub_keeper *k, const json_t *destination,
			     struct ub_attach_options *o, struct nbd_options *nbd,
			     struct ub_err *err)
{
	const char *text = json_string_value(json_object_get(destination, "nbd"));
	bool has_command = json_object_get(destination, "command_hex") != NULL;
	int ret;

	if (!text)
		return ub_err_set(err, EINVAL, "destination: which NBD export, its nbd must say");
	nbd_options_destroy(nbd);
	ret = nbd_options_from_json(nbd, text, err);
	if (ret)
		return ret;
	o->nbd = nbd;
	if (nbd->transport == NBD_SOCKET)
		return ub_err_set(err, EOPNOTSUPP,
				  "a connection that is handed over ready made (--fd, --command) "
				  "cannot be made again: a device is not migrated there");
	if (has_command)
		nbd->transport = NBD_UNIX; /* the keeper's, which it says when it is there */
	if (nbd->transport == NBD_NOWHERE || (nbd->transport == NBD_URI && !nbd->uri) ||
	    (nbd->transport == NBD_TCP && (!nbd->host || !nbd->port)) ||
	    (nbd->transport == NBD_UNIX && !nbd->path && !has_command))
		return ub_err_set(err, EINVAL, "destination: its nbd does not say which server");
	/*
	 * What was given up on the way there may still be written, and here over what came later.
	 */
	if (!has_command && k->opts->nbd && nbd_options_are_one_export(k->opts->nbd, nbd))
		return ub_err_set(err, EINVAL,
				  "the device is there already: it cannot be migrated to the "
				  "export "
				  "that it is served from");
	if (nbd->auto_resize && !(k->features & UBLK_F_UPDATE_SIZE))
		return ub_err_set(err, EOPNOTSUPP,
				  "--auto-resize: this kernel cannot change the size of a device");
	return nbd_options_check(nbd, err);
}

static int migrate_parse_mem(const struct ub_keeper *k, const json_t *destination,
			     struct ub_attach_options *o, struct ub_err *err)
{
	char is[32], was[32];
	int ret;

	o->size_bytes = k->limits.size_bytes;
	ret = migrate_take_number(destination, "size_bytes", 1, INT64_MAX, &o->size_bytes, err);
	if (ret == 0)
		ret = migrate_take_flag(destination, "prealloc", &o->prealloc, err);
	if (ret)
		return ret;
	if (o->size_bytes < k->limits.size_bytes)
		return ub_err_set(err, ERANGE,
				  "%s of memory is smaller than the device, which has %s",
				  ub_size_format(o->size_bytes, is, sizeof(is)),
				  ub_size_format(k->limits.size_bytes, was, sizeof(was)));
	if (o->size_bytes % k->limits.logical_block_bytes)
		return ub_err_set(err, EINVAL,
				  "a size of %llu bytes is not a multiple of the block size %u",
				  (unsigned long long)o->size_bytes, k->limits.logical_block_bytes);
	if (json_object_get(destination, "command_hex"))
		return ub_err_set(err, EINVAL, "command_hex: memory has no command");
	return 0;
}

static int migrate_read_recipe(struct ub_keeper *k, json_t *json, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->migration;
	int ret;

	m->recipe = calloc(1, sizeof(*m->recipe));
	if (!m->recipe)
		return ub_err_errno(err, ENOMEM, "the destination");
	ret = ub_recipe_read(json, m->recipe, err);
	/* What no recipe has, because it is this keeper's affair. */
	m->recipe->opts.daemon = k->opts->daemon;
	m->recipe->opts.no_stats = k->opts->no_stats;
	return ret;
}

/* Makes m->recipe of it, as state.json would have it. */
static int migrate_parse_destination(struct ub_keeper *k, const json_t *destination,
				     struct ub_err *err)
{
	static const struct ub_command no_command;
	const char *kind = json_string_value(json_object_get(destination, "kind"));
	struct ub_attach_options o = *k->opts;
	struct nbd_options nbd;
	json_t *json = NULL, *command = NULL;
	int ret;

	nbd_options_init(&nbd);
	o.options = "";
	o.nbd = NULL;
	o.prealloc = false;
	o.size_bytes = 0;
	o.logical_block_bytes = k->limits.logical_block_bytes;
	if (kind && strcmp(kind, "mem") == 0) {
		o.kind = "mem";
		ret = migrate_parse_mem(k, destination, &o, err);
	} else if (kind && strcmp(kind, "nbd") == 0) {
		o.kind = "nbd";
		ret = migrate_parse_nbd(k, destination, &o, &nbd, err);
	} else {
		ret = ub_err_set(err, EINVAL, "destination: its kind is mem or nbd");
	}
	if (ret == 0)
		ret = migrate_parse_command(k, destination, &command, err);
	if (ret == 0) {
		const struct ub_target target = { .opts = &o,
						  .command = &no_command,
						  .store_fd = -1 };

		json = ub_recipe_make_of(k, &target);
		if (!json || json_object_set(json, "command", command) < 0)
			ret = ub_err_errno(err, ENOMEM, "the destination");
	}
	if (ret == 0)
		ret = migrate_read_recipe(k, json, err);
	json_decref(command);
	json_decref(json);
	nbd_options_destroy(&nbd);
	return ret;
}

static int migrate_parse(struct ub_keeper *k, const json_t *args, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->migration;
	int ret;

	m->rate_bytes = 0;
	m->mirror_timeout_ms = MIGRATE_DEFAULT_MIRROR_MS;
	ret = migrate_take_flag(args, "wait", &m->waits, err);
	if (ret == 0)
		ret = migrate_take_number(args, "rate_bytes", 0, INT64_MAX, &m->rate_bytes, err);
	if (ret == 0)
		ret = migrate_take_number(args, "mirror_timeout_ms", MIGRATE_MIN_MIRROR_MS,
					  MIGRATE_MAX_MIRROR_MS, &m->mirror_timeout_ms, err);
	return ret ? ret : migrate_parse_destination(k, json_object_get(args, "destination"), err);
}

static int migrate_begin(struct ub_keeper *k, const json_t *args, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->migration;
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
		ret = migrate_prepare(k, err);
	}
	if (ret == 0 && migrate_may_send(k))
		ret = migrate_send(k, err);
	if (ret == 0) {
		migrate_set_label(m);
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: migrating it to %.300s", k->info.dev_id,
		       m->label);
		return 0;
	}
	migrate_close_attempt(m);
	m->has_leftovers = true;
	if (ub_migrate_is_on(k)) {
		m->phase = UB_MIGRATION_NONE;
		migrate_note(k);
	}
	return ret;
}

static void migrate_take_request(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;
	struct ub_control_caller caller = m->caller;
	json_t *request = m->request;
	struct ub_err err = { 0 };

	m->is_asked = false;
	m->request = NULL;
	migrate_begin(k, request, &err);
	json_decref(request);
	ub_control_answer(&k->control, caller, NULL, &err);
}

int ub_migrate_tend(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;
	int wait_ms = -1;

	if (m->is_tending || k->server->gone || !k->was_live)
		return -1;
	m->is_tending = true;
	if (m->has_leftovers && migrate_command_has_ended(k))
		migrate_clear(k);
	if (m->is_asked && !m->has_leftovers)
		migrate_take_request(k);
	if (ub_migrate_is_on(k))
		wait_ms = migrate_go_on(k);
	if (m->must_note && ub_now_ms() >= m->note_not_before_ms)
		migrate_note(k);
	m->is_tending = false;
	return m->must_note || m->has_leftovers ? MIGRATE_TURN_MS : wait_ms;
}

int ub_verb_migrate(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
		    json_t *reply, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->migration;
	int ret = migrate_check(k, err);

	(void)reply;
	if (ret)
		return ret;
	if (m->is_asked)
		return ub_err_set(err, EBUSY, "somebody else migrates it already: try again");
	m->request = json_deep_copy(args);
	if (!m->request)
		return ub_err_errno(err, ENOMEM, "the request");
	m->is_asked = true;
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
	struct ub_keeper_migration *m = &k->migration;
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
		migrate_note(k);
	}
	return 0;
}

int ub_verb_migrate_rate(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
			 json_t *reply, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->migration;
	uint64_t was = m->rate_bytes;
	int ret = migrate_check_is_on(k, err);

	(void)caller;
	(void)reply;
	if (ret == 0 && !json_object_get(args, "rate_bytes"))
		ret = ub_err_set(err, EINVAL,
				 "rate_bytes: how many a second, it must say; 0: as many as there "
				 "can be");
	if (ret == 0)
		ret = migrate_take_number(args, "rate_bytes", 0, INT64_MAX, &m->rate_bytes, err);
	if (ret)
		return ret;
	ret = migrate_control(k, UB_MIGRATE_RATE);
	if (ret) {
		m->rate_bytes = was;
		return ub_err_errno(err, -ret, "the server cannot be told");
	}
	migrate_note(k);
	return 0;
}

int ub_verb_migrate_cancel(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
			   json_t *reply, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->migration;
	int ret = migrate_check_is_on(k, err);
	unsigned nr = 0;

	(void)args;
	(void)reply;
	if (ret)
		return ret;
	/* Those that have gone make room. */
	for (unsigned i = 0; i < m->nr_cancellers; i++) {
		if (ub_control_is_awaited(&k->control, m->cancellers[i]))
			m->cancellers[nr++] = m->cancellers[i];
	}
	m->nr_cancellers = nr;
	if (nr == UB_CONTROL_MAX_CLIENTS)
		return ub_err_set(err, EBUSY, "%u others wait for it already", nr);
	m->cancellers[m->nr_cancellers++] = caller;
	migrate_cancel(k);
	if (ub_migrate_is_on(k))
		/* the next keeper, if one comes before the end, does not begin it anew */
		migrate_note(k);
	return 1; /* with its end */
}

bool ub_migrate_give_up(struct ub_keeper *k)
{
	if (ub_migrate_is_on(k) && !k->migration.is_cancelled)
		migrate_cancel(k);
	return !ub_migrate_is_on(k);
}

/* ---- servers that die, and keepers that come and go ---------------------- */

static bool migrate_has_moved(const struct ub_keeper *k)
{
	return ub_migrate_is_on(k) && k->migration.identity &&
	       ub_rundir_read_side(&k->rundir) == k->migration.cookie;
}

/* It is begun anew, from the beginning. */
static void migrate_rewind(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;

	migrate_close_attempt(m);
	ub_close(&m->store_fd);
	free(m->identity);
	m->identity = NULL;
	m->phase = UB_MIGRATION_CONNECTING;
}

/*
 * The server died in a cutover: which side of the pages is the device's says the same fact as for
 * everything else.
 */
static void migrate_settle_side(struct ub_keeper *k)
{
	uint64_t cookie = k->ledger ? atomic_load(&k->ledger->cut_cookie) : 0;

	if (!cookie)
		return;
	if (ub_rundir_read_side(&k->rundir) == cookie)
		atomic_store_explicit(&k->stats->side,
				      atomic_load(&k->ledger->cut_side) % UB_STATS_SIDES,
				      memory_order_release);
	atomic_store(&k->ledger->cut_cookie, 0);
}

void ub_migrate_server_gone(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;
	bool was_sent = m->is_sent;

	migrate_settle_side(k);
	if (migrate_has_moved(k))
		migrate_moved(k, NULL);
	if (!ub_migrate_is_on(k))
		return;
	migrate_rewind(k);
	if (m->is_cancelled)
		migrate_failed(k, ECANCELED, "");
	else if (was_sent)
		snprintf(m->why, sizeof(m->why), "the server died: it begins anew");
	m->is_again = true;
}

void ub_migrate_let_go(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;

	m->nr_cancellers = 0;
	json_decref(m->request);
	m->request = NULL;
	m->is_asked = false;
	ub_close(&m->side_fd);
	ub_close(&m->store_fd);
}

void ub_migrate_adopt_again(struct ub_keeper *k)
{
	if (migrate_has_moved(k)) {
		migrate_remember(k, "moved", "");
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: migrated to %.300s", k->info.dev_id,
		       k->migration.label);
		migrate_swap(k);
	} else if (ub_migrate_is_on(k)) {
		migrate_rewind(k);
	}
}

bool ub_migrate_has_raced(const struct ub_keeper *k)
{
	return ub_migrate_is_on(k) && ub_rundir_read_side(&k->rundir) == k->migration.cookie;
}

/* The command of a side, as another keeper has started it, becomes k->next_command. */
static int migrate_adopt_command(struct ub_keeper *k, struct ub_err *err)
{
	const struct ub_recipe *recipe = k->migration.recipe;
	pid_t pid = ub_recipe_command_pid(recipe);
	int ret;

	if (!recipe->command || !pid)
		return 0;
	ret = migrate_set_command(k, err);
	return ret ? ret : ub_command_adopt(k->next_command, &k->loop, pid, err);
}

/*
 * The migration is over: what the device was made of before it. Nothing that could go wrong matters
 * to the device.
 */
static void migrate_adopt_old_side(struct ub_keeper *k, json_t *recipe)
{
	struct ub_err err = { 0 };

	if (migrate_read_recipe(k, recipe, &err) != 0 || migrate_adopt_command(k, &err) != 0)
		ub_log(UB_LOG_WARNING,
		       "what the device was made of before it was migrated is left alone: %s",
		       err.text);
	k->migration.has_leftovers = true;
}

int ub_migrate_adopt(struct ub_keeper *k, const json_t *json, const struct ub_state *state,
		     struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->migration;
	json_t *migration = json_object_get(json, "migration"), *destination;
	json_int_t rate, timeout, began;
	const char *cookie;
	uint64_t now = (uint64_t)time(NULL);
	int waits, is_cancelled = 0, ret;

	m->has_side = true; /* a keeper may have died before it could remove it */
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
	ret = migrate_read_recipe(k, destination, err);
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
	migrate_set_label(m);
	snprintf(m->why, sizeof(m->why), "another keeper has taken over: it begins anew");
	if (!m->is_cancelled)
		ub_log(UB_LOG_NOTICE, "%s: migrating it to %.300s begins anew", state->name,
		       m->label);
	return 0;
}

void ub_migrate_end(struct ub_keeper *k)
{
	struct ub_keeper_migration *m = &k->migration;

	if (migrate_has_moved(k)) {
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: it had been migrated to %.300s",
		       k->info.dev_id, m->label);
	} else if (ub_migrate_is_on(k)) {
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: migrating it to %.300s is given up",
		       k->info.dev_id, m->label);
	}
	migrate_answer_cancellers(k, &(struct ub_err){ .code = 0 });
	migrate_close_attempt(m);
	m->phase = UB_MIGRATION_NONE;
	migrate_clear(k);
	json_decref(m->request);
	m->request = NULL;
	m->is_asked = false;
}
