#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The everyday tools of block devices find what they expect: blockdev, lsblk, blkid, wipefs, dd.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
require blockdev lsblk blkid wipefs mkfs.ext4

attach --mem 24M
assert_eq "$(blockdev --getsz --getss --getpbsz --getro "$DEV" | tr '\n' ' ')" "49152 512 4096 0 " \
	"what blockdev says"
assert_eq "$(lsblk -dnbro SIZE,TYPE,RO,ROTA "$DEV")" "25165824 disk 0 0" "what lsblk says"
[ "$(lsblk -dnbro DISC-GRAN "$DEV")" -ge 512 ] || fail "lsblk sees no discards"
run blkid -p "$DEV"
assert_eq "$STATUS" 2 "the status of blkid on nothing"
mkfs.ext4 -q -L here "$DEV"
assert_eq "$(blkid -p -s LABEL -o value "$DEV")" here "the label"
wipefs -qa "$DEV"
run blkid -p "$DEV"
assert_eq "$STATUS" 2 "the status of blkid after wipefs"

head -c 24M /dev/urandom >data
for way in "bs=64k oflag=direct" "bs=1M" "bs=3k oflag=direct,sync" "bs=4M oflag=dsync"; do
	note "dd $way"
	blkdiscard "$DEV"
	# shellcheck disable=SC2086 # several words
	dd if=data of="$DEV" $way conv=notrunc,fsync status=none
	cmp data "$DEV" || fail "what dd wrote, past the cache or not"
	checksum "$DEV" | grep -qx "$(sha256sum <data | cut -d ' ' -f 1)" ||
		fail "what the device has"
done
detach
