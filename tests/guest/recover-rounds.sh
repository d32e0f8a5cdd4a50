#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A hundred times in a row each, under blkstamp: the server of a memory device is killed, that of an
# NBD device, the keeper (and recover gives another one), and both. Nobody notices, and no process
# grows.
# kernels: 6.12 7
# tier: all
# timeout: 1500
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
ROUNDS=${ROUNDS:-100}

# kills_of KEYS…: these processes, and then recover; each round is awaited until writes are answered
kills_of() {
	local i one pids
	for ((i = 0; i < ROUNDS; i++)); do
		nap 0.$((RANDOM % 5 + 1))
		stamp_alive
		await 20 has_standby
		pids=()
		for one in "$@"; do pids+=("$(state_of "$one")"); done
		kill -KILL "${pids[@]}"
		for one in "${pids[@]}"; do await 10 gone "$one"; done
		"$UB" recover "$ID" >>recover.out 2>&1 || fail "recover: $(tail -n 3 recover.out)"
		# nbdkit 1.32 may abort when a connection ends within a request
		[ $what = memory ] || process_alive "$SERVER" || serve file "$IMG"
		stamp_goes_on
	done
	note "$ROUNDS times $*"
}

for what in memory NBD; do
	rm -f "$JOURNAL"
	if [ $what = memory ]; then
		attach --mem 16M
	else
		make_image 16M
		serve file "$IMG"
		attach --fence-timeout 1s "$URI"
	fi
	note "$what: $ROUNDS times the server"
	start_stamp
	kills 3
	rss=$(rss_kib "$KEEPER") fds=$(find "/proc/$KEEPER/fd" | wc -l)
	kills "$ROUNDS"
	note "$(pauses)"
	await 20 has_standby
	assert_le "$(find "/proc/$KEEPER/fd" | wc -l)" $((fds + 2)) "descriptors of the keeper"
	assert_le "$(rss_kib "$KEEPER")" $((rss + 1024)) "KiB of the keeper's memory"
	kills_of keeper_pid
	kills_of keeper_pid server_pid
	stop_stamp
	"$UB" detach "$ID"
	await 10 no_device "$ID"
done
unserve
no_d_state
