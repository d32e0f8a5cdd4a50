/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One attempt of a migration: what it needs, and the message that begins it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "keeper/job/migrate-parts.h"
#include "keeper/keeper.h"
#include "keeper/note.h"

/* Starts [ COMMAND ], if there is one and it does not run. */
static int migrate_start_command(struct ub_keeper *k, struct ub_err *err)
{
	struct ub_command *c = &k->other->command;

	if (!k->other->o->command || c->pid)
		return 0;
	ub_command_end(c);
	*c = (struct ub_command)UB_COMMAND_NONE_YET;
	return ub_side_start_command(k, k->other, err);
}

/*
 * All that an attempt needs, under a new cookie: whatever an earlier one still does has no effect.
 */
int ub_migrate_prepare(struct ub_keeper *k, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->job.migration;
	int ret;

	if (getrandom(&m->cookie, sizeof(m->cookie), 0) != sizeof(m->cookie) || !m->cookie)
		return ub_err_set(err, EAGAIN, "there are no random numbers: try again");
	ret = migrate_start_command(k, err);
	if (ret == 0)
		ret = ub_side_make_store(k->other, err);
	if (ret == 0)
		ret = ub_note_write(k, err);
	if (ret)
		return ret;
	m->side_fd = ub_rundir_make_side(&k->rundir, err);
	if (m->side_fd < 0)
		return -err->code;
	m->attempt = UB_ATTEMPT_PREPARED;
	return 0;
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
	const struct ub_keeper_migration *m = &k->job.migration;
	const struct ub_side_options *o = k->other->o;
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

int ub_migrate_send(struct ub_keeper *k, struct ub_err *err)
{
	struct ub_keeper_migration *m = &k->job.migration;
	cleanup_fd int mounts = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	const int all[UB_NR_MIGRATE_FDS] = {
		[UB_FD_SIDE] = m->side_fd,
		[UB_FD_MOUNTS] = mounts,
		[UB_FD_DESTINATION] = k->other->store_fd,
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
	m->attempt = UB_ATTEMPT_SENT;
	m->sent_ms = ub_now_ms();
	return 0;
}

/*
 * Not while the size may change. What an earlier server had sent to the destination is in the
 * ledger: the mirror waits.
 */
bool ub_migrate_may_send(const struct ub_keeper *k)
{
	return !k->server->gone && k->server->fd >= 0 && k->life != UB_RECOVERING &&
	       !k->job.resize.is_running && !k->job.resize.must_settle;
}
