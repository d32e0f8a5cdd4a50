#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Twice the machine's memory is written to a filesystem on an NBD device whose server is in the same
# machine, and
# needs memory, too; in the middle it is killed, and the keeper starts it again.
# kernels: 6.12 7
# tier: all
# memory: 256M
# export: 704M
# timeout: 480
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-memory.bash"
require fio mkfs.ext4 fsck.ext4 qemu-nbd

# the keeper's child; what it serves is outside, because nothing in here could hold it
kill_server() { kill -KILL "$(pgrep -x qemu-nbd)"; }

outside_reachable
attach --restart-command [ qemu-nbd -t -f raw "$OUTSIDE_URI" ]
write_through kill_server
detach
