#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Partitions: those that a back end brings are there when the device is announced, those that are
# written are found by a new scan; each takes a filesystem, and a mounted one makes the device busy.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
require sfdisk partx mkfs.ext4 e2fsck
BRIDGE=$UBT

table() {
	printf 'label: gpt\nstart=2048, size=16384, name=one\n'
	printf 'size=32768, name=two\nsize=8192, name=three\n'
}

note "they are there from the first moment"
truncate -s 64M image
table | sfdisk -q image
for options in "" ",delay=20"; do
	for path in copy get-data user-copy; do
		attach --backend "faulty:64M:file=$TEST_DIR/image$options" --data-path "$path"
		for number in 1 2 3; do
			[ -b "${DEV}p$number" ] ||
				fail \
				"no ${DEV}p$number when the device was announced ($path$options)"
		done
		[ ! -e "${DEV}p4" ] || fail "there is a ${DEV}p4"
		assert_eq "$(size_of "${DEV}p2")" $((32768 * 512)) \
			"the size of the second partition"
		detach
		compgen -G "${DEV}p*" >/dev/null &&
			fail "partitions are left: $(compgen -G "${DEV}p*")"
	done
done

note "they are found when they are written"
attach --mem 64M --queues 2
table | sfdisk -q "$DEV"
[ -b "${DEV}p3" ] || partx -u "$DEV"
# Linux 6.12 does not scan a device that outlives its server, whoever asks
! kernel_at_least 7 || blockdev --rereadpt "$DEV"
await 5 test -b "${DEV}p3"
assert_eq "$(cat "/sys/block/${DEV#/dev/}/${DEV#/dev/}p2/start")" 18432 \
	"the start of the second partition"
mkfs.ext4 -q "${DEV}p2"
mkfs.ext4 -q "${DEV}p3"
mount_at "${DEV}p2"
fill_tree mnt
# they do not reach into each other
e2fsck -fn "${DEV}p3" >check.out 2>&1 || fail "the third partition: $(cat check.out)"
assert_fails 3 "busy: mounted on .*/mnt" "$UB" detach "$ID"
! kernel_at_least 7 || assert_fails 1 'Device or resource busy' blockdev --rereadpt "$DEV"
check_tree mnt
umount mnt
e2fsck -fn "${DEV}p2" >check.out 2>&1 || fail "the second partition: $(cat check.out)"
sfdisk -q --delete "$DEV"
kernel_at_least 7 || partx -d "$DEV"
[ ! -e "${DEV}p1" ] || fail "a deleted partition is left"
detach
