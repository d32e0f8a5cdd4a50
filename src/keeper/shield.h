/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Between the keeper and the NBD server that it has started stands a process that holds back the
 * SIGTERM of a stop that means all at once: of a service manager, a shutdown, a container's end.
 * The keeper gets that SIGTERM too, and ends the server after the last flush. Without this the
 * server would end first, and what is still to be written back with it.
 *
 * It is the server's parent and, for the sake of that one signal, its tracer (ptrace(2)): a signal
 * mask or an ignored signal would be the server's own to change, and would be inherited by each
 * process that the server starts.
 */
#ifndef UB_KEEPER_SHIELD_H
#define UB_KEEPER_SHIELD_H

#include <stdbool.h>
#include <sys/types.h>

/* As /proc/PID/comm has it. */
#define UB_SHIELD_COMM "ublk-command"

/*
 * Runs child(arg), which executes the server and returns only when it cannot, with its exit status,
 * in a process of its own. Ends as that one ends: with its status, or by the same signal. Called in
 * a process that has one thread and nothing else to do. Its descriptors 0, 1 and from 3 on are
 * closed once the child has them.
 *
 * relays: what the server prints on its standard error comes out of this process's, as long as
 * somebody reads that: the server itself never waits for the keeper, nor dies with it. Else both
 * have the same one.
 *
 * A SIGTERM for the server passes when a keeper or the keeper's helper sent it. Another one is held
 * back for a second: if the keeper has said by then that it is going to end (ub_shield_hold()), it
 * is dropped, else the server gets it. SIGKILL, and every other signal, goes to the server as ever.
 */
void ub_shield_run(int (*child)(void *arg), void *arg, bool relays) __attribute__((noreturn));

/*
 * The keeper is going to end the server when the time has come. pid: the shield's. Without effect
 * on a server that has no shield, because a keeper of an older version has started it.
 */
void ub_shield_hold(pid_t pid);

#endif
