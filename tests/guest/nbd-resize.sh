#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An NBD export that has grown: the device follows when it is told to, or by itself; not in an
# outage, and not downwards.
# kernels: 6.12 7
# tier: all
# timeout: 300
# sanitize: all
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-recover.bash"

M=$((1 << 20))

# is_size MIB: the kernel and the keeper agree
is_size() { [ "$(size_of "$DEV")" = $(($1 * M)) ] &&
	[ "$("$UB" info "$ID" --json | jq .size_bytes)" = $(($1 * M)) ]; }
assert_size() { is_size "$1" || fail "the kernel has $(size_of "$DEV") bytes, and $("$UB" info \
	"$ID" --json | jq .size_bytes) are known"; }

# tail_works MIB: the last MiB is read and written, and the server's file has it
tail_works() {
	dd if=/dev/urandom of="$DEV" bs=1M count=1 seek=$(($1 - 1)) oflag=direct iflag=fullblock \
		status=none
	cmp <(dd if="$DEV" bs=1M count=1 skip=$(($1 - 1)) iflag=direct status=none) \
		<(dd if="$IMG" bs=1M count=1 skip=$(($1 - 1)) status=none)
}

if ! kernel_at_least 6.16; then
	make_image 16M
	serve file "$IMG"
	attach_fails 1 \
		'--auto-resize: this kernel \(6\.12.*\) cannot change .* of a device: Linux 6\.16' \
		--auto-resize "$URI"
	attach "$URI"
	unserve
	truncate -s 32M "$IMG"
	serve file "$IMG"
	await 20 said 'has grown from 16777216 to 33554432'
	await 20 is_online
	assert_fails 1 'this kernel \(6\.12.*\) cannot change the size of a device: Linux 6\.16' \
		"$UB" resize "$ID"
	assert_size 16
	same_bytes
	detach
	unserve
	exit 0
fi

for connections in 1 4; do
	note "$connections connections: grown while it is served, and under load"
	make_image 16M
	rm -f "$JOURNAL"
	serve file "$IMG"
	attach -C $connections "$URI"
	run "$UB" resize "$ID"
	assert_eq "$STATUS" 0 "the status of nothing to do"
	assert_match "$ERR" 'nothing to do'
	start_stamp
	truncate -s 48M "$IMG"
	"$UB" resize "$ID" 32M
	assert_size 32
	tail_works 32
	stamp_goes_on
	assert_fails 1 \
		'cannot grow to 49 MiB: its export has only 48 MiB. Enlarge the export first' \
		"$UB" resize "$ID" 49M
	"$UB" resize "$ID" --to-export
	assert_size 48
	tail_works 48
	stamp_goes_on

	note "its own server dies"
	kill_server
	await 20 is_online
	stamp_goes_on
	assert_size 48
	tail_works 48

	note "an outage"
	unserve
	await 5 is_offline
	truncate -s 64M "$IMG"
	assert_fails 1 'before it is online again' "$UB" resize "$ID"
	assert_fails 1 'before it is online again' "$UB" resize "$ID" 32M --force
	serve file "$IMG"
	await 20 said 'has grown from 50331648 to 67108864 bytes: the device keeps its size'
	await 20 is_online
	stamp_goes_on
	assert_size 48
	"$UB" resize "$ID"
	assert_size 64
	pid=$(state_of server_pid)
	kill -KILL "$pid"
	await 40 other_server "$pid"
	await 20 is_online
	tail_works 64

	note "smaller: when it is told to, and held by nobody; never by itself"
	assert_fails 3 'opened by blkstamp' "$UB" resize "$ID" 32M
	"$UB" resize "$ID" 32M --force
	assert_size 32
	"$UB" resize "$ID" 16M --force
	stop_stamp
	truncate -s 24M "$IMG"
	"$UB" resize "$ID"
	assert_size 24
	truncate -s 16M "$IMG"
	assert_fails 1 'it is not made smaller by itself' "$UB" resize "$ID"
	truncate -s 24M "$IMG"
	detach
	unserve
done

note "what is in flight behind the new end"
make_image 16M
serve file "$IMG"
attach "$URI"
kill -STOP "$SERVER"
dd if="$DEV" of=/dev/null bs=4k count=1 skip=$((12 * M / 4096)) iflag=direct status=none &
reader=$!
await 20 in_flight 1
"$UB" resize "$ID" 8M --force
assert_size 8
process_alive $reader || fail "the read did not wait for its answer"
assert_fails 1 'behind the present end is still in flight' "$UB" resize "$ID" 16M
assert_size 8
kill -CONT "$SERVER"
await 20 gone $reader
wait $reader || fail "the read that was in flight failed"
"$UB" resize "$ID"
assert_size 16
same_bytes
detach
unserve

for connections in 1 2; do
	note "by itself, $connections connections"
	make_image 16M
	serve file "$IMG"
	attach --auto-resize -C $connections "$URI"
	await 20 has_standby
	for size in 24 40; do
		unserve
		truncate -s ${size}M "$IMG"
		serve file "$IMG"
		await 30 is_size $size
		tail_works $size
	done
	note "and with a server that is new"
	await 20 has_standby
	pids=("$(state_of server_pid)" "$SERVER")
	kill -KILL "${pids[@]}"
	await 10 gone "$SERVER"
	truncate -s 56M "$IMG"
	serve file "$IMG"
	await 40 is_size 56
	tail_works 56
	same_bytes
	said 'the device follows' || fail "nothing was said: $(cat "$ATTACH_ERR")"
	detach
	unserve
done

note "a keeper that came later knows the size, and follows, too"
make_image 16M
serve file "$IMG"
attach --auto-resize "$URI"
await 20 has_standby
truncate -s 24M "$IMG"
"$UB" resize "$ID"
await 20 has_standby
pids=("$(state_of keeper_pid)" "$(state_of server_pid)" "$(state_of standby_pid)")
kill -KILL "${pids[@]}"
for pid in "${pids[@]}"; do await 10 gone "$pid"; done
"$UB" recover "$ID"
await 20 is_online
assert_size 24
tail_works 24
unserve
truncate -s 32M "$IMG"
serve file "$IMG"
await 30 is_size 32
tail_works 32
"$UB" detach "$ID"
await 10 no_device "$ID"
unserve
no_d_state
