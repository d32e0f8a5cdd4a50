#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The server is killed under load, and then the keeper with it: the workers get errors, nobody
# hangs, and the keeper, or else detach, takes everything away.
# kernels: 6.12 7
# push: 7
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
require fio

for ((round = 1; round <= ${ROUNDS:=1}; round++)); do
	for path in copy get-data user-copy; do
		note "round $round, $path: the server"
		attach --no-recovery --mem 16M --queues 2 --data-path "$path"
		work_hard
		server=$(server_pid)
		kill -9 "$server"
		worker_failed
		await 60 gone "$KEEPER"
		status=0
		wait "$KEEPER" || status=$?
		assert_eq $status 1 "the keeper's status"
		assert_match "$(cat "$ATTACH_ERR")" 'the server was killed by signal 9' \
			"what the keeper says"
		await 5 no_device "$ID"

		note "round $round, $path: the keeper, then the server"
		attach --no-recovery --mem 16M --data-path "$path"
		work_hard
		server=$(server_pid)
		kill -9 "$KEEPER"
		wait "$KEEPER" 2>/dev/null || true
		# it goes on without its keeper
		read -ra before <"/sys/block/${DEV#/dev/}/stat"
		await 20 more_written "${before[4]}"
		kill -9 "$server"
		worker_failed
		run "$UB" detach "$ID" --force
		assert_eq "$STATUS" 0 "the status of detach: $ERR"
		await 5 no_device "$ID"
		[ -z "$(ls -A "$UBLK_BRIDGE_RUNDIR")" ] ||
			fail "left: $(ls -A "$UBLK_BRIDGE_RUNDIR")"
	done
done
no_d_state
