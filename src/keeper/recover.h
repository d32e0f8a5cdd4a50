/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What happens when a server dies, or makes place. The keeper's main thread; waits. */
#ifndef UB_KEEPER_RECOVER_H
#define UB_KEEPER_RECOVER_H

#include <stdint.h>

#include "base/err.h"

struct ub_keeper;
struct ub_server;

/*
 * The server is dead: the standby takes the device over. 0; -ENODEV: the device was stopped,
 * -EINTR: somebody insists on its end and it takes too long, or another -errno with *err: it cannot
 * be recovered.
 */
int ub_recover(struct ub_keeper *k, struct ub_err *err);
/*
 * The standby takes over from a server that lives, once nothing is in flight; I/O that comes
 * meanwhile is held, for a second at the most. 0 with *pause_ms, how long it stood still, or as
 * ub_recover(); -EBUSY: something was in flight all the time, in each try until then,
 * -ETIMEDOUT: it does not answer: in both cases it serves on as before.
 */
int ub_recover_switch(struct ub_keeper *k, uint64_t until_ms, uint64_t *pause_ms,
		      struct ub_err *err);
/*
 * A server that has fetched already: the end of a recovery that another keeper began. 0 or -errno
 * with *err.
 */
int ub_recover_finish(struct ub_keeper *k, struct ub_server *server, struct ub_err *err);

#endif
