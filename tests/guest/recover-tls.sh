#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The server of a device over TLS is killed, and the keeper with it: the next one has the keys, and
# no byte is lost.
# kernels: 6.12 7
# push: 7
# timeout: 90
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
require psktool

make_image 16M
psktool -u alice -p "$TEST_DIR/keys.psk" >/dev/null
serve --tls=require --tls-psk="$TEST_DIR/keys.psk" file "$IMG"
attach -C 2 --fence-timeout 2s "nbds+unix://alice@/?socket=$SOCK&tls-psk-file=$TEST_DIR/keys.psk"
start_stamp
kills 2
await 20 has_standby
pids=("$(state_of keeper_pid)" "$(state_of server_pid)" "$(state_of standby_pid)")
kill -KILL "${pids[@]}"
for pid in "${pids[@]}"; do await 10 gone "$pid"; done
note "$(pauses)"
"$UB" recover "$ID"
stamp_goes_on
kill_server
stamp_goes_on
stop_stamp
"$UB" detach "$ID"
await 10 no_device "$ID"
unserve
