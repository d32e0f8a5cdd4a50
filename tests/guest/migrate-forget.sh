#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A destination that forgets: qemu-nbd is killed with a part of a qcow2 file's tables in its memory,
# while the device is copied there. What it had not flushed is copied again.
# kernels: 6.12 7
# timeout: 90
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-migrate.bash"
require qemu-nbd qemu-img

serve_qcow2() {
	rm -f "$(side_socket 1)"
	qemu-nbd -t -e 4 -k "$(side_socket 1)" -f qcow2 forgets.qcow2 2>>"$NBD_LOG" &
	SIDES[1]=$!
	await 20 test -S "$(side_socket 1)"
}

attach --mem 48M
dd if=/dev/urandom of="$DEV" bs=1M count=48 oflag=direct iflag=fullblock status=none
sum=$(checksum "$DEV")
qemu-img create -q -f qcow2 forgets.qcow2 48M
serve_qcow2
start_move --rate-limit 16M/s "$(side_uri 1)"
await_copying
nap 1
kill_side 1
nap 0.5
serve_qcow2
moved
assert_eq "$(checksum "$DEV")" "$sum" "the bytes on the other side"
"$UB" detach "$ID"
await 20 no_device "$ID"
kill_side 1
