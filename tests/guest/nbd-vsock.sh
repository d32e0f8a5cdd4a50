#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An NBD server over vsock, by the machine's own loopback, with an outage.
# kernels: 6.12 7
# push: 6.12
# timeout: 90
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq
require_module vsock_loopback

vsock_serve() {
	rm -f "$TEST_DIR/nbd.pid"
	nbdkit --vsock -p 10809 -P "$TEST_DIR/nbd.pid" file "$IMG" 2>>"$NBD_LOG" ||
		fail "nbdkit: $(tail -n 3 "$NBD_LOG")"
	await 10 test -s "$TEST_DIR/nbd.pid"
	SERVER=$(<"$TEST_DIR/nbd.pid")
}

make_image 16M
vsock_serve
for how in nbd+vsock://1:10809/ nbd+vsock://1/; do
	attach "$how"
	assert_eq "$(checksum "$DEV")" "$(sha256sum <"$IMG" | cut -d ' ' -f 1)" "$how"
	detach
done
attach nbd+vsock://1/
dd if=/dev/urandom of="$DEV" bs=64k count=40 oflag=direct status=none
unserve
await 10 is_offline
dd if=/dev/urandom of="$DEV" bs=64k count=8 oflag=direct status=none &
writer=$!
vsock_serve
await 20 gone $writer
wait $writer || fail "a write failed"
await 10 is_online
same_bytes
detach
unserve
