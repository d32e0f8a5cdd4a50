#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Other block devices on top: dm-linear over two devices, a loop device, a filesystem over both. The
# device is busy as long as they stand, and says who stands on it.
# kernels: 6.12 7
# push: 7
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
require dmsetup losetup mkfs.ext4 e2fsck
require_module loop dm_mod

undo() {
	umount mnt 2>/dev/null || true
	[ -z "${loop:-}" ] || losetup -d "$loop" 2>/dev/null || true
	dmsetup remove --noudevsync ub-stacked 2>/dev/null || true
}
trap undo EXIT

attach --mem 48M
lower=$DEV lower_keeper=$KEEPER lower_id=$ID
attach --mem 48M --data-path copy
printf '0 65536 linear %s 2048\n65536 65536 linear %s 1024\n' "$lower" "$DEV" |
	dmsetup create --noudevsync ub-stacked
dmsetup mknodes ub-stacked
loop=$(losetup -f --show --direct-io=on /dev/mapper/ub-stacked)
mkfs.ext4 -q "$loop"
mount_at "$loop"
fill_tree mnt
assert_fails 3 'busy: .*dm-' "$UB" detach "$ID"
assert_fails 3 'busy: .*dm-' "$UB" detach "$lower_id"
fstrim mnt
check_tree mnt
umount mnt
e2fsck -fn "$loop" >check.out 2>&1 || fail "the filesystem: $(cat check.out)"
losetup -d "$loop"
dmsetup remove --noudevsync ub-stacked

# a loop device right on it
loop=$(losetup -f --show "$DEV")
assert_fails 3 'busy: .*loop' "$UB" detach "$ID"
losetup -d "$loop"
detach
DEV=$lower KEEPER=$lower_keeper
detach
