#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Another version takes the device over while it is copied, and while both sides agree: the
# migration starts again, and whoever waits for its end waits on.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-migrate.bash"
require nbdcopy

# upgraded: it has another keeper and another server
upgraded() {
	local keeper server
	await 20 has_standby
	keeper=$(state_of keeper_pid) server=$(state_of server_pid)
	"$UB" upgrade "$ID" 2>upgrade.err || fail "upgrade: $(tail -n 3 upgrade.err)"
	[ "$(state_of keeper_pid)" != "$keeper" ] || fail "it has the old keeper"
	[ "$(state_of server_pid)" != "$server" ] || fail "it has the old server"
	stamp_goes_on
}

make_side 1 16M garbage
serve_side 1
attach --mem 16M
start_stamp

note "while it is copied"
start_move --rate-limit 4M/s "$(side_uri 1)"
await_copying
upgraded
process_alive "$MIGRATE" || grep -q 'migrated to' move.out ||
	fail "migrate gave up: $(cat move.err)"
moved 90
is_moved nbd || fail "the phase is $(phase), the back end $(backend)"
stamp_goes_on

note "while both sides agree"
"$UB" migrate "$ID" --wait-for-cutover --mem 16M >move.out 2>move.err ||
	fail "migrate: $(cat move.err)"
upgraded
await 60 in_phase in-step
stamp_goes_on
"$UB" migrate "$ID" --complete >>moves || fail "--complete ended with $?"
is_moved mem || fail "the phase is $(phase), the back end $(backend)"
stamp_goes_on
stop_stamp
"$UB" detach "$ID"
await 20 no_device "$ID"
kill_side 1
no_d_state
