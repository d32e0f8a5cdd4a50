#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Keeper and server killed together, at each step of the server; and the verb detach killed half
# way: another detach clears what is left.
# kernels: 6.12 7
# tier: all
# timeout: 180
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

for step in $SERVER_STEPS; do
	start_with "$step=stop" --mem 1M
	await 30 server_is_stopped
	server=$(child_of $KEEPER)
	kill -KILL $KEEPER "$server"
	ends_with 137
	detach_all "both killed at $step"
done
for step in add-dev set-params rundir serve start-dev started settle stop-dev del-dev; do
	start_with "$step=stop" --mem 1M
	if [[ $step == *p-dev || $step == del-dev ]]; then
		await 30 test -s out
		kill -TERM $KEEPER
	fi
	await 30 is_stopped $KEEPER
	server=$(child_of $KEEPER) || server=
	# shellcheck disable=SC2086 # perhaps none
	kill -KILL $server $KEEPER
	ends_with 137
	detach_all "both killed at the keeper's $step"
done

for step in $DETACH_STEPS; do
	start_with none=0 --mem 1M
	await 30 test -s out
	UB_STEP=$step=kill run "$UBT" detach 0
	assert_eq "$STATUS" 137 "the status of a killed detach"
	detach_all "detach killed at $step"
	await 30 gone $KEEPER
	UB_STEP=$step=5 assert_fails 1 "there is no device 0" "$UBT" detach 0
done
