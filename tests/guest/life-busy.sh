#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A device that something holds is not torn away: detach says who holds it, with status 3, and it
# serves on. Mounts (also in another mount namespace), swap, device mapper, a loop device,
# partitions, open files.
# kernels: 6.12 7
# push: 6.12
# timeout: 120
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require mkfs.ext4 dmsetup losetup mkswap
require_module ext4 dm-mod loop

# busy_with REGEX: detach by each way refuses and names the holder
busy_with() {
	assert_fails 3 "/dev/ublkb0 is busy: .*$1.*: release it, or use --force" "$UB" detach 0
	assert_eq "$(device_state 0)" live "the state after a refused detach"
	dd if="$DEV" of=/dev/null bs=4k count=1 iflag=direct status=none
}

attach --mem 32M --name held
keeper=$KEEPER
mkdir -p here there

mkfs.ext4 -q "$DEV"
mount "$DEV" here
busy_with "mounted on $TEST_DIR/here"
: >here/file
umount here

# in a namespace that only another process has
unshare -m --propagation private bash -c 'mount "$1" there && touch mounted && exec sleep 600' \
	- "$DEV" &
sleeper=$!
await 10 test -e mounted
busy_with "mounted on $TEST_DIR/there"
kill $sleeper
wait $sleeper || true

mkswap -q "$DEV"
swapon "$DEV"
busy_with 'used as swap \(/dev/ublkb0\)'
swapoff "$DEV"

dmsetup create --noudevsync ub-held --table "0 1024 linear $DEV 0"
busy_with 'held by ub-held \(dm-[0-9]+, device mapper\)'
dmsetup remove --noudevsync ub-held

loop=$(losetup -f)
losetup "$loop" "$DEV"
busy_with "held by ${loop#/dev/}"
losetup -d "$loop"

exec 5<"$DEV"
busy_with "opened by [^ ]+ \(pid $$\)"
exec 5<&-

# the journal of a filesystem on another disk
truncate -s 32M data.img
disk=$(losetup -f)
losetup "$disk" data.img
mke2fs -q -O journal_dev -b 4096 "$DEV" 2>/dev/null
mkfs.ext4 -q -b 4096 -J device="$DEV" "$disk"
mount "$disk" here
busy_with 'the external journal of an ext4 that is mounted'
umount here

# a member of a btrfs that is mounted by another one
if command -v mkfs.btrfs >/dev/null && modprobe -q btrfs; then
	truncate -s 256M btrfs.img
	losetup -d "$disk"
	losetup "$disk" btrfs.img
	attach --mem 160M --id 1
	mkfs.btrfs -q -f -d single -m raid1 "$disk" "$DEV" >/dev/null
	btrfs device scan "$disk" "$DEV" >/dev/null
	mount "$disk" here
	assert_fails 3 "part of the btrfs that is mounted on $TEST_DIR/here" "$UB" detach 1
	umount here
	btrfs device scan --forget
	"$UB" detach 1
	DEV=/dev/ublkb0 ID=0
fi
losetup -d "$disk"

# what a zram writes back to
if modprobe -q zram && [ -e /sys/block/zram0/backing_dev ]; then
	echo 1 >/sys/block/zram0/reset
	if echo "$DEV" >/sys/block/zram0/backing_dev 2>/dev/null; then
		busy_with 'the backing device of zram0'
	fi
	echo 1 >/sys/block/zram0/reset
	rmmod zram || true
fi

# a layer of an overlay that has no mount point of its own any more
mkfs.ext4 -q "$DEV"
mount "$DEV" here
mkdir -p here/upper here/work over
if mount -t overlay overlay -o "lowerdir=there,upperdir=here/upper,workdir=here/work" over \
	2>/dev/null; then
	umount -l here
	busy_with "perhaps it is below an overlay: .*$TEST_DIR/over"
	umount over
else
	umount here
fi

# two holders, and a partition
printf 'label: dos\nstart=2048, size=16384, type=83\n' |
	sfdisk -q --no-reread --no-tell-kernel "$DEV" 2>/dev/null
if kernel_at_least 7 || blockdev --rereadpt "$DEV"; then
	await 10 eval 'blockdev --rereadpt "$DEV" && [ -b "${DEV}p1" ]'
	exec 5<"${DEV}p1"
	mkfs.ext4 -q "${DEV}p1"
	mount "${DEV}p1" here
	busy_with "mounted on $TEST_DIR/here.*opened by [^ ]+ \(pid $$\)"
	exec 5<&-
	umount here
fi

# free: it goes
"$UB" detach held
KEEPER=$keeper
ends_with 0
assert_nothing_left
