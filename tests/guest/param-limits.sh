#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What a device was asked to be, the kernel says in sysfs: block sizes, size, largest I/O, write
# cache, FUA, discard and zeroes, read-only, depth and queues.
# kernels: 6.12 7
# push: 7
# timeout: 90
# sanitize: all
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

# attr NAME VALUE
attr() { assert_eq "$(queue_attr "$1")" "$2" "$1 of $ARGS"; }

# device ARGUMENTS…: attach, with its words for messages
device() {
	ARGS="$*"
	attach "$@"
}

for block in 512 1024 2048 4096; do
	device --mem 8M --block-size $block
	attr logical_block_size $block
	attr physical_block_size 4096
	attr minimum_io_size 4096
	attr write_cache 'write back'
	attr fua 1
	attr rotational 0
	assert_eq "$(size_of "$DEV")" 8388608 "the size"
	assert_eq "$(blockdev --getro "$DEV")" 0 "whether it is read-only"
	[ "$(queue_attr discard_max_bytes)" -gt 0 ] || fail "no discard"
	[ "$(queue_attr write_zeroes_max_bytes)" -gt 0 ] || fail "no zeroes"
	[ $((block)) -le "$(queue_attr discard_granularity)" ] ||
		fail "discard granularity under a block"
	dd if=/dev/zero of="$DEV" bs=$block count=3 oflag=direct status=none
	if [ $block -gt 512 ]; then
		run dd if="$DEV" of=/dev/null bs=512 count=1 iflag=direct
		assert_eq "$STATUS" 1 "the status of I/O below the block size"
	fi
	detach
done

# read-only: the kernel knows, and so does everybody
device --mem 8M --read-only
assert_eq "$(blockdev --getro "$DEV") $(cat "/sys/block/${DEV#/dev/}/ro")" '1 1' \
	"whether it is read-only"
run dd if=/dev/zero of="$DEV" bs=4k count=1 conv=fsync
assert_eq "$STATUS" 1 "the status of a write"
assert_match "$ERR" 'not permitted|Read-only' "the error of a write"
dd if="$DEV" of=/dev/null bs=4k count=1 iflag=direct status=none
run blkdiscard "$DEV"
[ "$STATUS" != 0 ] || fail "a discard of a read-only device succeeds"
# also from inside the kernel's own writers, and once somebody sets it writable again
blockdev --setrw "$DEV" 2>/dev/null || true
run dd if=/dev/zero of="$DEV" bs=4k count=1 oflag=direct
assert_eq "$STATUS" 1 "the status of a write to a device that was set writable"
detach

# the largest I/O, for each data path
for path in copy get-data user-copy; do
	for max in 4K 64K 1M; do
		device --mem 8M --max-io $max --depth 16 --data-path $path
		attr max_hw_sectors_kb $(($(numfmt --from=iec $max) / 1024))
		detach
	done
done
device --backend null:8M --max-io 32M --depth 1
[ "$(queue_attr max_hw_sectors_kb)" -ge 1024 ] ||
	fail "max_hw_sectors_kb is $(queue_attr max_hw_sectors_kb)"
detach

# sizes
for size in 512 1536 4096 1M 1.5G 2T 20T 8191P; do
	device --backend null:$size
	assert_eq "$(size_of "$DEV")" "$(numfmt --from=iec $size)" "the size of $size"
	detach
done

# depth and queues: what the kernel grants is what it uses
cpus=$(nproc)
for depth in 1 2 128 1024 4096; do
	device --backend null:1M --depth $depth --max-io 4K --queues "$cpus"
	assert_eq "$(find "/sys/block/${DEV#/dev/}/mq" -mindepth 1 -maxdepth 1 -type d | wc -l)" \
		"$cpus" "the queues"
	assert_eq "$(queue_attr nr_requests)" $depth "the requests of a queue"
	dd if="$DEV" of=/dev/null bs=64k count=16 iflag=direct status=none
	detach
done
assert_nothing_left
