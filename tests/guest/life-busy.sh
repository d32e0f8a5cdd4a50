#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A device that something holds is not torn away: detach says who holds it, with status 3, and it
# serves on. Mounts (also in another mount namespace), swap, device mapper, a loop device, partitions,
# open files.
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
mkdir -p here there

mkfs.ext4 -q "$DEV"
mount "$DEV" here
busy_with "mounted on $TEST_DIR/here"
: >here/file
umount here

# in a namespace that only another process has
unshare -m --propagation private bash -c 'mount "$1" there && touch mounted && exec sleep 600' - "$DEV" &
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
busy_with 'held by dm-[0-9]+'
dmsetup remove --noudevsync ub-held

loop=$(losetup -f)
losetup "$loop" "$DEV"
busy_with "held by ${loop#/dev/}"
losetup -d "$loop"

exec 5<"$DEV"
busy_with "opened by [^ ]+ \(pid $$\)"
exec 5<&-

# two holders, and a partition
printf 'label: dos\nstart=2048, size=16384, type=83\n' | sfdisk -q --no-reread --no-tell-kernel "$DEV" 2>/dev/null
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
ends_with 0
assert_nothing_left
