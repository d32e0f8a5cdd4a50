#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An upgrade cuts nothing: while a request is in flight that takes long it is refused with status 3,
# and the device goes on with the same server and the same connection; with patience it finds its
# moment. Under load it needs none.
# kernels: 6.12 7
# push: 6.12
# timeout: 240
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq fio

REFUSAL='nothing was changed, the device goes on as it was; try again, or --wait DURATION'

# start_write: one block is written in the background, which takes the server as long as it does
start_write() {
	dd if=/dev/urandom of="$DEV" bs=4k count=1 seek=16 oflag=direct conv=notrunc status=none &
	WRITE=$!
	await 10 is_busy
}
is_busy() { [ "$("$UB" stats "$ID" --json | jq .in_flight)" -gt 0 ]; }

# write_ends: and without an error
write_ends() {
	local status=0
	wait "$WRITE" || status=$?
	assert_eq $status 0 "the status of the write"
}

# writes: how often that block came to the server
writes() { grep -c ' Write id=.* offset=0x10000 ' "$TEST_DIR/requests" || true; }

# connections: how many there were
connections() { grep -c ' Connect ' "$TEST_DIR/requests" || true; }

make_image 16M
serve --filter=log --filter=delay file "$IMG" wdelay=8 logfile="$TEST_DIR/requests"
attach "$URI"
await 20 has_standby

note "a request that takes long"
keeper=$(state_of keeper_pid) server=$(state_of server_pid) connections=$(connections)
start_write
assert_fails 3 "requests are in flight since [0-9]+\.[0-9] s: $REFUSAL" "$UB" upgrade "$ID"
await 20 has_standby
process_alive "$WRITE" || fail "the write was over before the upgrade was refused: this was no test"
assert_eq "$(state_of keeper_pid) $(state_of server_pid)" "$keeper $server" "keeper and server"
process_alive "$server" || fail "the server is gone"
write_ends
assert_eq "$(writes)" 1 "times that the write came to the server"
assert_eq "$(connections)" "$connections" "connections to the server"
assert_eq "$("$UB" stats "$ID" --json | jq .backend.retries)" 0 "requests that were sent again"

note "with patience"
start_write
"$UB" upgrade "$ID" --wait 40s 2>upgrade.err || fail "upgrade --wait: $(cat upgrade.err)"
gone "$WRITE" || fail "it did not wait for the write"
write_ends
[ "$(state_of server_pid)" != "$server" ] || fail "it has the old server"
assert_eq "$(writes)" 2 "times that two writes came to the server"
same_bytes
await 10 gone "$KEEPER"
"$UB" detach "$ID"

note "nothing is timed"
attach --no-stats "$URI"
await 20 has_standby
start_write
assert_fails 3 "requests are in flight: $REFUSAL" "$UB" upgrade "$ID"
write_ends
assert_fails 2 "91 is too long: 90s is the most" "$UB" upgrade "$ID" --wait 91
detach
unserve

note "a server that does not answer"
serve file "$IMG"
attach "$URI"
await 20 has_standby
server=$(state_of server_pid)
kill -STOP "$SERVER"
start_write
assert_fails 3 "$REFUSAL" "$UB" upgrade "$ID"
kill -CONT "$SERVER"
write_ends
assert_eq "$(state_of server_pid)" "$server" "the server"
wait_for 20 has_standby || fail "no standby: $(cat "$ATTACH_ERR")"

note "under load"
for size in 4k 256k; do
	await 20 has_standby
	fio --name=load --filename="$DEV" --rw=randrw --bs=$size --direct=1 --ioengine=libaio \
		--iodepth=32 --time_based --runtime=600 >fio.out 2>&1 &
	FIO=$!
	await 20 is_busy
	"$UB" upgrade "$ID" 2>upgrade.err || fail "upgrade under load: $(cat upgrade.err)"
	note "$(grep -oE 'I/O stood still for .*' upgrade.err)"
	process_alive "$FIO" || fail "fio: $(cat fio.out)"
	assert_eq "$("$UB" info "$ID" --json | jq -c '[.losses.count, .fence.ranges]')" '[0,0]' \
		"what it left"
	kill -TERM "$FIO"
	wait "$FIO" || true
	! grep -q 'error=' fio.out || fail "fio: $(cat fio.out)"
done
"$UB" detach "$ID"
await 10 no_device "$ID"
unserve
no_d_state
