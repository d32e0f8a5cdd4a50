#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# SIGKILL of the server at each step, its own and the keeper's: the keeper says so, undoes the rest
# and ends with 1; nothing is left and nothing hangs.
# kernels: 6.12 7
# push: 6.12
# timeout: 240
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

told='the server was killed by signal 9|interrupted|the server cannot be reached'
for step in $SERVER_STEPS; do
	start_with "$step=kill" --mem 1M
	ends_with 1
	says err "$told" || fail "killed at $step: the keeper says $(cat err)"
	assert_nothing_left "the server killed at $step"
done
no_d_state
for step in add-dev added set-params rundir serve start-dev started settle; do
	start_with "$step=stop" --mem 1M
	await 30 is_stopped $KEEPER
	server=$(child_of $KEEPER) || server=
	kill -KILL "$server"
	# a zombie: it is the keeper's to be waited for
	await 10 gone "$server"
	kill -CONT $KEEPER
	ends_with 1
	says err "$told" || fail "killed at the keeper's $step: the keeper says $(cat err)"
	assert_nothing_left "the server killed at the keeper's $step"
done
no_d_state
for step in stop-dev end-server del-dev; do
	start_with "$step=stop" --mem 1M
	await 30 test -s out
	kill -TERM $KEEPER
	await 30 is_stopped $KEEPER
	server=$(child_of $KEEPER) || server=
	# at the later steps it has ended by itself
	[ -z "$server" ] || kill -KILL "$server"
	kill -CONT $KEEPER
	await 30 gone $KEEPER
	assert_nothing_left "the server killed at the keeper's $step"
done
no_d_state
