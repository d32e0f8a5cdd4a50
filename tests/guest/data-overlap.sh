#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A discard and a write of the same range at the same time: what reads as zeroes afterwards is
# zeroes, and does not come back when its neighbour is written.
# kernels: 6.12 7
# tier: all
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"

find_tool overlap
for path in copy get-data user-copy; do
	for queues in 1 2; do
		attach --mem 16M --data-path "$path" --queues "$queues"
		"$TOOL" "$DEV" 300 || fail "discarded data came back: $path, $queues queues"
		detach
	done
done
