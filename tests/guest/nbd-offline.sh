#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# While the server is away: I/O waits, or fails when a limit says so; detach and signals answer at
# once.
# kernels: 6.12 7
# push: 6.12
# timeout: 120
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq

# seconds COMMAND…: how long it takes
seconds() {
	local start=$SECONDS
	"$@"
	echo $((SECONDS - start))
}
read_one() { dd if="$DEV" of=/dev/null bs=4k count=1 skip=$((RANDOM % 100)) iflag=direct \
	status=none; }

make_image 16M
note "a read waits"
serve file "$IMG"
attach "$URI"
unserve
await 5 is_offline
read_one &
reader=$!
nap 1
process_alive $reader || fail "the read did not wait"
# why it is away now: the last reason, how many tries, since when, beside how it began
not_reached() { [[ $("$UB" info "$ID" --json | jq -r .health_why) =~ $1 ]]; }
await 10 not_reached \
	'offline: .*; not reached for [0-9.]+ s, [0-9]+ (try|tries): .*Connection refused'
rm "$SOCK"
await 20 not_reached 'not reached for [0-9.]+ s, [0-9]+ tries: .*No such file'
assert_match "$("$UB" list)" 'not reached for .* tries: .*No such file' "the list"
assert_eq "$("$UB" info "$ID" --json | jq -r '.health + " " + .source')" "offline $URI" \
	"what info says"
serve file "$IMG"
await 10 gone $reader
wait $reader || fail "the read failed"
await 5 is_online
assert_eq "$("$UB" info "$ID" --json | jq -r '.health + " " + .source')" "online $URI" \
	"what info says"
assert_match "$("$UB" list)" " online +16 MiB +0 +nbd\+unix:///.socket=$SOCK\$" "the list"

note "detach while it is offline"
unserve
await 5 is_offline
assert_fails 1 'cannot be written back now.*--force' "$UB" detach "$ID"
exec {held}<"$DEV"
assert_fails 3 'is busy' "$UB" detach "$ID"
exec {held}<&-
read_one 2>/dev/null &
reader=$!
nap 0.3
assert_le "$(seconds "$UB" detach --force "$ID")" $((3 * SLOW)) "seconds that a forced detach takes"
! wait $reader || fail "a read that was given up did not fail"
await 5 no_device "$ID"
no_d_state

note "signals while it is offline"
serve file "$IMG"
attach "$URI"
unserve
await 5 is_offline
kill -INT "$KEEPER"
await 5 said 'stays: .*offline'
kill -INT "$KEEPER"
await 5 gone "$KEEPER"
no_device "$ID" || fail "the device is still there"

note "a limit"
serve file "$IMG"
attach --outage-limit 2s "$URI"
unserve
! read_one 2>/dev/null || fail "a read came through"
assert_le "$(seconds read_one 2>/dev/null)" "$SLOW" "seconds that a later one waits"
serve file "$IMG"
await 10 is_online
read_one || fail "a read after the server is back"
detach
unserve
serve file "$IMG"
attach --outage-limit 0 "$URI"
unserve
await 5 is_offline
! read_one 2>/dev/null || fail "a read came through"
serve file "$IMG"
await 10 is_online
read_one || fail "a read after the server is back"
detach
unserve

note "no server when it is attached"
attach_fails 1 'cannot connect: .*No such file|cannot connect: .*refused' "$URI"
(
	nap 2
	serve file "$IMG"
) &
attach --wait 20s "$URI"
said 'retrying' || fail "nothing was said of the wait"
detach
wait
kill "$(<"$TEST_DIR/nbd.pid")"
