#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A /run that is full or read-only does not keep a device from being recovered, by its keeper or by
# another one that can take its place, nor from being taken back when an upgrade fails; and a
# state.json that was cut off, is of another version or is nonsense is refused by recover, which
# leaves the server alone: with the right one back, it is recovered.
# kernels: 6.12 7
# tier: all
# timeout: 400
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"

. "$(dirname "$0")/lib-run.bash"

attach --mem 8M
start_stamp
note "full"
fill
server_dies
server_dies
said 'cannot write state.json' ||
	fail "nobody said that state.json cannot be written: $(cat "$ATTACH_ERR")"
rm "$UBLK_BRIDGE_RUNDIR/fill"
server_dies
await 20 has_standby
assert_eq "$(state_of server_pid)" "$(info_of server_pid)" "the server in state.json"

note "an upgrade that fails when it is full: the old keeper has it back"
keeper=$(info_of keeper_pid)
UB_STEP=adopt=stop "$UBT" upgrade "$ID" 2>upgrade.err &
verb=$!
# stopped: the next keeper, when the old one has let go; sets NEXT
stopped() { NEXT=$(pgrep -P $verb) && [[ $(</proc/"$NEXT"/stat) == *') T '* ]]; }
await 20 stopped
fill
kill -KILL "$NEXT"
! wait $verb || fail "an upgrade whose keeper was killed says that it is done"
has_it_back() { [ "$(info_of keeper_pid)" = "$keeper" ]; }
await 20 has_it_back
said 'did not come up: this one goes on' || fail "it was not handed over: $(cat "$ATTACH_ERR")"
server_dies
rm "$UBLK_BRIDGE_RUNDIR/fill"
server_dies

note "a keeper that comes when it is full"
keeper=$(state_of keeper_pid)
fill
kill -KILL "$keeper"
await 10 gone "$keeper"
"$UB" recover "$ID"
stamp_goes_on
server_dies
rm "$UBLK_BRIDGE_RUNDIR/fill"
server_dies
await 20 has_standby
assert_eq "$(state_of keeper_pid)" "$(info_of keeper_pid)" "the keeper in state.json"

note "read-only: nobody can be its keeper, and the server serves on"
keeper=$(state_of keeper_pid)
server=$(state_of server_pid)
kill -KILL "$keeper"
await 10 gone "$keeper"
mount -o remount,ro "$UBLK_BRIDGE_RUNDIR"
assert_fails 1 'ead-only' "$UB" recover "$ID"
mount -o remount,rw "$UBLK_BRIDGE_RUNDIR"
process_alive "$server" || fail "the server is gone"
stamp_goes_on

note "state.json"
dir=$UBLK_BRIDGE_RUNDIR/ublk$ID
cp "$dir/state.json" good.json
bytes=$(stat -c %s good.json)
# refused WHAT: recover says no, and everything is as it was
refused() {
	run "$UB" recover "$1"
	[ "$STATUS" = 1 ] || [ "$STATUS" = 2 ] || fail "$2: recover ended with $STATUS: $ERR"
	[ -n "$ERR" ] || fail "$2: it says nothing"
	process_alive "$server" || fail "$2: the server is gone"
	cmp -s bad.json "$dir/state.json" || fail "$2: recover has changed it"
	[ -S "$dir/server.sock" ] || fail "$2: the server's socket is gone"
}
for cut in 0 1 $((bytes / 4)) $((bytes / 2)) $((bytes - 2)); do
	head -c "$cut" good.json | tee bad.json >"$dir/state.json"
	refused "ublk$ID" "cut off at $cut"
done
for edit in '.version = 2' '.version = 0' 'del(.recipe)' '.recipe = 7' 'del(.recipe.limits)' \
	'.recipe.limits.size_bytes = -1' \
	'.recipe.limits.logical_block_bytes = 513' '.recipe.data_path = "auto"' \
	'.recipe.data_path = "nonsense"' \
	'.recipe.kind = 5' '.recipe.queues = "x"' '.cookie = "1"' '.id = 999' '.id = -1' \
	'.name = "../x"' \
	'.recipe.limits.nr_queues = "x"' '.recipe.caps = []' '.recipe.command = {}' \
	'.recipe.command = {"words": [1]}' \
	'.recipe.identity = null' '[.]' '.recipe.kind = "nonesuch"' \
	'.backend = "nonesuch" | .recipe.kind = "nonesuch"' '.recipe.queues = -1' \
	'.recipe.kind = ("x" * 900)'; do
	jq "$edit" good.json | tee bad.json >"$dir/state.json"
	refused "ublk$ID" "$edit"
done
head -c 100000 /dev/urandom | base64 >bad.json
head -c 60000 bad.json >small.json && mv small.json bad.json
cp bad.json "$dir/state.json" 2>/dev/null || true
refused "ublk$ID" "noise"
stamp_goes_on

cp good.json "$dir/state.json"
"$UB" recover "$ID"
server_dies
stop_stamp
"$UB" detach "$ID"
await 10 no_device "$ID"
