#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A store costs what is written to it: 1T and 20T attach as fast as 16M, take no memory, and reading
# a GiB of nothing takes none either.
# kernels: 6.12 7
# push: 7
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"

# milliseconds: since whenever
milliseconds() { printf '%s\n' "$((${EPOCHREALTIME/./} / 1000))"; }

for size in 1T 20T; do
	note "$size"
	available=$(meminfo MemAvailable) shmem=$(meminfo Shmem) began=$(milliseconds)
	attach --mem "$size"
	assert_le $(($(milliseconds) - began)) $((4000 * SLOW)) "milliseconds to attach $size"
	assert_eq "$(size_of "$DEV")" $((${size%T} << 40)) "the size"
	assert_le $(($(meminfo Shmem) - shmem)) 256 "KiB of memory files for $size"
	# two processes with stacks, rings and tag buffers that are hardly touched
	assert_le $((available - $(meminfo MemAvailable))) $((24576 * SLOW)) "KiB for $size"

	server=$(server_pid)
	rss=$(rss_kib "$server") shmem=$(meminfo Shmem)
	dd if="$DEV" of=/dev/null bs=1M count=1024 skip=$((${size%T} * 500000)) iflag=direct \
		status=none
	assert_le $(($(meminfo Shmem) - shmem)) 256 "KiB of memory files for reading nothing"
	assert_le $(($(rss_kib "$server") - rss)) 2048 "KiB of the server for reading nothing"

	# and one sector costs one page
	dd if=/dev/urandom of="$DEV" bs=512 count=1 seek=2000000000 oflag=direct conv=notrunc \
		status=none
	assert_le $(($(meminfo Shmem) - shmem)) 256 "KiB of memory files for a sector"
	detach
done

note "on the path that copies"
attach --mem 1T --data-path copy
shmem=$(meminfo Shmem)
dd if="$DEV" of=/dev/null bs=1M count=1024 iflag=direct status=none
assert_le $(($(meminfo Shmem) - shmem)) 256 "KiB of memory files for reading nothing"
detach
