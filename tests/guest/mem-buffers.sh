#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The tag buffers of a memory device are hardly used, and what is used of them is given back: reads
# of ranges that are partly there, and writes that end with ENOSPC, leave the server as small as it
# was.
# kernels: 6.12 7
# push: 7
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
require fio

anon() { awk '$1 == "RssAnon:" { print $2 }' "/proc/$(server_pid "$ID")/status"; }

for path in get-data user-copy; do
	attach --mem 256M --data-path "$path" --depth 64
	before=$(anon)
	# a block in each MiB, so that every large read finds holes
	fio --name=w --filename="$DEV" --direct=1 --ioengine=libaio --rw=write:1020k --bs=4k \
		--size=64M \
		--iodepth=16 --output=/dev/null
	fio --name=r --filename="$DEV" --direct=1 --ioengine=libaio --rw=read --bs=1M --size=64M \
		--iodepth=64 --output=/dev/null
	after=$(anon)
	note "$path: $before KiB, $after KiB after the reads"
	assert_le $((after - before)) 8192 "the growth of the server by reads, in KiB,"
	detach
done
