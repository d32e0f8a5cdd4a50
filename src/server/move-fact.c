/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fact that decides which side counts. The server's main thread, while the queues pause. */
#include "server/move-fact.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include <ublk-bridge/ledger.h>

#include "base/process.h"
#include "base/step.h"
#include "server/state.h"

/* Only while somebody lives who will hear of it. */
static bool move_has_keeper(struct server *s)
{
	struct pollfd fd = { .fd = s->keeper_fd, .events = POLLRDHUP };

	return s->has_keeper && poll(&fd, 1, 0) == 0;
}

void ub_move_note_cut(struct server *s, uint64_t cookie)
{
	if (!s->ledger) /* a keeper of an older version knows nothing of it */
		return;
	atomic_store(&s->ledger->cut_side, !ub_stat_side(s->stats));
	atomic_store(&s->ledger->cut_cookie, cookie);
}

int ub_move_write_fact(struct server *s, struct ub_err *err)
{
	struct ub_move *m = &s->move;
	int ret = ub_step("migrate-cutover", err);

	ub_move_note_cut(s, m->cookie);
	if (ret == 0 && !move_has_keeper(s))
		ret = ub_err_set(err, ECANCELED, "the keeper is gone");
	if (ret == 0 &&
	    pwrite(m->side_fd, &m->cookie, sizeof(m->cookie), 0) != (ssize_t)sizeof(m->cookie))
		ret = ub_err_errno(err, errno, "which side counts cannot be written down");
	if (ret) {
		ub_move_note_cut(s, 0);
		return ret;
	}
	if (ub_step("migrate-cut", err))
		/* there is no way back, and the next server knows which side it is */
		_exit(UB_EXIT_FAILED);
	return 0;
}
