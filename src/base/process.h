/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What /proc says of the process that a number means: numbers are used again. Any thread; knows
 * nobody.
 */
#ifndef UB_BASE_PROCESS_H
#define UB_BASE_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * When it began, in the kernel's ticks since the machine started: with its pid that is like no
 * other. 0: there is none.
 */
uint64_t ub_process_started(pid_t pid);
/* Whether pid is still the process that began then. False for 0. */
bool ub_process_is(pid_t pid, uint64_t started);

/*
 * Whether its main thread has begun to end, or has ended unwaited: a pidfd tells only when the last
 * thread has.
 */
bool ub_process_is_ending(pid_t pid);

/* Whether it has a file open that /proc/PID/fd names so. */
bool ub_process_has_file(pid_t pid, const char *name);

/*
 * On Linux 6.12: rings of a process that another one holds until its last thread has ended. Else
 * the last thread may end them while it runs what they have left for it, and what their cancelling
 * frees is what it runs: a null pointer in the kernel, and a device that nobody can mend. Control
 * plane.
 */
struct ub_held_rings {
	int *fds;
	unsigned nr;
};

/* Duplicates all that it has, at most max. False: not so many came. */
bool ub_rings_hold(struct ub_held_rings *rings, pid_t pid, int pidfd, unsigned max);
void ub_rings_let_go(struct ub_held_rings *rings); /* idempotent */

#endif
