#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A device goes while I/O is under way that will not end by itself: detach --force and a second
# signal have it failed; a server that answers nothing is killed. Whoever waited gets an error; all
# that is in time, and nothing hangs.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

# ended_within SECONDS WHAT
ended_within() {
	note "$2: $((SECONDS - BEGAN)) s"
	assert_le $((SECONDS - BEGAN)) $(($1 * SLOW)) "the seconds that $2 took"
	readers_fail 5
	assert_nothing_left "$2"
	no_d_state
}

# the server fails what it holds
for depth in 1 4; do
	attach_hanging 4M --depth $depth
	start_readers $depth
	BEGAN=$SECONDS
	run "$UB" detach 0 --force
	assert_eq "$STATUS" 0 "detach --force: $ERR"
	[[ $ERR != *killed* ]] || fail "the server was killed though it could be asked: $ERR"
	ends_with 0
	ended_within 15 "detach --force"
done

# signals to the keeper: the first finds it busy, the second insists
attach_hanging 4M
start_readers 2
BEGAN=$SECONDS
kill -TERM "$KEEPER"
await 20 says "$ATTACH_ERR" '/dev/ublkb0 stays: opened by dd'
kill -TERM "$KEEPER"
ends_with 0
ended_within 30 "a second signal"

# I/O that is only slow ends well: a detach that has to wait for it loses nothing
BRIDGE=$UBT
attach --backend faulty:4M:delay=400
dd if=/dev/zero of="$DEV" bs=64k count=20 status=none # dirty pages
run "$UB" detach 0
assert_eq "$STATUS" 0 "detach of a slow device: $ERR"
ends_with 0
assert_match "$(cat "$ATTACH_ERR")" 'served .* writes \(1.2 MiB\).*; 0 failed' "what was served"
assert_nothing_left "detach of a slow device"

# a server that answers nothing at all
attach --mem 4M --timeout 3
server=$(child_of "$KEEPER")
kill -STOP "$server"
start_readers 2
BEGAN=$SECONDS
run "$UB" detach 0 --force
assert_eq "$STATUS" 0 "detach --force: $ERR"
assert_match "$ERR" "the server \(pid $server\) does not let go: it is killed" "what it says"
await 60 gone "$KEEPER"
ended_within 60 "detach --force from a stopped server"

# the same by signals: the first finds it busy, the second insists
attach --mem 4M --timeout 3
kill -STOP "$(child_of "$KEEPER")"
start_readers 2
BEGAN=$SECONDS
kill -TERM "$KEEPER"
await 20 says "$ATTACH_ERR" '/dev/ublkb0 stays: opened by dd'
kill -TERM "$KEEPER"
await 90 gone "$KEEPER"
assert_match "$(cat "$ATTACH_ERR")" "STOP_DEV: .*: the server is killed" "what the keeper says"
ended_within 90 "a second signal with a stopped server"

# nobody has it open: the keeper's helper waits for the write-back, which nobody answers
attach --mem 4M --timeout 3
kill -STOP "$(child_of "$KEEPER")"
READERS=()
BEGAN=$SECONDS
kill -TERM "$KEEPER"
await 20 says "$ATTACH_ERR" 'writing back before the device goes: still waiting after 1[0-9] s'
kill -TERM "$KEEPER"
await 90 gone "$KEEPER"
ended_within 90 "a second signal in the last flush"
