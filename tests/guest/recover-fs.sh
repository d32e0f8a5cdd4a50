#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Mounted filesystems, at work, with dirty pages, while their server is killed again and again: no
# error reaches them, what an fsync promised is there, and the checker finds nothing.
# kernels: 6.12 7
# push: 6.12
# timeout: 120
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
. "$(dirname "$0")/lib-recover-fs.bash"

fs_under_kills 3 mkfs.ext4 -q -E lazy_itable_init=0 -- e2fsck -fn
