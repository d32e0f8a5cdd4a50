/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The mounts that the server keeps: those that its back end needs. */
#ifndef UB_SERVER_MOUNTS_H
#define UB_SERVER_MOUNTS_H

#include <ublk-bridge/backend.h>

/*
 * The mounts that a back end needs are known with its name and its options; all others go. The main
 * thread; or a thread with mounts of its own (ub_isolate_enter_mounts()), of which it then is true.
 */
void ub_mounts_drop(const struct ub_backend_config *cfg);

#endif
