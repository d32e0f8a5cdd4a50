/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a keeper says: when it may be said, how long it is, and who does it. The server's main
 * thread.
 *
 *   NEW ──CONFIG──► OPEN ──SERVE──► READY ──TAKE──► SERVING ──LIVE──► LIVE        OVER: it ends
 *
 * When the keeper goes before the device is live the server ends; a live one serves on, and so does
 * one that recovers it. A standby waits: it may be the last one who has what the device is made of.
 */
#include "server/words.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <ublk-bridge/message.h>

#include "backend/backend.h"
#include "backend/names.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "server/move-tell.h"
#include "server/predecessor.h"
#include "server/resize.h"
#include "server/serve.h"
#include "server/state.h"
#include "server/yield.h"

/* ---- a device that is not live yet --------------------------------------- */

static int words_config(struct server *s, struct ub_msg_header *header, int fds[],
			struct ub_err *err)
{
	return ub_serve_configure(s, (struct ub_msg_config *)header, fds, err);
}

static int words_serve(struct server *s, struct ub_msg_header *header, int fds[],
		       struct ub_err *err)
{
	return ub_serve_prepare(s, (const struct ub_msg_serve *)header, fds, err);
}

static int words_hold(struct server *s, struct ub_msg_header *header, int fds[], struct ub_err *err)
{
	(void)header;
	(void)fds;
	return ub_predecessor_hold_rings(s, err);
}

static int words_take(struct server *s, struct ub_msg_header *header, int fds[], struct ub_err *err)
{
	(void)header;
	(void)fds;
	return ub_serve_take(s, err);
}

static int words_live(struct server *s, struct ub_msg_header *header, int fds[], struct ub_err *err)
{
	(void)header;
	(void)fds;
	return ub_serve_live(s, err);
}

/* ---- one that is --------------------------------------------------------- */

static int words_socket(struct server *s, struct ub_msg_header *header, int fds[],
			struct ub_err *err)
{
	(void)header;
	if (!ub_backend_takes_sockets(s->backend) || fds[0] < 0)
		return ub_err_set(err, EPROTO, "an unexpected SOCKET message");
	ub_backend_take_socket(s->backend, ub_steal_fd(&fds[0]));
	return 0;
}

/* Everything that is asked for, or nothing. */
static int words_apply(struct server *s, const struct ub_settings *settings, struct ub_err *err)
{
	struct ub_settings of_backend = *settings;
	int ret = 0;

	if (s->phase != SERVER_LIVE)
		return ub_err_set(err, EAGAIN, "the device is not live yet");
	if ((settings->which & UB_SET_LOG_LEVEL) && settings->log_level > UB_LOG_DEBUG)
		return ub_err_set(err, EINVAL, "there is no log level %u", settings->log_level);
	of_backend.which &= ~(uint32_t)UB_SET_LOG_LEVEL;
	if (of_backend.which)
		ret = ub_backend_set(s->backend, &of_backend, err);
	if (ret == 0 && (settings->which & UB_SET_LOG_LEVEL))
		ub_log_set_level(settings->log_level);
	return ret;
}

static int words_set(struct server *s, struct ub_msg_header *header, int fds[], struct ub_err *err)
{
	const struct ub_msg_set *msg = (const struct ub_msg_set *)header;
	struct ub_msg_text answer = { .header = { .type = UB_MSG_SET,
						  .len_bytes = sizeof(answer) } };
	struct ub_err refusal = { 0 };

	(void)fds;
	(void)err;
	/* That it cannot be done is an answer, and no reason to end. */
	answer.value = (uint32_t)-words_apply(s, &msg->settings, &refusal);
	snprintf(answer.text, sizeof(answer.text), "%s", refusal.text);
	ub_message_send(s->keeper_fd, &answer.header, NULL, 0, 0);
	return 0;
}

/* For whichever back end is of that side, a migration's other one included. */
static int words_fenced(struct server *s, struct ub_msg_header *header, int fds[],
			struct ub_err *err)
{
	const struct ub_msg_fenced *msg = (const struct ub_msg_fenced *)header;

	(void)fds;
	(void)err;
	if (msg->sides & 1U << s->backend->ledger_side)
		ub_backend_fenced(s->backend, msg->event);
	ub_move_fenced(s, msg);
	return 0;
}

static int words_yield(struct server *s, struct ub_msg_header *header, int fds[],
		       struct ub_err *err)
{
	(void)fds;
	(void)err;
	ub_yield_begin(s, (const struct ub_msg_yield *)header);
	return 0;
}

static int words_resize(struct server *s, struct ub_msg_header *header, int fds[],
			struct ub_err *err)
{
	(void)fds;
	(void)err;
	ub_resize_begin(s, (const struct ub_msg_resize *)header);
	return 0;
}

/* All I/O fails from now on. */
static int words_cancel(struct server *s, struct ub_msg_header *header, int fds[],
			struct ub_err *err)
{
	(void)header;
	(void)fds;
	(void)err;
	ub_server_cancel(s);
	return 0;
}

static int words_exit(struct server *s, struct ub_msg_header *header, int fds[], struct ub_err *err)
{
	(void)header;
	(void)fds;
	(void)err;
	ub_server_over(s, UB_EXIT_DONE);
	return 0;
}

/* ---- a migration, and the next one, which is kept while the last is closed --- */

static void words_drop_kept(struct server *s)
{
	struct server_kept *kept = &s->kept;

	free(kept->msg);
	kept->msg = NULL;
	ub_server_close_fds(kept->fds);
}

/* It comes when what the last one left behind is closed. */
static int words_keep(struct server *s, const struct ub_msg_migrate *msg, int fds[],
		      struct ub_err *err)
{
	struct server_kept *kept = &s->kept;

	words_drop_kept(s);
	kept->msg = malloc(msg->header.len_bytes);
	if (!kept->msg)
		return ub_err_errno(err, ENOMEM, "the message");
	memcpy(kept->msg, msg, msg->header.len_bytes);
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		kept->fds[i] = ub_steal_fd(&fds[i]);
	/*
	 * Else the keeper thinks that nobody has heard it: what is closed may take its fence's
	 * time.
	 */
	ub_move_tell_of_another(s, msg->id, UB_MIGRATION_CONNECTING, NULL);
	return 0;
}

void ub_words_migration_is_over(struct server *s)
{
	cleanup_free struct ub_msg_migrate *msg = s->kept.msg;
	int fds[UB_MESSAGE_MAX_FDS];

	if (!msg)
		return;
	s->kept.msg = NULL;
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		fds[i] = ub_steal_fd(&s->kept.fds[i]);
	ub_move_begin(s, msg, fds);
	ub_server_close_fds(fds);
}

static int words_migrate(struct server *s, struct ub_msg_header *header, int fds[],
			 struct ub_err *err)
{
	struct ub_msg_migrate *msg = (struct ub_msg_migrate *)header;

	if (!ub_message_string(header, sizeof(*msg), 0) || msg->mirror_timeout_ms == 0)
		return ub_err_set(err, EPROTO, "an unexpected MIGRATE message");
	if (ub_move_is_on(s))
		return words_keep(s, msg, fds, err);
	ub_move_begin(s, msg, fds);
	return 0;
}

/* For the one that is kept. */
static void words_control_kept(struct server *s, const struct ub_msg_migrate_control *msg)
{
	const struct ub_err cancelled = { .code = ECANCELED, .text = "it was cancelled" };

	switch (msg->what) {
	case UB_MIGRATE_CANCEL:
		ub_move_tell_of_another(s, msg->id, UB_MIGRATION_FAILED, &cancelled);
		words_drop_kept(s);
		break;
	case UB_MIGRATE_COMPLETE:
		s->kept.msg->flags &= ~(uint32_t)UB_MIGRATE_WAIT;
		break;
	case UB_MIGRATE_RATE:
		s->kept.msg->rate_bytes = msg->rate_bytes;
		break;
	default:
		break;
	}
}

static int words_migrate_control(struct server *s, struct ub_msg_header *header, int fds[],
				 struct ub_err *err)
{
	const struct ub_msg_migrate_control *msg = (const struct ub_msg_migrate_control *)header;

	(void)fds;
	(void)err;
	if (s->kept.msg && msg->id == s->kept.msg->id)
		words_control_kept(s, msg);
	else
		ub_move_control(s, msg);
	return 0;
}

/* ---- all of them --------------------------------------------------------- */

#define B(phase) (1U << SERVER_##phase)
#define ANY	 (~0U)

/*
 * What is asked of a device that is not live is answered, and is no error: those are heard in any
 * phase. A message may be longer than this program knows (message.h): there is no most.
 */
static const struct word {
	const char *name;
	unsigned phases;    /* B(): in which it is heard; in others it is unexpected */
	unsigned min_bytes; /* 0: a header, or one behind which what is missing reads as 0 */
	int (*hear)(struct server *s, struct ub_msg_header *header, int fds[], struct ub_err *err);
	bool is_moot; /* in other phases it means nothing, and is no error */
} words[] = {
	[UB_MSG_CONFIG] = { "CONFIG", B(NEW), UB_V3_BYTES_CONFIG, words_config },
	[UB_MSG_SERVE] = { "SERVE", B(OPEN), UB_V3_BYTES_SERVE, words_serve },
	[UB_MSG_HOLD] = { "HOLD", B(READY), 0, words_hold },
	[UB_MSG_TAKE] = { "TAKE", B(READY), 0, words_take },
	/* A keeper that adopts a live server says it again; one that has ended is not live. */
	[UB_MSG_LIVE] = { "LIVE", B(SERVING) | B(LIVE), 0, words_live, .is_moot = true },
	[UB_MSG_SOCKET] = { "SOCKET", ANY, 0, words_socket },
	[UB_MSG_SET] = { "SET", ANY, UB_V3_BYTES_SET, words_set },
	[UB_MSG_YIELD] = { "YIELD", B(LIVE), 0, words_yield },
	[UB_MSG_FENCED] = { "FENCED", ANY, sizeof(struct ub_msg_fenced), words_fenced },
	[UB_MSG_RESIZE] = { "RESIZE", ANY, UB_V3_BYTES_RESIZE, words_resize },
	[UB_MSG_CANCEL] = { "CANCEL", B(SERVING) | B(LIVE), 0, words_cancel, .is_moot = true },
	[UB_MSG_MIGRATE] = { "MIGRATE", ANY, UB_V3_BYTES_MIGRATE, words_migrate },
	[UB_MSG_MIGRATE_CONTROL] = { "MIGRATE_CONTROL", ANY, UB_V3_BYTES_MIGRATE_CONTROL,
				     words_migrate_control },
	[UB_MSG_EXIT] = { "EXIT", ANY, 0, words_exit },
};

static int words_handle(struct server *s, struct ub_msg_header *header, int fds[],
			struct ub_err *err)
{
	const struct word *word = header->type < UB_ARRAY_SIZE(words) ? &words[header->type] : NULL;

	if (!word || !word->hear)
		return ub_err_set(err, EPROTO, "an unexpected message of type %u", header->type);
	if (!(word->phases & 1U << s->phase) && word->is_moot)
		return 0;
	if (!(word->phases & 1U << s->phase) || header->len_bytes < word->min_bytes)
		return ub_err_set(err, EPROTO, "an unexpected %s message", word->name);
	return word->hear(s, header, fds, err);
}

/* The keeper is gone; another one may adopt this server. */
static void words_keeper_left(struct server *s)
{
	s->has_keeper = false;
	ub_loop_remove(&s->loop, s->keeper_fd);
	ub_server_host_set_keeper(&s->host, false);
	ub_names_set_keeper(-1);
	words_drop_kept(s);
	ub_move_abandon(s);
	ub_yield_abandon(s);
	if (s->phase == SERVER_LIVE || (s->phase == SERVER_SERVING && s->served_pid))
		return;
	if (s->phase == SERVER_READY && s->served_pid)
		ub_predecessor_take_place(s);
	else
		ub_server_over(s, UB_EXIT_FAILED);
}

void ub_words_hear(void *arg)
{
	struct server *s = arg;
	struct ub_err err = { 0 };
	int fds[UB_MESSAGE_MAX_FDS];
	int ret = ub_message_receive(s->keeper_fd, s->inbox, fds, MSG_DONTWAIT);

	if (ret == -EAGAIN)
		return;
	if (ret < 0) {
		words_keeper_left(s);
		return;
	}
	ret = words_handle(s, (struct ub_msg_header *)s->inbox, fds, &err);
	ub_server_close_fds(fds);
	if (ret)
		ub_server_fail(s, &err);
}
