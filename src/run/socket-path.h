/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sockets on which a [ COMMAND ] listens, beside the devices' run directories. Control plane. */
#ifndef UB_RUN_SOCKET_PATH_H
#define UB_RUN_SOCKET_PATH_H

#include <stddef.h>

#include "base/err.h"

/*
 * A path for a socket of this process, beside the devices' directories, and removes those that dead
 * processes left. 0 or -errno with *err.
 */
int ub_rundir_socket_path(char *path, size_t len, struct ub_err *err);

#endif
