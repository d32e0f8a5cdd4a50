/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the keeper is told of a migration: MIGRATION (message.h). The main thread. */
#ifndef UB_SERVER_MOVE_TELL_H
#define UB_SERVER_MOVE_TELL_H

#include <stdint.h>

#include <ublk-bridge/message.h>

#include "base/err.h"

struct server;
struct ub_move;

/*
 * It has come to this phase: told once, FAILED each time. err: why, for PAUSED and FAILED; else
 * NULL. pause_us: MOVED's. Never waits: what a keeper has no room for is kept, and only the newest.
 */
void ub_move_tell(struct server *s, enum ub_migration_phase phase, const struct ub_err *err,
		  uint64_t pause_us);
/*
 * Likewise, of one that has not begun: by its own id, and without an effect on what is told next.
 */
void ub_move_tell_of_another(struct server *s, uint32_t id, enum ub_migration_phase phase,
			     const struct ub_err *err);
/* Tries again what the keeper had no room for; s->move.untold is NULL once it has it. */
void ub_move_tell_untold(struct server *s);
/* There is nobody to be told. */
void ub_move_forget_untold(struct ub_move *m);

#endif
