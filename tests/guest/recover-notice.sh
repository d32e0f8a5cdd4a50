#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A server dies with every request in its hands: its death is noticed at once all the same, for a
# tag of each queue is kept idle. (Linux 6.12 sees a death by what is idle, or after 30 s by its
# timer.)
# kernels: 6.12 7
# push: 6.12
# timeout: 90
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-recover.bash"
. "$(dirname "$0")/lib-hang.bash"

hold_all --depth 16
die_holding
note "$HELD requests held, recovered after $PAUSE_MS ms"
assert_le "$PAUSE_MS" $((3000 * SLOW)) "the milliseconds of the recovery"
let_go
