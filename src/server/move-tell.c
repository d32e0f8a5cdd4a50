/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the keeper is told of a migration. The server's main thread; never waits. */
#include "server/move-tell.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "backend/backend.h"
#include "base/cleanup.h"
#include "server/state.h"

void ub_move_forget_untold(struct ub_move *m)
{
	free(m->untold);
	m->untold = NULL;
}

void ub_move_tell_untold(struct server *s)
{
	struct ub_move *m = &s->move;

	if (!m->untold ||
	    ub_message_send(s->keeper_fd, &m->untold->header, NULL, 0, MSG_DONTWAIT) == -EAGAIN)
		return;
	ub_move_forget_untold(m);
}

/* NULL: no memory. The caller's. identity: NULL or "" where there is none to be told. */
static struct ub_msg_migration *move_make_message(uint32_t id, enum ub_migration_phase phase,
						  const char *identity, const struct ub_err *err)
{
	size_t len = identity ? strlen(identity) + 1 : 1;
	struct ub_msg_migration *msg = calloc(1, sizeof(*msg) + len);

	if (!msg)
		return NULL;
	msg->header.type = UB_MSG_MIGRATION;
	msg->header.len_bytes = (uint32_t)(sizeof(*msg) + len);
	msg->id = id;
	msg->phase = phase;
	if (err) {
		msg->code = (uint32_t)err->code;
		snprintf(msg->text, sizeof(msg->text), "%s", err->text);
	}
	if (identity)
		memcpy(msg->identity, identity, len);
	return msg;
}

/* The message is not the caller's any more. */
static void move_send(struct server *s, struct ub_msg_migration *msg)
{
	ub_move_forget_untold(&s->move); /* this one says more */
	s->move.untold = msg;
	ub_move_tell_untold(s);
}

void ub_move_tell(struct server *s, enum ub_migration_phase phase, const struct ub_err *err,
		  uint64_t pause_us)
{
	struct ub_move *m = &s->move;
	cleanup_free char *identity = NULL;
	struct ub_msg_migration *msg;

	if (m->told == phase && phase != UB_MIGRATION_FAILED)
		return;
	m->told = phase;
	if (phase == UB_MIGRATION_READY)
		identity = ub_backend_get_identity(m->dest);
	msg = move_make_message(m->id, phase, identity, err);
	if (!msg)
		/*
		 * the keeper asks again when it wants to know: this server is in no better shape
		 * then
		 */
		return;
	msg->pause_us = pause_us;
	if (phase == UB_MIGRATION_READY) {
		msg->caps = m->dest->ops->caps;
		msg->limits = m->dest->limits;
	}
	move_send(s, msg);
}

void ub_move_tell_of_another(struct server *s, uint32_t id, enum ub_migration_phase phase,
			     const struct ub_err *err)
{
	struct ub_msg_migration *msg = move_make_message(id, phase, NULL, err);

	if (msg)
		move_send(s, msg);
}
