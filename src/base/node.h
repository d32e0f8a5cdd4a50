/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The nodes of a ublk device in /dev: every one is opened here. A program that wrote to /dev/ublkb0
 * just after that had gone has made a file there, which devtmpfs never replaces; a link, or another
 * device's node, can be there as well. What is not the device itself is never written to, synced or
 * probed. Any thread; may block as open(2) of a device does.
 */
#ifndef UB_BASE_NODE_H
#define UB_BASE_NODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum ub_node_kind {
	UB_NODE_BLOCK, /* /dev/ublkbN */
	UB_NODE_CHAR,  /* /dev/ublkcN */
};

/*
 * Opens it with these flags of open(2) and O_CLOEXEC. The descriptor, the caller's; or -errno with
 * *err: -ENOENT: it is not there (yet); -EEXIST: something else has its name; else as open(2).
 */
int ub_node_open(enum ub_node_kind kind, uint32_t dev_id, int flags, struct ub_err *err);

/*
 * Likewise; but where the name is missing, or something else has it, by a node of its own that is
 * gone again at once. For what must not be left undone because of a name: writing back, and finding
 * out whether somebody uses the device. -ENOENT: the kernel has no such disk.
 */
int ub_node_open_anyhow(enum ub_node_kind kind, uint32_t dev_id, int flags, struct ub_err *err);

/* Whether the kernel has it, whatever is in /dev. */
bool ub_node_is_known(enum ub_node_kind kind, uint32_t dev_id);

#endif
