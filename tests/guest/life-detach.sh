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
