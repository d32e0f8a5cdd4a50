#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The model for minutes: every size of I/O, and many operations on each data path, with one queue
# and two, few tags and many.
# kernels: 6.12 7
# timeout: 900
# tier: all
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
BRIDGE=$UBT

for path in copy get-data user-copy; do
	for shape in "1 1" "1 128" "2 2" "2 128"; do
		read -r queues depth <<<"$shape"
		note "$path, $queues queues of depth $depth"
		attach --mem 40M --queues "$queues" --depth "$depth" --data-path "$path"
		blkmodel --threads 8 --ops 2000
		detach
		attach --backend faulty:24M:delay=1,reorder --queues "$queues" --depth "$depth" \
			--data-path "$path"
		blkmodel --threads 8 --ops 300 --discard 0xdd
		detach
	done
	attach --mem 24M --depth 16 --data-path "$path"
	blkmodel --sweep all --ops 0
	detach
	attach --mem 24M --data-path "$path"
	blkmodel --buffered --ops 4000
	detach
done
