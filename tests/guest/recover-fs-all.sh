#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# ext4 and xfs through ten deaths of their server each, on memory and on an NBD export: see
# recover-fs.
# kernels: 6.12 7
# tier: all
# timeout: 600
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
. "$(dirname "$0")/lib-recover-fs.bash"
require mkfs.xfs xfs_repair
require_module xfs

for kind in mem nbd; do
	BACKING=$kind
	fs_under_kills 10 mkfs.ext4 -q -E lazy_itable_init=0 -- e2fsck -fn
	fs_under_kills 10 mkfs.xfs -q -- xfs_repair -n
done
