#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Servers that die, freeze, fill up and err in the middle of a migration, under blkstamp: nobody
# sees an I/O error, a bad destination costs a pause of the mirror timeout at the most, and the
# migration goes on, or fails with the reason.
# kernels: 6.12 7
# push: 7
# timeout: 420
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-migrate.bash"
require nbdcopy

TRIGGER=$TEST_DIR/err-now # while it is there, writes to side 3 fail
MAX_PAUSE_MS=$((3000 * SLOW))

# end_stamp WHAT: nothing was wrong; a destination's faults were pauses that are short
end_stamp() {
	stop_stamp
	note "$1: longest pause of an I/O: $(longest_pause) ms"
	assert_le "$(longest_pause)" "$MAX_PAUSE_MS" "the longest pause in ms ($1)"
}

# serve_erring ERROR
serve_erring() {
	rm -f "$TRIGGER"
	serve_side 3 --filter=error file "$(side_image 3)" error-pwrite="$1" \
		error-pwrite-rate=100% error-pwrite-file="$TRIGGER" \
		error-zero="$1" error-zero-rate=100% error-zero-file="$TRIGGER"
}

make_side 1 16M
make_side 2 16M
make_side 3 16M
serve_side 1
serve_side 2
attach "$(side_uri 1)"
start_stamp

note "the destination is killed, and started again"
start_move --rate-limit 6M/s "$(side_uri 2)"
await_copying
kill_side 2
await 20 in_phase paused
stamp_goes_on
nap 1
stamp_goes_on
serve_side 2
moved
stamp_goes_on

note "the destination freezes, and thaws"
start_move --rate-limit 6M/s "$(side_uri 1)"
await_copying
signal_side 1 STOP
await 20 in_phase paused
stamp_goes_on
thaw_side 1
moved
stamp_goes_on

note "it freezes, and dies, when both sides agree"
"$UB" migrate "$ID" --wait-for-cutover --fence-timeout 2s "$(side_uri 2)" >move.out 2>move.err ||
	fail "migrate: $(cat move.err)"
for fault in freezes dies; do
	if [ $fault = freezes ]; then signal_side 2 STOP; else kill_side 2; fi
	await 20 in_phase paused
	stamp_goes_on
	if [ $fault = freezes ]; then thaw_side 2; else serve_side 2; fi
	await 60 in_phase in-step
	stamp_goes_on
done
"$UB" migrate "$ID" --complete >>moves || fail "--complete ended with $?"
stamp_goes_on
end_stamp "destinations that go away"
same_as 2

for error in ENOSPC EIO; do
	case $error in
	ENOSPC) why='No space left' ;;
	EIO) why='Input/output error|I/O error' ;;
	esac
	note "$error while it copies"
	start_stamp
	serve_erring $error
	start_move --rate-limit 6M/s "$(side_uri 3)"
	await_copying
	: >"$TRIGGER"
	not_moved "$why"
	stamp_goes_on
	assert_match "$(last_said why)" "$why" "why it failed"
	note "$error when both sides agree"
	rm "$TRIGGER"
	# nbdkit 1.32 may have ended: the move that failed gave its connections up in the middle of
	# requests
	process_alive "${SIDES[3]}" || serve_erring $error
	"$UB" migrate "$ID" --wait-for-cutover --fence-timeout 2s "$(side_uri 3)" >move.out \
		2>move.err || fail "migrate: $(cat move.err)"
	: >"$TRIGGER"
	await 20 in_phase none
	assert_match "$(last_said result) $(last_said why)" "failed .*($why)" "how it ended"
	stamp_goes_on
	kill_side 3
	end_stamp "$error"
done

note "the source is killed, and started again; and both"
start_stamp
for who in 2 '2 1'; do
	start_move --rate-limit 6M/s "$(side_uri 1)"
	await_copying
	for side in $who; do kill_side "$side"; done
	nap 1
	for side in $who; do serve_side "$side"; done
	stamp_goes_on
	moved
	stamp_goes_on
	[ "$who" != 2 ] || move "$(side_uri 2)"
done
stop_stamp
same_as 1
note "$(pauses_of_moves)"
detach
kill_side 1
kill_side 2
no_d_state
