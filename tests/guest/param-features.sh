#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# This kernel's ublk has no feature that we have no name for: a bit that is new wants to be looked
# at.
# kernels: 7
# timeout: 30
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

run "$UB" features
assert_eq "$STATUS" 0 "the status"
[[ $OUT != *'newer than this ublk-bridge'* ]] || fail "unknown features: $OUT"
