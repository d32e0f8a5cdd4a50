#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A server that stands still has a write in hand, and another one has taken its place: that is
# shown, a detach waits for it and not for ever, and a word, a person's or a command's, ends it at
# once.
# kernels: 6.12 7
# push: 7
# timeout: 240
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq

ranges() { "$UB" info "$ID" --json | jq .fence.ranges; }
has_ranges() { [ "$(ranges)" = "$1" ]; }
knows_end() { [ "$("$UB" info "$ID" --json | jq .fence.deadline_ms)" != null ]; }

# strand OPTIONS…: attaches, and one block is written to a server that has read it and stands still;
# the next server has it by now. OLD is the one that stands still.
strand() {
	serve --filter=delay file "$IMG" wdelay=2
	OLD=$SERVER
	attach --stall-timeout 1s "$@" "$URI"
	dd if=/dev/urandom of="$DEV" bs=4k count=1 seek=16 oflag=direct status=none &
	local writer=$!
	nap 0.5
	kill -STOP "$OLD"
	serve file "$IMG"
	await 30 gone $writer
	wait $writer || fail "the write failed"
	await 10 has_ranges 1
}

# bury: both servers are gone
bury() {
	kill -KILL "$OLD"
	await 10 gone "$OLD"
	unserve
}

make_image 16M
note "it is seen"
strand --fence-timeout 10m
await 10 knows_end
assert_eq "$("$UB" info "$ID" --json | jq -c '.fence | [.policy, .timeout_ms, .bytes, .waiting]')" \
	'["time",600000,4096,0]' "the fence"
assert_match "$("$UB" list)" \
	'1 range of 4 KiB may still be written by lost connections, for [0-9.]+ s at the most'
assert_eq "$("$UB" list --json | jq '.[].fence.ranges')" 1 "ranges in list"
assert_match "$("$UB" stats "$ID")" \
	'fence: 1 ranges of 4 KiB may still be written by lost connections'
"$UB" metrics --openmetrics | awk -f "$(dirname "$0")/openmetrics.awk" >samples ||
	fail "OpenMetrics that are none"
grep -q '^ublk_bridge_backend_fence_ranges{.*} 1$' samples || fail "no ranges in the metrics"
grep -qE '^ublk_bridge_backend_fence_deadline_seconds\{.*\} [0-9]+\.[0-9]+$' samples ||
	fail "no deadline"

note "a person's word"
run "$UB" fenced "$ID"
assert_match "$ERR" '1 range \(4 KiB\) may be written again at once'
await 5 has_ranges 0
"$UB" detach "$ID"
bury

note "detach waits, and says what for"
strand --fence-timeout 10m
"$UB" set "$ID" --fence-timeout 8s
SECONDS=0
"$UB" detach "$ID" 2>detach.err || fail "detach: $(cat detach.err)"
note "it took $SECONDS s"
await 10 no_device "$ID"
grep -qE '1 range of 4 KiB may .* s at the most: that is waited for \(--force does not wait\)' \
	detach.err ||
	[ "$SECONDS" -lt 3 ] || fail "it does not say so: $(cat detach.err)"
bury

note "so does a signal, and a second one does not"
strand --fence-timeout 10m
kill -TERM "$KEEPER"
await 20 said 'it goes when that is over: 1 range of 4 KiB'
nap 1.5
[ -e "$DEV" ] || fail "it did not wait"
kill -TERM "$KEEPER"
await 20 gone "$KEEPER"
said '1 range, 4096 bytes of the old server may still be written' ||
	fail "not a word: $(cat "$ATTACH_ERR")"
await 10 no_device "$ID"
bury

note "by force"
strand --fence-timeout 10m
run "$UB" detach --force "$ID"
assert_eq "$STATUS" 0 "the status of a forced detach"
assert_match "$ERR" '1 range, 4096 bytes of the old server may still be written'
await 10 no_device "$ID"
bury

note "not for ever, where no time counts: it has not even read it"
serve file "$IMG"
OLD=$SERVER
attach --stall-timeout 1s --fence-timeout 3s "$URI"
kill -STOP "$OLD"
dd if=/dev/urandom of="$DEV" bs=4k count=1 oflag=direct status=none &
writer=$!
nap 0.3
serve file "$IMG"
await 30 gone $writer
await 10 has_ranges 1
! knows_end || fail "its time counts while the old server has not read it"
assert_fails 3 "stays: 1 range of 4 KiB may still be written by lost connections: $(
	)'ublk-bridge fenced $ID'" \
	"$UB" detach "$ID"
[ -e "$DEV" ] || fail "it is gone"
kill -CONT "$OLD"
await 20 has_ranges 0
"$UB" detach "$ID"
bury

note "a command's word"
strand --fence-timeout 10m --fence-command \
	"echo \"\$UBLK_BRIDGE_DEVICE \$UBLK_BRIDGE_NAME \$UBLK_BRIDGE_SERVER\"
	[ -e '$TEST_DIR/off' ]"
await 20 said "fence command: $DEV ublk$ID nbd\+unix:///"
await 20 said 'the fence command ended with status 1'
assert_eq "$(ranges)" 1 "ranges after a command that failed"
touch "$TEST_DIR/off"
await 30 has_ranges 0
said 'the fence command says that the old server can write no more' || fail "$(cat "$ATTACH_ERR")"
detach
bury
no_d_state
