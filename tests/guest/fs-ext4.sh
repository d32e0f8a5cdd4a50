#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# ext4: files, fsync, fsck, remount, trim; on memory, and on a back end that answers late and out of
# order and has no FUA, with the discards online.
# kernels: 6.12 7
# push: 7
# timeout: 180
# sanitize: all
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
require mkfs.ext4 e2fsck fstrim
BRIDGE=$UBT

attach --mem 128M --queues 2
fs_round ext4 defaults mkfs.ext4 -q -- e2fsck -fn
detach

attach --backend faulty:64M:delay=1,reorder,no-fua --data-path copy
fs_round ext4 discard,journal_checksum mkfs.ext4 -q -b 1024 -O metadata_csum -- e2fsck -fn
detach
