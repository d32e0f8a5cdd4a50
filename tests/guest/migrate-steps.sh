#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# At each step of a migration its process is killed: the keeper, and recover gives the device
# another one, or the server. The device is on one side, with all that was acknowledged, and ends on
# the other.
# kernels: 6.12 7
# push: 6.12
# timeout: 240
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-migrate.bash"
. "$(dirname "$0")/lib-recover-steps.bash"
require nbdcopy

# move_on: again, when the step came before the keeper had written down that there is one
move_on() {
	is_moved nbd && return
	[ "$(phase)" != none ] || [ -n "$(awaited)" ] || start_again
	return 1
}
AGAIN=''
awaited() { [ -z "$AGAIN" ] || gone "$AGAIN" || printf '%s' "$AGAIN"; }
start_again() {
	"$UB" migrate "$ID" "$(side_uri 1)" >>again.out 2>&1 &
	AGAIN=$!
}

# dies_at STEP keeper|server
dies_at() {
	make_side 1 8M garbage
	serve_side 1
	attach_with "$1=kill" --mem 8M
	victim=$(state_of "$2_pid")
	start_stamp
	: >"$NOW"
	"$UB" migrate "$ID" "$(side_uri 1)" >move.out 2>move.err &
	MIGRATE=$!
	await 30 gone "$victim"
	was_acted || fail "the $2 did not come to $1"
	[ "$2" = server ] || "$UB" recover "$ID" >>recover.out 2>&1 ||
		fail "$1: recover: $(tail -n 3 recover.out)"
	stamp_goes_on
	await 60 move_on
	kill "$MIGRATE" 2>/dev/null || true
	stop_stamp
	same_as 1
	"$UB" detach "$ID"
	await 10 no_device "$ID"
	kill_side 1
	note "the $2 killed at $1"
}

for step in $MIGRATE_STEPS; do dies_at "$step" keeper; done
for step in $MIGRATE_SERVER_STEPS; do dies_at "$step" server; done
no_d_state
