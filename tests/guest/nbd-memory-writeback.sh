#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Twice the machine's memory is written to a filesystem on an NBD device, so that pages are free only when it has
# written some back; in the middle its server, outside the machine, dies and comes back.
# kernels: 6.12 7
# tier: all
# memory: 256M
# export: 704M
# timeout: 480
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-memory.bash"
require fio mkfs.ext4 fsck.ext4

MOUNT=$TEST_DIR/mnt
mkdir "$MOUNT"
cd /proc/sys/vm
ratios=("$(<dirty_ratio)" "$(<dirty_background_ratio)")
# shellcheck disable=SC2317 # at the end
leave() {
	echo "${ratios[0]}" >/proc/sys/vm/dirty_ratio
	echo "${ratios[1]}" >/proc/sys/vm/dirty_background_ratio
}
trap leave EXIT
# all that can be dirty shall be
echo 90 >dirty_ratio
echo 60 >dirty_background_ratio
cd "$TEST_DIR"

TOTAL=$(awk '/^MemTotal:/ { print $2 * 2 }' /proc/meminfo) # twice that, in sectors: half of what is written
[ "$TOTAL" -lt 600000 ] || fail "this machine has more memory than the test fills"

# write_files: twice the memory, then all of it read back
write_files() {
	fio --name=w --directory="$MOUNT" --rw=write --bs=256k --size=256M --numjobs=2 --ioengine=psync --fallocate=none \
		--end_fsync=1 --verify=crc32c --verify_fatal=1 --do_verify=1 >fio.out 2>&1
}

outside_reachable
attach "$OUTSIDE_URI"
mkfs.ext4 -q -F -E lazy_itable_init=0,nodiscard "$DEV"
mount "$DEV" "$MOUNT"
write_files &
writer=$!
await 120 has_written $((TOTAL / 2))
outside_dies 5
await 30 said "offline"
dirty=$(awk '/^(Dirty|Writeback):/ { sum += $2 } END { print int(sum / 1024) }' /proc/meminfo)
note "$dirty MiB are to be written"
[ "$dirty" -gt 32 ] || fail "memory does not wait for the device"
await 400 gone $writer
wait $writer || fail "fio: $(tail -n 5 fio.out)"
has_written $((TOTAL * 2 * 9 / 10)) || fail "only $(sectors_written) sectors were written"
umount "$MOUNT"
fsck.ext4 -fn "$DEV" >fsck.out 2>&1 || fail "fsck: $(cat fsck.out)"
said "online again" || fail "nothing was said of the outage: $(cat "$ATTACH_ERR")"
detach
