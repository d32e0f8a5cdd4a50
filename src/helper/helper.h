/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disposable helper processes: whatever opens or waits for a served block device.
 *
 * The keeper itself never opens /dev/ublkbN, because that may hang as long as the device does. A
 * helper that hangs is given up.
 */
#ifndef UB_HELPER_HELPER_H
#define UB_HELPER_HELPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"

/* The hidden first argument with which this binary is executed as a helper. */
#define UB_HELPER_VERB "--helper"

#define UB_HELPER_NO_SCAN "none" /* the driver does */
#define UB_HELPER_SCAN	  "scan" /* the kernel does, when it is told to */
#define UB_HELPER_ADD	  "add"	 /* the kernel does not: each is added by hand */

/*
 * What helpers do. Each but the last prints what is to be told on stdout and ends with an exit
 * status of err.h.
 *   settle ID SCHEDULER PARTITIONS REQUESTS
 *             waits until the node opens, has partitions found as UB_HELPER_… says, sets the
 *             scheduler and reads it back, and how many requests a queue has (0: as it is)
 *   release ID
 *             opens the node exclusively and writes back what is dirty: BUSY if somebody holds it,
 *             and says who
 *   sync ID   writes back what is dirty, no matter who holds it
 *   holders ID
 *             says who holds it
 *   fence ID NAME SERVER HOST PORT OOM-SCORE COMMAND
 *             becomes a shell that runs COMMAND, with its facts in its environment (HOST and PORT
 *             "": not known), and in a session of its own
 */
int ub_helper_main(int argc, char **argv);

/*
 * Runs a helper: args without the program, NULL-terminated, "settle" first. What it printed comes
 * in out (cut to len, without a last newline). `until` ends the wait early (NULL: nothing does).
 * Its exit status, -ETIMEDOUT or -EINTR when it was given up (and killed, if that is possible), or
 * another -errno. Every 10 s the log says that `what` is still awaited.
 */
int ub_helper_run(struct ub_loop *loop, const char *const args[], const char *what, char *out,
		  size_t len, int64_t timeout_ms, bool (*until)(void *arg), void *arg);

#endif
