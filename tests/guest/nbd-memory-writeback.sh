#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Twice the machine's memory is written to a filesystem on an NBD device, so that pages are free
# only when it has written some back; in the middle its server, outside the machine, dies and comes
# back.
# kernels: 6.12 7
# tier: all
# memory: 256M
# export: 704M
# timeout: 480
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-memory.bash"
require fio mkfs.ext4 fsck.ext4

outside_reachable
dirty_as_can_be
attach "$OUTSIDE_URI"
write_through outside_dies 5
detach
