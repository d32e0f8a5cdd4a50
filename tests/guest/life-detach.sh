#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# detach by number, path and name; twice, and twice at once; when it returns, device and processes
# are gone and the number and the name are free. The keeper of a device that somebody took away ends
# with 0.
# kernels: 6.12 7
# push: 7
# timeout: 90
# sanitize: yes
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

for device in 0 /dev/ublkb0 a-name; do
	attach --mem 4M --name a-name
	assert_eq "$DEV" /dev/ublkb0 "the number, free again"
	run "$UB" detach "$device"
	assert_eq "$STATUS/$OUT/$ERR" 0// "detach $device"
	no_ublk || fail "there are devices when detach has returned: $(compgen -G '/dev/ublk[bc]*')"
	no_rundir || fail "there is $(ls "$UBLK_BRIDGE_RUNDIR") when detach has returned"
	no_bridge || fail "there are processes when detach has returned"
	ends_with 0
	assert_match "$(cat "$ATTACH_ERR")" '/dev/ublkb0 was stopped by somebody else' \
		"what the keeper says"
	assert_fails 1 "there is no device 0|no device is named" "$UB" detach "$device"
done

# several devices: those that can go do, and the status tells that one has stayed
attach --mem 4M --name one
one=$KEEPER
attach --mem 4M --name two
two=$KEEPER
attach --mem 4M --name three
three=$KEEPER
exec 8</dev/ublkb1
run "$UB" detach one two three
assert_eq "$STATUS" 3 "the status when one of three is busy"
assert_match "$ERR" '^[^
]*/dev/ublkb1 is busy: opened by [^
]*$' "what it says"
ends_with 0 "$one"
ends_with 0 "$three"
assert_eq "$("$UB" list -o NAME | tail -n +2)" two "the device that has stayed"
exec 8<&-
attach --mem 4M
run "$UB" detach --all
assert_eq "$STATUS/$OUT/$ERR" 0// "detach --all"
ends_with 0
ends_with 0 "$two"
assert_nothing_left "detach --all"
assert_eq "$("$UB" detach --all 2>&1)" '' "detach --all of nothing"
assert_fails 2 "--all is every device: '0'" "$UB" detach --all 0

# several at once: each ends, one does it, and nothing is left
for round in 1 2 3; do
	attach --mem 4M
	pids=()
	for i in 1 2 3; do
		"$UB" detach 0 2>"detach.$i" &
		pids+=($!)
	done
	nr_done=0
	for i in 1 2 3; do
		status=0
		wait "${pids[i - 1]}" || status=$?
		# one that came late finds none; one that finds another's exclusive probe is told
		# busy
		[[ $status == [013] ]] || fail "round $round: status $status: $(cat detach.$i)"
		[ $status != 0 ] || nr_done=$((nr_done + 1))
	done
	[ $nr_done -gt 0 ] || "$UB" detach 0
	ends_with 0
	assert_nothing_left "round $round"
done

# detach and a signal at once
attach --mem 4M
kill -TERM "$KEEPER"
run "$UB" detach 0
[[ $STATUS == [013] ]] || fail "status $STATUS: $ERR"
ends_with 0
assert_nothing_left "detach and a signal"
