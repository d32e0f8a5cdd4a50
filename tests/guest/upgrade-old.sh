#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A device of the last version that keeps no record of what it sends (version 3 of the messages)
# goes to this one, in use: by upgrade, by a keeper that comes later, and by the old standby alone.
# No sector is stale or lost, and servers of this version are recovered afterwards.
# kernels: 6.12 7
# push: 6.12
# timeout: 300
# old: yes
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
OLD_DIR=${UB_OLD_DIR:-$(dirname "$0")/../../build-old}
[ -x "$OLD_DIR/ublk-bridge" ] || skip "the old revision is not in this clone's history"
# away from 9p; under the name that both versions look for
mkdir old
cp "$OLD_DIR/ublk-bridge" old/
OLD=$TEST_DIR/old/ublk-bridge

# serve_slowly: a write takes a while, so that some are in flight at any time
serve_slowly() { serve --filter=delay file "$IMG" wdelay=10ms; }

# attach_old ARGUMENTS…
attach_old() {
	BRIDGE=$OLD attach "$@"
	await 20 has_standby
}

# is_new PID: it is of this version
is_new() { [ "$(readlink "/proc/$1/exe")" = "$(readlink -f "$UB")" ]; }

# upgraded: by the verb, with its load
upgraded() {
	local server
	server=$(state_of server_pid)
	"$UB" upgrade "$ID" 2>>upgrade.err || fail "upgrade: $(tail -n 3 upgrade.err)"
	is_new "$(state_of keeper_pid)" || fail "its keeper is not of this version"
	is_new "$(state_of server_pid)" || fail "its server is not of this version"
	gone "$server" || fail "the old server is left"
	stamp_goes_on
}

# recovered: with all of this version, a server dies, then both, and the device does not
recovered() {
	local server
	kill_server
	stamp_goes_on
	await 20 has_standby
	server=$(state_of server_pid)
	kill -KILL "$(state_of keeper_pid)" "$server"
	"$UB" recover "$ID" 2>>upgrade.err || fail "recover: $(tail -n 3 upgrade.err)"
	other_server "$server" || fail "it has the dead server"
	stamp_goes_on
}

# over: it is detached, and nobody has found anything
over() {
	stop_stamp
	"$UB" detach "$ID"
	await 10 no_device "$ID"
}

note "upgrade: memory"
attach_old --mem 16M
start_stamp
upgraded
recovered
over

note "upgrade: NBD"
make_image 16M
rm -f "$JOURNAL"
serve_slowly
attach_old -C 4 --fence-timeout 3s "$URI"
start_stamp
upgraded
recovered
over

note "a keeper that comes later: the old server serves, and is asked for what it knows"
rm -f "$JOURNAL"
attach_old -C 2 --fence-timeout 3s "$URI"
start_stamp
server=$(state_of server_pid)
kill -KILL "$(state_of keeper_pid)"
"$UB" recover "$ID" 2>>upgrade.err || fail "recover: $(tail -n 3 upgrade.err)"
assert_eq "$(state_of server_pid)" "$server" "the server"
stamp_goes_on
"$UB" set "$ID" --stall-timeout 20s >/dev/null || fail "an old server cannot be set"
"$UB" info "$ID" >/dev/null || fail "info ended with $?"
"$UB" migrate "$ID" --mem 16M 2>>upgrade.err >/dev/null || fail "migrate: $(tail -n 3 upgrade.err)"
stamp_goes_on
"$UB" migrate "$ID" "$URI" 2>>upgrade.err >/dev/null || fail "migrate: $(tail -n 3 upgrade.err)"
stamp_goes_on
assert_eq "$(state_of server_pid)" "$server" "the server"

note "and dies: nobody knows what it had sent"
kill_server
is_new "$(state_of server_pid)" || fail "its server is not of this version"
stamp_goes_on
recovered
over

note "keeper and server die: the old standby takes over under a keeper of this version"
rm -f "$JOURNAL"
attach_old -C 2 --fence-timeout 3s "$URI"
start_stamp
standby=$(state_of standby_pid)
kill -KILL "$(state_of keeper_pid)" "$(state_of server_pid)"
"$UB" recover "$ID" 2>>upgrade.err || fail "recover: $(tail -n 3 upgrade.err)"
assert_eq "$(state_of server_pid)" "$standby" "the server"
stamp_goes_on
upgraded
recovered
over
unserve
no_d_state
