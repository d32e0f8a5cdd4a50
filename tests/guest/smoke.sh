#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The harness itself: what the other tests take for granted is there.
# kernels: 6.12 7
# timeout: 60
# sanitize: yes
. "$(dirname "$0")/lib.sh"

[ -c /dev/ublk-control ] || fail "no /dev/ublk-control"
[ "$(stat -f -c %T "$TEST_DIR")" = tmpfs ] || fail "$TEST_DIR is not in memory"
assert_eq "$(cat /sys/class/net/lo/operstate)" unknown "state of lo"
assert_eq "$(ulimit -c)" 0 "core size limit"
assert_match "$("$UB" --version)" '^ublk-bridge ' "the version"
run "$UB" features
assert_eq "$STATUS" 0 "status of features"
none_in_d_state || fail "in D state: $(list_d_state)"
