#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Migrations that are seldom: of a device without recovery, and of one that is read only; with a
# /run that is full; with two keepers that want to go on with it, and an upgrade beside its end; at
# a byte a second; to where the device is; two at a time to one server.
# kernels: 6.12 7
# push: 7
# sanitize: all
# timeout: 420
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-migrate.bash"
require nbdcopy

. "$(dirname "$0")/lib-run.bash"

make_room() {
	rm "$UBLK_BRIDGE_RUNDIR/fill"
	await 10 is_written_down
}
# is_written_down: state.json says what the keeper does, and of no migration
is_written_down() {
	[ "$(jq -r '"\(.backend) \(.server_pid) \(.migration)"' \
		"$UBLK_BRIDGE_RUNDIR/ublk$ID/state.json")" = \
		"$(backend) $(info_of server_pid) null" ] &&
		[ ! -e "$UBLK_BRIDGE_RUNDIR/ublk$ID/side" ]
}
keeper_dies() {
	local pid
	pid=$(info_of keeper_pid)
	kill -KILL "$pid"
	await 10 gone "$pid"
	"$UB" recover "$ID" >>recover.out 2>&1 || fail "recover: $(tail -n 3 recover.out)"
	stamp_goes_on
}
detached() {
	"$UB" detach "$ID"
	await 20 no_device "$ID"
}

make_side 1 8M garbage
make_side 2 8M garbage
serve_side 1
serve_side 2

note "without recovery"
attach --no-recovery --mem 8M
start_stamp
move "$(side_uri 1)"
stamp_goes_on
move --mem 8M
stop_stamp
# a look at the memory that is left, every few mebibytes, is no news
! said 'memory is to be had again' || fail "it was never short: $(cat "$ATTACH_ERR")"
move "$(side_uri 1)"
same_as 1
detach

note "read only"
is_as_it_was() {
	assert_eq "$(blockdev --getro "$DEV")" 1 "whether it is read only"
	! dd if=/dev/zero of="$DEV" bs=4k count=1 oflag=direct status=none 2>dd.err ||
		fail "it was written"
	cmp "$DEV" "$(side_image 1)" || fail "its bytes are others"
}
kill_side 1
serve_side 1 -r file "$(side_image 1)"
make_side 3 8M
serve_side 3 -r file "$(side_image 3)"
attach "$(side_uri 1)"
assert_fails 1 'does not fit: it is read only' "$UB" migrate "$ID" "$(side_uri 3)"
is_as_it_was
move "$(side_uri 2)"
is_as_it_was
cmp "$(side_image 1)" "$(side_image 2)" || fail "the destination has other bytes"
kill_server
is_as_it_was
move --mem 8M
is_as_it_was
kill_server
is_as_it_was
detach
kill_side 3
kill_side 1
serve_side 1

note "a full /run: before it, and when the destination is there"
rm "$JOURNAL"
attach --mem 8M
start_stamp
fill
assert_fails 1 'cannot write state.json: No space' "$UB" migrate "$ID" "$(side_uri 1)"
make_room
signal_side 1 STOP
start_move "$(side_uri 1)"
fill
thaw_side 1
not_moved 'cannot write state.json: No space'
stamp_goes_on
make_room

note "from the middle of it on, and processes that die then"
start_move --rate-limit 6M/s "$(side_uri 1)"
await_copying
fill
moved
stamp_goes_on
assert_fails 1 'cannot write state.json: No space' "$UB" migrate "$ID" --mem 8M
keeper_dies
server_dies
keeper_dies
assert_eq "$(phase) $(backend)" "none nbd" "phase and back end"
make_room
server_dies

note "its end when it is full, which the next keeper knows of"
start_move --rate-limit 2M/s --mem 8M
await_copying
fill
"$UB" migrate "$ID" --cancel || fail "--cancel ended with $?"
not_moved cancelled
keeper_dies
assert_eq "$(phase)" none "the phase after a cancelled one"
make_room
start_move --rate-limit 4M/s --mem 8M
await_copying
fill
server_dies
not_moved 'cannot write state.json: No space'
make_room

note "a keeper that dies before it has cancelled it: its source has stopped"
start_move --rate-limit 2M/s --mem 8M
await_copying
signal_side 1 STOP
"$UB" migrate "$ID" --cancel 2>cancel.err &
cancel=$!
is_to_be_cancelled() { [ "$(jq .migration.cancelled "$UBLK_BRIDGE_RUNDIR/ublk$ID/state.json")" = \
	true ]; }
await 10 is_to_be_cancelled
keeper=$(info_of keeper_pid)
kill -KILL "$keeper"
await 10 gone "$keeper"
"$UB" recover "$ID" >>recover.out 2>&1 || fail "recover: $(tail -n 3 recover.out)"
assert_eq "$(phase) $(backend)" "none nbd" "phase and back end"
! wait "$cancel" || fail "--cancel says that it is done, and its keeper was killed"
thaw_side 1
stamp_goes_on
not_moved cancelled

note "two keepers for one device"
await 20 stands_by
start_move --rate-limit 6M/s --mem 8M
await_copying
keeper=$(info_of keeper_pid)
kill -KILL "$keeper"
await 10 gone "$keeper"
recovers=()
for i in 1 2 3; do
	"$UB" recover "$ID" >"recover$i.out" 2>&1 &
	recovers+=($!)
done
for i in 1 2 3; do
	wait "${recovers[i - 1]}" || fail "recover ended with $?: $(cat "recover$i.out")"
done
stamp_goes_on
moved 90
stamp_goes_on

note "an upgrade, and it is cancelled"
await 20 stands_by
start_move --rate-limit 1M/s "$(side_uri 1)"
await_copying
"$UB" upgrade "$ID" >upgrade.out 2>&1 &
upgrade=$!
"$UB" migrate "$ID" --cancel 2>cancel.err && cancelled=yes || cancelled=no
wait "$upgrade" || fail "upgrade: $(cat upgrade.out)"
stamp_goes_on
# while it changes hands there may be nobody to be told, or nobody to answer
[ "$cancelled" = yes ] || [ "$(phase)" = none ] || "$UB" migrate "$ID" --cancel ||
	fail "--cancel ended with $?, and before: $(cat cancel.err)"
assert_eq "$(phase) $(backend)" "none mem" "phase and back end"
await 20 gone "$MIGRATE"
stop_stamp

# the first thing that is brought over may be zeroes, and the next one takes years
note "a byte a second"
sum=$(checksum "$DEV")
start_move --rate-limit 1 "$(side_uri 1)"
await 20 in_phase copying
nap 1
assert_match "$("$UB" migrate "$ID" --status)" 'copying: [0-9] %' "the status"
"$UB" migrate "$ID" --cancel
not_moved cancelled 5
start_move --rate-limit 1 "$(side_uri 1)"
await 20 in_phase copying
"$UB" migrate "$ID" --rate-limit 0
moved 20
assert_eq "$(checksum "$DEV")" "$sum" "the device's bytes"
same_as 1

note "where it is already"
assert_fails 1 'is there already' "$UB" migrate "$ID" -C 2 "$(side_uri 1)"
assert_fails 1 'is there already' "$UB" migrate "$ID" --unix "$(side_socket 1)"
assert_eq "$(phase) $(backend)" "none nbd" "phase and back end"
detached
kill_side 1
kill_side 2

note "two devices at a time, of one server and back to it"
mkdir exports
truncate -s 8M exports/one exports/two
serve_side 1 file dir="$TEST_DIR/exports"
SOCKET=$(side_socket 1)
# moves_along EXPORT: in a shell of its own
moves_along() {
	local uri="nbd+unix:///$1?socket=$SOCKET"
	mkdir "$1"
	cd "$1"
	TEST_DIR=$TEST_DIR/$1
	JOURNAL=$TEST_DIR/journal
	attach "$uri"
	start_stamp
	move --rate-limit 4M/s --mem 8M
	stamp_goes_on
	move --rate-limit 4M/s "$uri"
	stop_stamp
	cmp "$DEV" "../exports/$1" || fail "$DEV has other bytes than its export"
	detach
}
pids=()
for export in one two; do
	moves_along $export &
	pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || fail "one of both has failed"; done
kill_side 1
no_d_state
