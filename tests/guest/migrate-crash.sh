#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The server, the keeper or both are killed at some time of a migration, under blkstamp: the device
# goes on, each acknowledged write is there, and the migration ends with the device moved.
# (migrate-crash-all does it fifty times.)
# kernels: 6.12 7
# push: 7
# timeout: 240
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-migrate.bash"
require nbdcopy
ROUNDS=${ROUNDS:-6} # an even number ends in memory

make_side 1 16M garbage
serve_side 1
attach --mem 16M
start_stamp
crash_rounds "$ROUNDS"
stop_stamp
note "$(pauses)"
"$UB" detach "$ID"
await 20 no_device "$ID"
kill_side 1
no_d_state
