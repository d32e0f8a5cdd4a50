/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The server before this one. The main thread. */
#include "server/predecessor.h"

#include <errno.h>
#include <sys/pidfd.h>

#include "base/cleanup.h"
#include "server/state.h"
#include "server/visitor.h"

static void predecessor_died(void *arg)
{
	struct server *s = arg;

	ub_rings_let_go(&s->served_rings);
	ub_loop_remove(&s->loop, s->served_pidfd);
	ub_close(&s->served_pidfd);
	if (!s->has_keeper)
		ub_visitor_listen(s);
}

static void predecessor_watch(struct server *s)
{
	if (s->served_pidfd < 0)
		s->served_pidfd = pidfd_open(s->served_pid, 0);
	if (s->served_pidfd >= 0)
		ub_loop_add(&s->loop, s->served_pidfd, predecessor_died, s);
}

int ub_predecessor_hold_rings(struct server *s, struct ub_err *err)
{
	if (!s->served_pid)
		return ub_err_set(err, EPROTO, "an unexpected HOLD message");
	predecessor_watch(s);
	if (s->served_pidfd >= 0)
		ub_rings_hold(&s->served_rings, s->served_pid, s->served_pidfd,
			      s->device.config.nr_queues);
	return 0;
}

void ub_predecessor_take_place(struct server *s)
{
	if (s->served_pidfd < 0)
		predecessor_watch(s);
	if (s->served_pidfd < 0)
		ub_visitor_listen(s);
}
