/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a process must do to itself before it may stand behind a block device. */
#ifndef UB_SERVER_ISOLATE_H
#define UB_SERVER_ISOLATE_H

#include <stdbool.h>

#include "base/err.h"

/*
 * Session, signals, mounts, OOM score, I/O flusher. Before any thread is made. Failures are
 * warnings.
 */
void ub_isolate(void);

/*
 * Lets go of every mount that somebody may want to unmount: our copy would keep it busy unseen.
 * Those on the way to one of `paths` (absolute, without symbolic links; the last one is NULL) stay.
 */
void ub_isolate_drop_mounts(char *const *paths);

/*
 * A mount namespace of its own for the calling thread, and those that it makes, which begins as a
 * copy of the one behind fd (/proc/PID/ns/mnt): what names stand for there.
 * ub_isolate_drop_mounts() then looks at that. False: it stays where it was.
 */
bool ub_isolate_enter_mounts(int fd);

/*
 * Locks what is mapped now and what is touched later. 0 or -errno with *err. Before a store is
 * mapped.
 */
int ub_isolate_lock_memory(struct ub_err *err);

void ub_isolate_core_dump(bool allowed);

#endif
