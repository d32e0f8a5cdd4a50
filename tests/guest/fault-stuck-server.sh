#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A server that does not answer: a START that hangs undoes what was done, and a STOP that hangs does
# not hide the other devices from list.
# kernels: 6.12 7
# push: 7
# timeout: 120
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

# START: the server is stopped just before it
UB_STEP=start-dev=stop "$UBT" --mem 16M --timeout 3 >out 2>err &
keeper=$!
wait_for 20 grep -q '^State:.*stopped' /proc/$keeper/status
server=$(child_of $keeper)
kill -STOP "$server"
kill -CONT $keeper
status=0
wait $keeper || status=$?
# 7.x starts it and scans later, by a helper that waits
assert_eq "$status" 1 "the exit status: $(cat err)"
wait_for 20 [ ! -e /dev/ublkc0 ]
assert_nothing_left

# STOP: with a write in the hands of a stopped server
attach --mem 16M
hung=$KEEPER
server=$(server_pid 0)
attach --mem 16M
kill -STOP "$server"
dd if=/dev/zero of=/dev/ublkb0 bs=4k count=1 oflag=direct 2>/dev/null &
writer=$!
nap 1
"$UB" detach 0 --force >detach.out 2>&1 &
detacher=$!
nap 3
run timeout 30 "$UB" list --json
assert_eq "$STATUS" 0 "list: $ERR"
assert_eq "$(jq -r '[.[].id] | join(" ")' <<<"$OUT")" "0 1" "the devices that list finds"
wait $detacher || fail "detach --force: $(cat detach.out)"
wait $writer || true
wait "$hung" || true
detach
assert_nothing_left
