#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What the idle tag is worth on Linux 6.12: as many requests as tags, as whoever sets nr_requests
# himself may have it, or as a device of depth 4 and less has it, and a death is noticed only when a
# request has waited for 30 s. No error then, either.
# kernels: 6.12
# tier: all
# timeout: 240
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-recover.bash"
. "$(dirname "$0")/lib-hang.bash"

attach --mem 4M --depth 8
assert_eq "$(queue_attr nr_requests)" 7 "the requests of a device of depth 8"
detach

# give_back_tag: undoes what the keeper has set, before there is I/O
give_back_tag() { echo 8 >"/sys/block/${DEV#/dev/}/queue/nr_requests"; }
BEFORE_HOLDING=give_back_tag
hold_all --depth 8 --scheduler none
assert_eq "$HELD" 8 "the requests in the server"
die_holding
note "as many requests as tags: recovered after $PAUSE_MS ms"
[ "$PAUSE_MS" -gt 10000 ] ||
	fail "it was noticed after $PAUSE_MS ms: the idle tag is of no use any more"
let_go

BEFORE_HOLDING=true
for args in '--depth 5' '--depth 8 --scheduler mq-deadline' '--depth 128 --queues 2'; do
	# shellcheck disable=SC2086 # several words
	hold_all $args
	die_holding
	note "$args: $HELD requests held, recovered after $PAUSE_MS ms"
	assert_le "$PAUSE_MS" $((3000 * SLOW)) "$args: the milliseconds of the recovery"
	let_go
done
for depth in 1 4; do
	hold_all --depth $depth
	die_holding
	note "depth $depth: recovered after $PAUSE_MS ms"
	assert_le "$PAUSE_MS" $((40000 * SLOW)) "the milliseconds of the recovery"
	let_go
done
