#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The server of a memory device is killed again and again under load, on each data path: no error,
# and no sector is stale, torn or lost.
# kernels: 6.12 7
# push: 6.12
# timeout: 300
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
ROUNDS=${ROUNDS:-3}

for args in '--data-path get-data' '--data-path copy --queues 2' '--data-path user-copy'; do
	note "$args"
	rm -f "$JOURNAL"
	# shellcheck disable=SC2086 # several words
	attach --mem 16M $args
	start_stamp
	kills "$ROUNDS"
	stop_stamp
	note "$(pauses)"
	detach
done
