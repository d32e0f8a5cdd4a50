# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# A guest with little memory, and an NBD server outside it ("# export:" in the test's header).

# shellcheck source=tests/guest/lib-nbd.bash
. "$(dirname "${BASH_SOURCE[0]}")/lib-nbd.bash"

require ip

OUTSIDE_DOWN=/run/exchange/export-down
[ -s /run/exchange/export ] ||
	skip "no NBD server outside this machine: this test wants a guest of its own"
read -r OUTSIDE_HOST OUTSIDE_PORT </run/exchange/export
# shellcheck disable=SC2034 # for the tests
OUTSIDE_URI=nbd://$OUTSIDE_HOST:$OUTSIDE_PORT/

# outside_reachable: the guest's one network device leads to the server
outside_reachable() {
	rm -f "$OUTSIDE_DOWN"
	modprobe virtio_net
	await 10 test -e /sys/class/net/eth0
	ip address replace "${OUTSIDE_HOST%.*}.15/24" dev eth0
	ip link set eth0 up
	# the emulated network waits for an ACK after each small segment, and the guest's may take
	# 40 ms
	ip route replace "${OUTSIDE_HOST%.*}.0/24" dev eth0 quickack 1
}

# outside_dies SECONDS: the server is killed, and comes back after that time by itself: while the
# machine has no page to spare nobody in it may be counted on to start it again
outside_dies() { echo "$1" >"$OUTSIDE_DOWN"; }

# sectors_written: since the device was made
sectors_written() {
	local stat
	read -ra stat <"/sys/block/${DEV#/dev/}/stat"
	echo "${stat[6]}"
}
has_written() { [ "$(sectors_written)" -gt "$1" ]; }

# --- write-back
# ---------------------------------------------------------------------------------------

DIRTY_MIB=8 # at least so much waits for the device at the outage
# dirty_as_can_be: until the test ends
dirty_as_can_be() {
	DIRTY_MIB=32
	RATIOS=("$(</proc/sys/vm/dirty_ratio)" "$(</proc/sys/vm/dirty_background_ratio)")
	trap dirty_as_before EXIT
	echo 90 >/proc/sys/vm/dirty_ratio
	echo 60 >/proc/sys/vm/dirty_background_ratio
}
# shellcheck disable=SC2317 # at the end
dirty_as_before() {
	echo "${RATIOS[0]}" >/proc/sys/vm/dirty_ratio
	echo "${RATIOS[1]}" >/proc/sys/vm/dirty_background_ratio
}

# write_through OUTAGE…: twice the memory is written to a filesystem on the device and read back; in
# the middle the command OUTAGE makes its server go away, which has to come back by itself
write_through() {
	local mount=$TEST_DIR/mnt total dirty writer
	# twice that, in sectors: half of what is written
	total=$(awk '/^MemTotal:/ { print $2 * 2 }' /proc/meminfo)
	[ "$total" -lt 600000 ] || fail "this machine has more memory than the test fills"
	mkfs.ext4 -q -F -E lazy_itable_init=0,nodiscard "$DEV"
	mkdir "$mount"
	mount "$DEV" "$mount"
	fio --name=w --directory="$mount" --rw=write --bs=256k --size=256M --numjobs=2 \
		--ioengine=psync \
		--fallocate=none --end_fsync=1 --verify=crc32c --verify_fatal=1 --do_verify=1 \
		>fio.out 2>&1 &
	writer=$!
	await 120 has_written $((total / 2))
	"$@"
	await 60 said "offline"
	dirty=$(awk '/^(Dirty|Writeback):/ { sum += $2 } END { print int(sum / 1024) }' \
		/proc/meminfo)
	note "$dirty MiB are to be written"
	[ "$dirty" -gt $DIRTY_MIB ] || fail "memory does not wait for the device"
	await 400 gone $writer
	wait $writer || fail "fio: $(tail -n 5 fio.out)"
	has_written $((total * 2 * 9 / 10)) || fail "only $(sectors_written) sectors were written"
	umount "$mount"
	fsck.ext4 -fn "$DEV" >fsck.out 2>&1 || fail "fsck: $(cat fsck.out)"
	said "online again" || fail "nothing was said of the outage: $(cat "$ATTACH_ERR")"
}
