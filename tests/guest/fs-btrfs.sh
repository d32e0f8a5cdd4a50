#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# btrfs: files, fsync, scrub, btrfs check, remount, trim; and its copies of all data on two devices,
# one of which loses everything.
# kernels: 6.12 7
# push: 7
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
require mkfs.btrfs btrfs fstrim
require_module btrfs

attach --mem 256M --queues 2
fs_round btrfs defaults mkfs.btrfs -q -- btrfs check --readonly
mount_at "$DEV"
run btrfs scrub start -B mnt
assert_eq "$STATUS" 0 "the scrub: $OUT $ERR"
assert_match "$OUT" 'no errors found' "the scrub"
umount mnt
detach

attach --mem 256M
first=$DEV first_keeper=$KEEPER
attach --mem 256M --data-path copy
mkfs.btrfs -q -f -d raid1 -m raid1 "$first" "$DEV"
btrfs device scan "$first" "$DEV" >/dev/null
mount_at "$first"
fill_tree mnt
# all data of the second one is overwritten, behind its superblock
dd if=/dev/zero of="$DEV" bs=1M seek=24 oflag=direct conv=notrunc status=none 2>/dev/null || true
echo 3 >/proc/sys/vm/drop_caches
run btrfs scrub start -B mnt
assert_match "$OUT$ERR" 'csum=|verify=|Corrected:  *[1-9]' "what the scrub finds"
check_tree mnt
run btrfs scrub start -B mnt
assert_match "$OUT" 'no errors found' "the second scrub"
umount mnt
detach
DEV=$first KEEPER=$first_keeper
detach
