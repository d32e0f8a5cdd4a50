#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What is discarded is memory again: by blkdiscard, holes, and fstrim of a filesystem. Zeroes that
# must stay allocated stay. Detaching gives back all.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
require mkfs.ext4 fstrim

fill() { dd if=/dev/zero of="$DEV" bs=1M count=64 oflag=direct conv=notrunc status=none; }

# assert_holds MIB WHAT: the store's memory, give or take 2 MiB
assert_holds() {
	local kib=$(($(meminfo Shmem) - SHMEM))
	assert_le "$kib" $((($1 + 2) * 1024)) "KiB of memory after $2"
	[ "$kib" -ge $((($1 - 2) * 1024)) ] || fail "only $kib KiB of memory after $2, not $1 MiB"
}

BEFORE=$(meminfo Shmem)
for path in copy get-data user-copy; do
	note "$path"
	attach --mem 256M --data-path "$path"
	server=$(server_pid)
	await 20 has_standby # which has the same buffers
	SHMEM=$(meminfo Shmem)
	fill
	assert_holds 64 "writing"
	rss=$(rss_kib "$server")
	blkdiscard -o 0 -l 32M "$DEV"
	assert_holds 32 "a discard"
	assert_le "$(rss_kib "$server")" $((rss - 30720)) "the server's memory after a discard"
	fallocate --punch-hole -o 32M -l 16M "$DEV"
	assert_holds 16 "a hole"
	blkdiscard -z -o 48M -l 16M "$DEV"
	assert_holds 16 "zeroes that stay allocated"
	blkdiscard -z -o 128M -l 8M "$DEV"
	assert_holds 24 "zeroes in empty space"
	blkdiscard "$DEV"
	assert_holds 0 "a discard of everything"
	is_zero 0 $((1 << 20)) || fail "not zero after a discard"
	fill
	assert_holds 64 "writing again"
	detach
	SHMEM=$BEFORE
	assert_holds 0 "detaching"
done

note "a filesystem"
attach --mem 256M
mkfs.ext4 -q -E nodiscard "$DEV"
mount_at "$DEV"
head -c 96M /dev/zero >mnt/big
sync -f mnt/big
used=$(($(meminfo Shmem) - SHMEM))
[ $used -gt $((96 * 1024)) ] || fail "the file takes $used KiB only"
rm mnt/big
sync -f mnt
fstrim mnt
assert_le $(($(meminfo Shmem) - SHMEM)) $((used - 94 * 1024)) "KiB of memory after fstrim"
umount mnt
mount_at -o discard "$DEV"
head -c 64M /dev/zero >mnt/big
sync -f mnt/big
used=$(($(meminfo Shmem) - SHMEM))
rm mnt/big
sync -f mnt
# ext4 discards in the background, and forgets it when it is unmounted before
await 10 shmem_below $((SHMEM + used - 60 * 1024))
umount mnt
detach
