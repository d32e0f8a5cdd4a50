/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Another size for a device that is live. The server's main thread. */
#include "server/resize.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

#include "backend/backend.h"
#include "base/size.h"
#include "base/step.h"
#include "server/state.h"

/* The answer is about the size that the back end has, whichever that is. */
static void resize_answer(struct server *s, const struct ub_err *err)
{
	struct ub_msg_resized answer = { .header = { .type = UB_MSG_RESIZED,
						     .len_bytes = sizeof(answer) } };

	answer.id = s->resize.id;
	answer.code = (uint32_t)err->code;
	answer.size_bytes = s->backend->limits.size_bytes;
	snprintf(answer.text, sizeof(answer.text), "%s", err->text);
	ub_message_send(s->keeper_fd, &answer.header, NULL, 0, MSG_DONTWAIT);
}

/* What size it comes to: 0 or -errno with *err. */
static int resize_check(struct server *s, uint64_t *size, struct ub_err *err)
{
	const struct ub_limits *l = &s->backend->limits;
	bool is_resizable = ub_backend_is_resizable(s->backend);
	uint64_t most;
	char why[200], has[32], want[32];
	int ret;

	if (ub_yield_is_on(&s->yield))
		return ub_err_set(err, EAGAIN, "it is being upgraded: try again");
	if (!is_resizable || (*size == 0 && !ub_backend_knows_size(s->backend)))
		return ub_err_set(err, EOPNOTSUPP, "a device of %s %s", s->backend->ops->name,
				  is_resizable ? "has no size of its own: give one" :
						 "keeps its size");
	if (*size % l->logical_block_bytes)
		return ub_err_set(err, EINVAL,
				  "a size of %llu bytes is not a multiple of the block size %u",
				  (unsigned long long)*size, l->logical_block_bytes);
	if (*size && *size <= l->size_bytes)
		return 0;
	if (ub_server_host_health(&s->host, why, sizeof(why)) == UB_HEALTH_OFFLINE)
		return ub_err_set(err, EAGAIN, "%s: no other size before it is online again", why);
	ret = ub_backend_get_size(s->backend, &most, err);
	if (ret)
		return ret;
	if (*size == 0 && most < l->size_bytes)
		return ub_err_set(err, ESTALE,
				  "the export has only %s now, and the device %s: nothing is made "
				  "smaller unless you give the SIZE",
				  ub_size_format(most, has, sizeof(has)),
				  ub_size_format(l->size_bytes, want, sizeof(want)));
	if (*size > most)
		return ub_err_set(err, ERANGE,
				  "the device cannot grow to %s: its export has only %s. Enlarge "
				  "the export first",
				  ub_size_format(*size, want, sizeof(want)),
				  ub_size_format(most, has, sizeof(has)));
	if (*size == 0)
		*size = most;
	return 0;
}

/*
 * A device that grows has all behind it before a queue lets the first I/O there pass; one that
 * shrinks loses it last.
 */
static int resize_begin(struct server *s, struct ub_err *err)
{
	uint64_t size = s->resize.size_bytes;
	int ret;

	if (s->phase != SERVER_LIVE)
		return ub_err_set(err, EAGAIN, "the device is not live yet");
	if (ub_move_is_on(s))
		return ub_err_set(err, EBUSY,
				  "the device is being migrated: try again when it has been");
	ret = resize_check(s, &size, err);
	if (ret == 0)
		ret = ub_step("server-resize", err);
	if (ret == 0 && size > s->backend->limits.size_bytes)
		ret = ub_backend_resize(s->backend, size, s->resize.flags, err);
	if (ret)
		return ret;
	s->resize.size_bytes = size;
	s->is_resizing = true;
	ub_device_set_size(&s->device, size);
	return 0;
}

void ub_resize_begin(struct server *s, const struct ub_msg_resize *msg)
{
	struct ub_err refusal = { 0 };

	if (s->is_resizing) {
		/*
		 * The one before is still waited for: this one comes to its end with it, if it
		 * wants the same.
		 */
		if (msg->size_bytes == s->resize.size_bytes) {
			s->resize.id = msg->id;
			return;
		}
		struct ub_msg_resize before = s->resize;

		ub_err_set(&refusal, EBUSY,
			   "I/O behind the end of %llu bytes is still in flight: try again",
			   (unsigned long long)before.size_bytes);
		s->resize.id = msg->id;
		resize_answer(s, &refusal);
		s->resize = before;
		return;
	}
	s->resize = *msg;
	/* That it cannot be done is an answer, and no reason to end. */
	if (resize_begin(s, &refusal) != 0)
		resize_answer(s, &refusal);
}

void ub_resize_continue(struct server *s)
{
	uint64_t size = s->resize.size_bytes, was = s->backend->limits.size_bytes;
	struct ub_err err = { 0 };

	if (!s->is_resizing || !ub_device_has_size(&s->device, size))
		return;
	s->is_resizing = false;
	if (size <= was)
		ub_backend_resize(s->backend, size, s->resize.flags, &err);
	if (!err.code)
		s->backend->limits.size_bytes = size;
	if (size != was && ub_step("server-resized", &err))
		ub_server_fail(s, &err);
	else
		resize_answer(s, &err);
}
