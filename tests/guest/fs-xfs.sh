#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# xfs: files, fsync, xfs_repair -n, remount, trim; on blocks of 512 and of 4096 bytes.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
require mkfs.xfs xfs_repair fstrim
require_module xfs

attach --mem 512M --queues 2
fs_round xfs defaults mkfs.xfs -q -- xfs_repair -n
detach

attach --mem 512M --block-size 4096 --data-path get-data
fs_round xfs discard mkfs.xfs -q -- xfs_repair -n
detach
