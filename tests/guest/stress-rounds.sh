#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Attach and detach, round after round: by signal and by verb, in the foreground and as a daemon,
# with and without data not yet written. Nothing is left each time, the same id comes again, and the
# kernel's
# memory does not grow.
# kernels: 6.12 7
# tier: all
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"

nothing_left() {
	no_device 0 && [ -z "$(ls -A "$UBLK_BRIDGE_RUNDIR" 2>/dev/null)" ] &&
		! pgrep -x 'ublk-bridge|ublk-server' >/dev/null
}

for ((round = 1; round <= ${ROUNDS:=20}; round++)); do
	case $((round % 4)) in
	0 | 1) attach --mem 1M --queues $((round % 2 + 1)) ;;
	*)
		DEV=$("$UB" attach --daemon --mem 1M --name round)
		ID=${DEV#/dev/ublkb}
		;;
	esac
	assert_eq "$DEV" /dev/ublkb0 "the device of round $round"
	# left in the page cache: detach writes it back
	[ $((round % 3)) = 0 ] || head -c 256K /dev/urandom >"$DEV"
	case $((round % 4)) in
	0) detach ;;
	1 | 2) "$UB" detach "$ID" ;;
	3) "$UB" detach round ;;
	esac
	await 5 nothing_left
	# the first rounds fill caches
	[ $round != 5 ] || slab=$(meminfo SUnreclaim)
done
assert_le $(($(meminfo SUnreclaim) - slab)) $((1024 + 40 * ROUNDS)) \
	"KiB that the kernel has more after $ROUNDS rounds"
