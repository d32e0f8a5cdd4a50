/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Executing this program afresh: as a server, or as a helper. Control plane. */
#ifndef UB_HELPER_SELF_H
#define UB_HELPER_SELF_H

/*
 * Executes this very binary: args without the program's name, which becomes `name`. fds[i] becomes
 * descriptor i in the child (-1: /dev/null); nothing else is inherited. The pid or -errno.
 */
int ub_spawn_self(const char *name, const char *const args[], const int fds[4]);

#endif
