#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The first reads of a new device, those of the partition scan, are never answered: attach ends when
# it is interrupted, or when its time is over, and takes the device away. On Linux 6.12 the scan is
# part of START_DEV, which waits for it.
# kernels: 6.12 7
# timeout: 150
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
BRIDGE=$UBT

rm -f /run/ub-faulty-go
"$UBT" --backend faulty:4M:hang >out 2>err </dev/null &
KEEPER=$!
await 30 test -b /dev/ublkb0
DEV=/dev/ublkb0
await 20 in_flight 1
kill -TERM $KEEPER
ends_with 1
says err 'interrupted (while|during)' || fail "it says $(cat err)"
assert_eq "$(cat out)" "" "stdout"
assert_nothing_left "an interrupted start"
no_d_state

# SIGKILL of the server, of the keeper, in that state
for who in server keeper; do
	"$UBT" --backend faulty:4M:hang >out 2>err </dev/null &
	KEEPER=$!
	await 30 test -b /dev/ublkb0
	await 20 in_flight 1
	if [ $who = server ]; then
		kill -KILL "$(child_of "$KEEPER")"
		ends_with 1
		assert_nothing_left "the server killed in the scan"
	else
		# on 6.12 it cannot even die before its START ends
		kill -KILL $KEEPER
		run timeout 90 "$UB" detach --force 0
		assert_eq "$STATUS" 0 "detach --force: $ERR"
		ends_with 137
		detach_all "the keeper killed in the scan"
	fi
	no_d_state
done
