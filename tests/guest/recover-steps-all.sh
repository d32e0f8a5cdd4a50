#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# As recover-steps, at each step.
# kernels: 6.12 7
# tier: all
# timeout: 600
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-recover.bash"
. "$(dirname "$0")/lib-recover-steps.bash"

for step in $RECOVERY_STEPS; do
	note "the keeper at $step"
	keeper_dies_at "$step"
done
for step in $SERVER_RECOVERY_STEPS; do
	note "the standby at $step"
	server_dies_at "$step" kill
done
for step in $SERVER_RECOVERY_STEPS; do
	note "the keeper at the standby's $step"
	server_dies_at "$step" kill-keeper
done
for step in $ADOPT_STEPS $RECOVERY_STEPS; do
	note "who adopts at $step"
	adopter_dies_at "$step" keeper_pid
	adopter_dies_at "$step" keeper_pid server_pid
done
both_die_at end-recovery
both_die_at take
note "half fetched"
for _ in 1 2 3; do
	half_fetched
	half_fetched_alone
done
