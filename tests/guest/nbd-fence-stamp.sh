#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A server that froze with writes in it goes on when another one has long taken its place: nothing
# of it lands on newer data.
# kernels: 6.12 7
# push: 7
# timeout: 180
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-stamp.bash"

# serve_with KIND: nbdkit, or qemu-nbd, which closes its side of a connection before it has done
# what it read from there
serve_with() {
	case $1 in
	nbdkit) serve file "$IMG" ;;
	qemu-nbd)
		rm -f "$SOCK"
		qemu-nbd -e 16 -t -k "$SOCK" -f raw --cache=writeback "$IMG" 2>>"$NBD_LOG" &
		SERVER=$!
		await 20 test -S "$SOCK"
		;;
	esac
}

# freeze KIND SECONDS: the old server stands still, and a new one is started; so much later the old
# one goes on
freeze() {
	local old=$SERVER told
	told=$(times_said 'it is read on')
	kill -STOP "$old"
	nap 0.3
	serve_with "$1"
	# the new one is there, and the old one is still read
	await 30 said_more 'it is read on' "$told"
	nap "$2"
	kill -CONT "$old"
	stamp_goes_on
	# nbdkit 1.32 aborts when its connection ends within a request
	kill -TERM "$old" 2>/dev/null || true
	await 20 gone "$old"
}

# frozen KIND CONNECTIONS
frozen() {
	local i
	note "$1, $2 connections"
	serve_with "$1"
	attach --stall-timeout 1s --fence-timeout 5s -C "$2" "$URI"
	# so many that a write is among what the server has when it is stopped
	start_stamp --threads 24
	for ((i = 0; i < ${ROUNDS:-2}; i++)); do
		# within the time that it is read on, and beyond
		freeze "$1" $((i % 2 * 2)).3
		stamp_goes_on
	done
	stop_stamp
	detach
	unserve TERM
}

make_image 16M
frozen nbdkit 1
frozen qemu-nbd 4
