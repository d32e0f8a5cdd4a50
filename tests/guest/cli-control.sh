#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The control socket on real devices: info, set, detach that is refused and detach that is done; who
# may not speak to it.
# kernels: 6.12 7
# push: 7
# timeout: 120
# sanitize: yes
# shellcheck disable=SC2016,SC2119 # text for jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-nbd.bash"
. "$(dirname "$0")/lib-control.bash"
require setpriv nbdkit

note "memory: info, and what cannot be set"
attach --mem 8M --name memory --queues 2
assert_eq "$(asked memory info '' \
	'[.ok, .name, .device, .state, .backend, .size_bytes, .queues, .log_level, .version]')" \
	'[true,"memory","/dev/ublkb0","live","mem",8388608,2,"notice",1]' "info of a memory device"
assert_eq "$(asked memory info '' '[.keeper_pid, .server_pid]')" "[$KEEPER,$(child_of "$KEEPER")]" \
	"its processes"
assert_eq "$(asked memory info '' '[has("outage_limit_ms"), has("stall_timeout_ms")]')" \
	'[false,false]' "what memory has not"
assert_fails 1 '--outage-limit is for NBD devices: this one is of mem' "$UB" set memory \
	--outage-limit 5
assert_fails 1 '--stall-timeout is for NBD devices' "$UB" set "$DEV" --stall-timeout 5 \
	--log-level debug
assert_fails 1 '--fence-timeout is for NBD devices' "$UB" set "$DEV" --fence-timeout 5
assert_fails 1 'is for NBD devices: this one is of mem' "$UB" fenced "$DEV"
assert_eq "$(asked memory info '' '[.fence, .unflushed_bytes, .losses]')" '[null,null,null]' \
	"the fence of memory"
assert_eq "$(asked memory info '' .log_level)" notice \
	"the level after a set of which half is refused"
"$UB" set 0 --log-level debug
assert_eq "$("$UB" info memory --json | jq -r .log_level)" debug "the level that was set"
assert_match "$("$UB" info memory)" 'log level +debug'
assert_fails 2 "set what\?" "$UB" set memory
assert_fails 2 "set of which device" "$UB" set --log-level debug
assert_fails 2 "'loud' is none of" "$UB" set memory --log-level loud
assert_fails 2 "99ms is too short" "$UB" set memory --stall-timeout 99ms
assert_fails 1 "no device is named 'nobody'" "$UB" set nobody --log-level debug

note "another user"
# the directory lets nobody in, and if it did, the keeper does not answer
! setpriv --reuid nobody --regid nogroup --clear-groups "$ASK" \
	"$UBLK_BRIDGE_RUNDIR/memory/control.sock" '{}' 2>err ||
	fail "another user gets an answer"
chmod 755 "$TEST_DIR" "$UBLK_BRIDGE_RUNDIR" "$UBLK_BRIDGE_RUNDIR/memory"
chmod 666 "$UBLK_BRIDGE_RUNDIR/memory/control.sock"
! setpriv --reuid nobody --regid nogroup --clear-groups "$ASK" "$(socket_of memory)" \
	'{"version":1,"verb":"info"}' >out 2>err || fail "another user gets an answer: $(cat out)"
[ ! -s out ] || fail "another user reads $(cat out)"
await 5 says "$ATTACH_ERR" 'control.sock: user 65534 is not answered'

note "detach"
exec {held}<"$DEV"
assert_eq "$(asked memory detach '' '[.ok, .errno]')" '[false,"EBUSY"]' "a detach of what is held"
assert_match "$(asked memory detach '"force":false' .error)" \
	"^/dev/ublkb0 stays: .*opened by [^ ]+ \(pid $$\)"
assert_eq "$(asked memory info '' .state)" live "the state after it"
exec {held}<&-
nap 1.5
process_alive "$KEEPER" || fail "a refused detach was done later"
# two at once
ask memory detach >one &
ask memory detach >two
wait $!
assert_eq "$(jq .ok one) $(jq .ok two)" 'true true' "two who detach at once"
ends_with 0
[ ! -e "$DEV" ] || fail "$DEV is still there"

note "detach by force"
attach --mem 8M --name memory
exec {held}<"$DEV"
assert_eq "$(asked memory detach '"force":true' .ok)" true "a forced detach"
ends_with 0
exec {held}<&-
assert_nothing_left "a forced detach"

note "NBD: set, and what is in force"
make_image 16M
serve file "$IMG"
attach --fence=time "$URI" --name export --stall-timeout 20
assert_eq "$(asked export info '' '[.backend, .outage_limit_ms, .stall_timeout_ms]')" \
	'["nbd",null,20000]' \
	"info of an NBD device"
"$UB" set export --outage-limit 1m --stall-timeout 1.5s
assert_eq "$("$UB" info export --json | jq -c '[.outage_limit_ms, .stall_timeout_ms]')" \
	'[60000,1500]' "what was set"
"$UB" set export --outage-limit none
assert_match "$("$UB" info export)" 'outage limit +none'
dd if="$DEV" of=/dev/null bs=4k count=1 iflag=direct status=none
assert_eq "$(asked export info '' \
	'.fence | [.policy, .timeout_ms, .command, .ranges, .deadline_ms]')" \
	'["time",30000,null,0,null]' "the fence of an NBD device"
"$UB" set export --fence-timeout 5m
assert_eq "$("$UB" info export --json | jq -c '[.fence_timeout_ms, .fence.timeout_ms]')" \
	'[300000,300000]' \
	"the fence timeout that was set"
assert_eq "$("$UB" list --json | jq -c '.[] | [.fence.ranges, .unflushed_bytes, .losses.count]')" \
	'[0,0,0]' \
	"what list says of lost connections"

note "NBD: fenced"
assert_eq "$(asked export fenced '' '[.ranges, .bytes]')" '[0,0]' "ranges that were waited for"
run "$UB" fenced export
assert_eq "$STATUS" 0 "the status of fenced"
assert_match "$ERR" 'there was nothing to wait for'
assert_fails 2 'fenced which device' "$UB" fenced

note "NBD: a limit that is set in an outage"
unserve
await 5 is_offline
dd if="$DEV" of=/dev/null bs=4k count=1 iflag=direct status=none 2>/dev/null &
reader=$!
nap 1
process_alive $reader || fail "the read did not wait"
"$UB" set export --outage-limit 10m
nap 0.3
process_alive $reader || fail "the read did not wait for a limit that is not over"
"$UB" set export --outage-limit 1s
await 3 gone $reader
! wait $reader || fail "the read did not fail"
"$UB" set export --outage-limit none
dd if="$DEV" of=/dev/null bs=4k count=1 iflag=direct status=none 2>/dev/null &
reader=$!
nap 0.5
process_alive $reader || fail "a read does not wait, though there is no limit any more"
assert_eq "$(asked export detach '' '[.ok, .errno]')" '[false,"EIO"]' "a detach of what is offline"
serve file "$IMG"
await 20 gone $reader
wait $reader || fail "the read failed"
assert_eq "$(asked export detach '' .ok)" true "detach of the NBD device"
ends_with 0
unserve TERM
assert_nothing_left
rm -f /tmp/ub-run
