#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Moves to other servers: nbdkit that cannot do zeroes, qemu-nbd with a qcow2 file, which stays
# sparse, nbd-server, and one that the keeper starts itself, and ends when the device has moved
# away.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-migrate.bash"
require nbdcopy qemu-nbd qemu-img nbd-server

# works: the device is used on its new side
works() {
	head -c 1M /dev/urandom >bytes
	direct_write bytes $((5 << 20 | 12 << 10))
	direct_read $((5 << 20 | 12 << 10)) $((1 << 20)) | cmp - bytes ||
		fail "what was written is not what is read"
	blkdiscard -z -o 9M -l 1M "$DEV"
	sync "$DEV"
}

# allocated FILE: KiB that it takes
allocated() { du -k "$1" | cut -f 1; }

# scatter: a MiB here and there, the rest is a hole
scatter() {
	local at
	blkdiscard "$DEV"
	for at in 0 7 21 22 31; do
		dd if=/dev/urandom of="$DEV" bs=1M count=1 seek=$at oflag=direct iflag=fullblock \
			status=none
	done
}

serve_qcow2() {
	qemu-nbd -t -e 4 -k "$(side_socket 2)" -f qcow2 --discard=unmap \
		--detect-zeroes=unmap side2.qcow2 2>>"$NBD_LOG" &
	SIDES[2]=$!
	await 20 test -S "$(side_socket 2)"
}

attach --mem 32M
scatter
sum=$(checksum "$DEV")

note "nbdkit that cannot do zeroes"
make_side 1 32M garbage
serve_side 1 --filter=nozero file "$(side_image 1)"
move "$(side_uri 1)"
same_as 1
assert_eq "$(checksum "$DEV")" "$sum" "the bytes on nbdkit"
move --mem 32M
kill_side 1

note "nbdkit: a sparse file stays sparse"
scatter
sum=$(checksum "$DEV")
make_side 1 32M
serve_side 1
move "$(side_uri 1)"
same_as 1
assert_le "$(allocated "$(side_image 1)")" $((8 << 10)) "KiB of a file that holds 5 MiB"

note "qemu-nbd, qcow2"
qemu-img create -q -f qcow2 side2.qcow2 32M
serve_qcow2
move "$(side_uri 2)"
assert_eq "$(checksum "$DEV")" "$sum" "the bytes on qemu-nbd"
assert_le "$(allocated side2.qcow2)" $((8 << 10)) "KiB of a qcow2 file that holds 5 MiB"
kill_side 1
works
same_as 2
sum=$(checksum "$DEV")

note "nbd-server"
make_side 3 32M garbage
cat >nbd-server.conf <<-END
	[generic]
	unixsock = $(side_socket 3)
	listenaddr = 127.0.0.1
	port = 10998
	allowlist = true
	[disk]
	exportname = $(side_image 3)
	flush = true
	fua = true
	trim = true
END
for ((try = 1; ; try++)); do
	rm -f "$(side_socket 3)"
	nbd-server -d -C "$TEST_DIR/nbd-server.conf" >/dev/null 2>&1 &
	SIDES[3]=$!
	await 20 test -S "$(side_socket 3)"
	start_move "nbd+unix:///disk?socket=$(side_socket 3)"
	await 60 gone "$MIGRATE"
	! wait "$MIGRATE" || break
	# it never answers some of its clients, whoever they are
	{ [ $try -lt 6 ] && grep -q 'did not negotiate' move.err; } ||
		fail "migrate: $(tail -n 3 move.err)"
	kill_side 3
done
assert_match "$(<move.out)" "^$DEV: migrated to "
assert_eq "$(checksum "$DEV")" "$sum" "the bytes on nbd-server"
signal_side 2 TERM
await 20 gone "${SIDES[2]}"
qemu-img check -q side2.qcow2 || fail "qemu-img check"
qemu-img convert -f qcow2 -O raw side2.qcow2 side2.raw
assert_eq "$(sha256sum <side2.raw | cut -d ' ' -f 1)" "$sum" "the qcow2 file's bytes"
works
sum=$(checksum "$DEV")

note "[ COMMAND ]: in this directory, and ended when the device has moved away"
make_side 4 32M
move [ nbdkit file side4.img ]
assert_eq "$(checksum "$DEV")" "$sum" "the bytes on the command's server"
kill -TERM "${SIDES[3]}" 2>/dev/null || true
works
sum=$(checksum "$DEV")
move --mem 32M
wait_for 10 no_nbdkit || fail "the command still runs: $(pgrep -a nbdkit)"
assert_eq "$(sha256sum <side4.img | cut -d ' ' -f 1)" "$sum" "the command's file"
assert_eq "$(checksum "$DEV")" "$sum" "the bytes in memory"
move --restart-command [ nbdkit file side4.img ]
detach
wait_for 10 no_nbdkit || fail "the command outlives the device: $(pgrep -a nbdkit)"
no_d_state
