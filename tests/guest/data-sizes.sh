#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Each size from one sector to 64 KiB, many larger ones and the largest, at random places, is
# written and read back with the sectors before and behind it: on each data path.
# kernels: 6.12 7
# push: 7
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"

for path in copy get-data user-copy; do
	note "$path"
	# few tags, so that the largest I/O is the same on every path
	attach --mem 8M --depth 16 --data-path "$path"
	largest=$(($(queue_attr max_hw_sectors_kb) * 1024))
	assert_eq "$largest" $((1 << 20)) "the largest I/O"
	queue_attr max_hw_sectors_kb >"/sys/block/${DEV#/dev/}/queue/max_sectors_kb"
	blkmodel --sweep some --ops 0 --max-io "$largest"
	detach
done

note "blocks of 4096 bytes"
attach --mem 8M --block-size 4096
blkmodel --sweep some --ops 300
detach
