#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The keeper is killed, and recover gives the device another one, under load: the server serves on.
# Then keeper and server together: the standby has the memory. Then all three: an NBD device comes
# back, one of memory is refused.
# kernels: 6.12 7
# push: 6.12
# timeout: 300
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
ROUNDS=${ROUNDS:-3}

# orphan PIDS…: these are killed, the keeper among them; the next keeper is no child of this test
orphan() {
	kill -KILL "$@"
	for pid in "$@"; do await 10 gone "$pid"; done
}

note "the keeper of a memory device"
attach --mem 16M
start_stamp
for ((round = 0; round < ROUNDS; round++)); do
	await 20 has_standby
	server=$(state_of server_pid)
	orphan "$(state_of keeper_pid)"
	nap 0.5
	stamp_goes_on
	[ "$("$UB" info "$ID" --json | jq -r .state)" = orphan ] ||
		fail "it is no orphan: $("$UB" info "$ID")"
	"$UB" recover "$ID"
	[ "$(state_of server_pid)" = "$server" ] || fail "it has another server"
	stamp_goes_on
done
assert_match "$("$UB" recover "$ID" 2>&1)" 'has its keeper' "a second recovery"

note "the server of the new keeper"
kill_server
stamp_goes_on

note "keeper and server: the standby has the memory"
for ((round = 0; round < ROUNDS; round++)); do
	await 20 has_standby
	standby=$(state_of standby_pid)
	orphan "$(state_of keeper_pid)" "$(state_of server_pid)"
	nap 0.5
	stamp_alive
	"$UB" recover --all
	[ "$(state_of server_pid)" = "$standby" ] || fail "the standby did not take over"
	stamp_goes_on
done

note "two at once"
await 20 has_standby
orphan "$(state_of keeper_pid)"
"$UB" recover "$ID" 2>one.err &
first=$!
status=0
"$UB" recover "$ID" 2>two.err || status=$?
wait $first || status=$?
[ $status = 0 ] || [ $status = 3 ] ||
	fail "two recoveries at once ended with $status: $(cat one.err two.err)"
stamp_goes_on
stop_stamp
"$UB" detach "$ID"
await 10 no_device "$ID"

note "nobody is left"
attach --mem 16M
await 20 has_standby
orphan "$(state_of keeper_pid)" "$(state_of server_pid)" "$(state_of standby_pid)"
assert_fails 1 'its memory went with the last process' "$UB" recover "$ID"
"$UB" detach "$ID"
await 10 no_device "$ID"

make_image 16M
rm -f "$JOURNAL"
serve file "$IMG"
attach --fence-timeout 2s "$URI"
start_stamp
for who in 'keeper_pid' 'keeper_pid server_pid' 'keeper_pid server_pid standby_pid'; do
	note "NBD: $who"
	await 20 has_standby
	pids=()
	for one in $who; do pids+=("$(state_of "$one")"); done
	orphan "${pids[@]}"
	nap 0.5
	"$UB" recover "$ID"
	await 20 is_online
	stamp_goes_on
done
note "NBD: all three, and the NBD server"
await 20 has_standby
orphan "$(state_of keeper_pid)" "$(state_of server_pid)" "$(state_of standby_pid)" "$SERVER"
"$UB" recover "$ID"
is_offline || fail "its health is $(health)"
serve file "$IMG"
await 20 is_online
stamp_goes_on
stop_stamp
"$UB" detach "$ID"
await 10 no_device "$ID"
unserve
no_d_state
