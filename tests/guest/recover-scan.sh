#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# START of a device that can be recovered reads nothing: on Linux 6.12 it would scan partitions,
# holding the device's lock, and a server that dies then would keep it for ever, for its reads are
# kept for the next one. The threads that fetch may not administrate, and so the driver does not
# scan. Without recovery it does: the same test shows it.
# kernels: 6.12 7
# push: 6.12
# timeout: 90
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
BRIDGE=$UBT
rm -f /run/ub-faulty-go

# settling: START has returned
settling() { is_stopped "$KEEPER"; }

note "with recovery: START returns, though no read is ever answered, and its server may die then"
for when in settle start-dev; do
	start_with "$when=stop" --backend faulty:4M:hang
	await 30 settling
	if [ $when = settle ]; then
		read -ra stat </sys/block/ublkb0/stat
		assert_eq "${stat[0]} ${stat[8]}" "0 0" \
			"the reads that were answered, and those in flight"
	fi
	kill -KILL "$(child_of $KEEPER)"
	kill -CONT $KEEPER
	ends_with 1
	assert_nothing_left "the server killed before $when"
done
no_d_state

note "a thread that fetches may not administrate"
attach --mem 4M --queues 2
nr=0
for task in "/proc/$(server_pid)/task"/*; do
	[[ $(<"$task/comm") == ublk-q* ]] || continue
	caps=$(awk '/^CapEff:/ { print $2 }' "$task/status")
	if ! kernel_at_least 7; then
		assert_eq $(((16#$caps >> 21) & 1)) 0 "CAP_SYS_ADMIN of $(<"$task/comm")"
	fi
	nr=$((nr + 1))
done
assert_eq $nr 2 "the threads of queues"
detach

kernel_at_least 7 && exit 0 # it never scans by itself
note "without recovery START scans, and does not return"
start_with settle=stop --no-recovery --backend faulty:4M:hang
DEV=/dev/ublkb0
await 30 test -b $DEV
await 20 in_flight 1
! wait_for 3 settling || fail "START returned: this test shows nothing"
kill -KILL "$(child_of $KEEPER)"
ends_with 1
assert_nothing_left "without recovery"
