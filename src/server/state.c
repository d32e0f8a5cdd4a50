/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How the server ends, and how its device's I/O does. The main thread. */
#include "server/state.h"

#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

void ub_server_over(struct server *s, int status)
{
	s->phase = SERVER_OVER;
	s->status = status;
}

void ub_server_fail(struct server *s, const struct ub_err *err)
{
	struct ub_msg_text msg = { .header = { .type = UB_MSG_FAILED, .len_bytes = sizeof(msg) } };

	msg.value = (uint32_t)err->code;
	snprintf(msg.text, sizeof(msg.text), "%s", err->text);
	ub_log(UB_LOG_DEBUG, "the server gives up: %s", err->text);
	ub_message_send(s->keeper_fd, &msg.header, NULL, 0, MSG_DONTWAIT);
	/* Taking it apart would fail what is in flight, and the next server is to have that. */
	if (s->device.is_taken && (s->served_pid || s->phase == SERVER_LIVE))
		_exit(UB_EXIT_FAILED);
	ub_server_over(s, UB_EXIT_FAILED);
}

void ub_server_cancel(struct server *s)
{
	s->move.is_dead = true;
	ub_device_cancel(&s->device);
}

void ub_server_close_fds(int fds[UB_MESSAGE_MAX_FDS])
{
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		ub_close(&fds[i]);
}
