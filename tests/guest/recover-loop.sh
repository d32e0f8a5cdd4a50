#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A request that kills every server that takes it: deaths are counted, the pauses between them grow,
# and past the cap I/O fails instead of hanging. Everything says so, a keeper that comes later too,
# and detach takes the device away.
# kernels: 6.12 7
# push: 7
# timeout: 120
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
BRIDGE=$UBT

# fails_at_once COMMAND…: within 5 s
fails_at_once() {
	local began=$SECONDS
	run "$@"
	[ "$STATUS" != 0 ] || fail "\"$*\" succeeded"
	assert_le $((SECONDS - began)) $((5 * SLOW)) "the seconds of \"$*\""
}

attach --backend faulty:4M:die=1
began=$SECONDS
dd if=/dev/zero of="$DEV" bs=4k count=1 oflag=direct status=none 2>dd.err &
writer=$!
await 60 gone $writer
! wait $writer || fail "a write that no server survives succeeded"
lasted=$((SECONDS - began))
note "it failed after $lasted s"
# 100 ms, doubled nine times, and never more than 5 s
[ $lasted -ge 10 ] || fail "the pauses do not grow: all was over after $lasted s"

# each is either a recovery that did not last or one that failed
[ $(($(times_said 'recovered after') + $(times_said 'trying again'))) -ge 10 ] ||
	fail "it gave up early: $(cat "$ATTACH_ERR")"
said '10 servers died one after the other: from now on all I/O fails' ||
	fail "nobody said it: $(cat "$ATTACH_ERR")"
assert_eq "$("$UB" info "$ID" --json | jq -r .state)" failed "the state"
is_failed || fail "list says $(health)"
fails_at_once dd if="$DEV" of=/dev/null bs=4k count=1 iflag=direct
fails_at_once dd if=/dev/zero of="$DEV" bs=4k count=1 oflag=direct
fails_at_once blkdiscard "$DEV"

note "the server of errors is killed, too, and replaced by its like"
kill_server
fails_at_once dd if="$DEV" of=/dev/null bs=4k count=1 iflag=direct

note "and another keeper knows"
await 20 has_standby
keeper=$(state_of keeper_pid)
server=$(state_of server_pid)
kill -KILL "$keeper" "$server"
await 10 gone "$keeper"
"$UBT" recover "$ID"
assert_eq "$("$UB" info "$ID" --json | jq -r .state)" failed "the state"
fails_at_once dd if="$DEV" of=/dev/null bs=4k count=1 iflag=direct
"$UB" detach --force "$ID"
await 10 no_device "$ID"
no_d_state
