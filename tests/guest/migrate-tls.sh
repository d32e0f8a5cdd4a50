#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A destination with TLS: its keys lie on a mount that the server process had let go of, and the
# server is killed afterwards: it is reached again. With the wrong keys the device stays where it
# is.
# kernels: 6.12 7
# push: 7
# timeout: 90
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-migrate.bash"
require psktool nbdcopy

mkdir keys
mount -t tmpfs keys keys
psktool -u alice -p "$TEST_DIR/keys/right.psk" >/dev/null 2>&1
psktool -u alice -p "$TEST_DIR/keys/wrong.psk" >/dev/null 2>&1
make_side 1 16M garbage
serve_side 1 --tls=require --tls-psk="$TEST_DIR/keys/right.psk" file "$(side_image 1)"
attach --mem 16M --queues 2
start_stamp

start_move --tls-psk-file "$TEST_DIR/keys/wrong.psk" \
	--tls-username alice "nbds+unix:///?socket=$(side_socket 1)"
not_moved 'cannot connect'
stamp_goes_on
move -C 2 --tls-psk-file "$TEST_DIR/keys/right.psk" \
	--tls-username alice "nbds+unix:///?socket=$(side_socket 1)"
is_moved nbd || fail "the phase is $(phase), the back end $(backend)"
stamp_goes_on
await 20 has_standby
kill_server
stamp_goes_on
stop_stamp
sum=$(checksum "$DEV")
"$UB" detach "$ID"
await 10 no_device "$ID"
assert_eq "$(side_sum 1 | cut -d ' ' -f 1)" "$sum" "the bytes behind TLS"
kill_side 1
umount keys
