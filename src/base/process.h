/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What /proc says of the process that a number means: numbers are used again. Any thread; knows nobody. */
#ifndef UB_BASE_PROCESS_H
#define UB_BASE_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* When it began, in the kernel's ticks since the machine started: with its pid that is like no other. 0: there is none. */
uint64_t ub_process_started(pid_t pid);
/* Whether pid is still the process that began then. False for 0. */
bool ub_process_is(pid_t pid, uint64_t started);

/* Whether its main thread has begun to end, or has ended unwaited: a pidfd tells only when the last thread has. */
bool ub_process_is_ending(pid_t pid);

/*
 * Duplicates of those of its descriptors that are such files, as /proc names them ("anon_inode:[io_uring]"): how many
 * came, at most max. They are the caller's. Where the kernel does not permit it there are none.
 */
unsigned ub_process_copy_fds(pid_t pid, int pidfd, const char *what, int fds[], unsigned max);

#endif
