#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A server that froze with writes in it goes on when another one has long taken its place: nothing of it
# lands on newer data.
# kernels: 6.12 7
# timeout: 180
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-stamp.bash"

# freeze SERVE-ARGUMENTS…: the old server stands still, and a new one is started; then the old one goes on
freeze() {
	local old=$SERVER told
	told=$(times_said 'no write is sent before')
	kill -STOP "$old"
	nap 0.3
	serve "$@"
	# the new one is there, and held back until the old one has ended what it had
	await 30 said_more 'no write is sent before' "$told"
	nap 0.5
	kill -CONT "$old"
	stamp_goes_on
	kill -TERM "$old" 2>/dev/null || note "the old server has ended by itself: $(tail -n 3 "$NBD_LOG")"
	await 20 gone "$old"
}

# frozen CONNECTIONS SERVE-ARGUMENTS…
frozen() {
	local i connections=$1
	shift
	note "$connections connections, nbdkit $*"
	serve "$@"
	attach --stall-timeout 1s --fence-timeout 60s -C "$connections" "$URI"
	# so many that a write is among what the server has when it is stopped
	start_stamp --threads 24
	for ((i = 0; i < ${ROUNDS:-2}; i++)); do
		freeze "$@"
		stamp_goes_on
	done
	stop_stamp
	! said 'was not closed by the server' || fail "the fence was given up"
	detach
	unserve
}

make_image 16M
frozen 1 file "$IMG"
frozen 4 file "$IMG"

note "a delay between receiving and writing"
serve --filter=delay file "$IMG" delay-write=1
attach "$URI"
JOURNAL=$TEST_DIR/journal-of-delays
start_stamp --size 4M
for ((i = 0; i < ${ROUNDS:-2}; i++)); do
	old=$SERVER
	nap 0.3
	kill -TERM "$old"
	rm -f "$SOCK"
	serve --filter=delay file "$IMG" delay-write=1
	await 30 gone "$old"
	stamp_goes_on
done
stop_stamp
detach
unserve
