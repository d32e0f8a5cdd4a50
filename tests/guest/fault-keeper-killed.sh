#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# SIGKILL of the keeper at each step, its own and the server's: detach clears what is left, nothing
# hangs, and the next attach finds everything free.
# kernels: 6.12 7
# push: 7
# timeout: 180
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

for step in $KEEPER_STEPS; do
	start_with "$step=kill" --mem 1M
	ends_with 137
	detach_all "the keeper killed at $step"
done
for step in $SERVER_STEPS; do
	start_with "$step=kill-keeper" --mem 1M
	ends_with 137
	detach_all "the keeper killed at the server's $step"
done
for step in $DOWN_STEPS; do
	start_with "$step=kill" --mem 1M
	await 30 test -s out
	kill -TERM $KEEPER
	ends_with 137
	detach_all "the keeper killed at $step"
done
attach --mem 1M
assert_eq "$DEV" /dev/ublkb0 "the first number"
detach
