#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Each step of an attach fails by injection: status 1, a message that names the step and the errno,
# and all that was made before is undone. The list of steps is complete: it is what the sources
# have.
# kernels: 6.12 7
# push: 7
# timeout: 120
# sanitize: yes
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

BRIDGE=$UBT
export UB_STEP_LOG=$TEST_DIR/steps
attach --mem 1M
detach
sort -u steps >taken
# shellcheck disable=SC2086 # words
printf '%s\n' $KEEPER_STEPS $SERVER_STEPS $DOWN_STEPS | sort >listed
diff listed taken >&2 || fail "the steps that are taken are not those of lib-life.bash"
src=$(dirname "$0")/../../src
if [ -d "$src" ]; then
	grep -rhoE '_step\("[a-z-]+"' "$src" | cut -d '"' -f 2 | sort -u >sources
	# shellcheck disable=SC2086 # words
	printf '%s\n' $DETACH_STEPS $RECOVERY_STEPS $ADOPT_STEPS $UPGRADE_STEPS $RESIZE_STEPS \
		$MIGRATE_STEPS $MIGRATE_SERVER_STEPS $FENCE_STEPS | sort - listed |
		diff - sources >&2 || fail "the sources have other steps"
fi
unset UB_STEP_LOG

for step in $KEEPER_STEPS $SERVER_STEPS; do
	began=$SECONDS
	UB_STEP=$step=28 attach_fails 1 \
		"^ublk-bridge: (.*: )?$step \(injected\): No space left on device$" --mem 1M \
		--queues 2
	assert_eq "$OUT" "" "stdout when $step fails"
	assert_nothing_left "a failure of $step"
	assert_le $((SECONDS - began)) $((10 * SLOW)) "the seconds that a failure of $step took"
done
no_d_state
