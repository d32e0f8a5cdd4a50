#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Devices of one sector, of three, and of sizes that are no multiple of a page: exact to the last
# sector, past the page cache and through it. All start as zeroes, whatever was there before.
# kernels: 6.12 7
# push: 7
# timeout: 180
# sanitize: all
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"

for size in 512 1536 $((1048576 + 512)); do
	for path in copy get-data user-copy; do
		[ "$size" -gt 512 ] || [ $path = copy ] || continue
		note "$size bytes, $path"
		attach --mem "$size" --data-path "$path"
		! grep -q 'not scanned' "$ATTACH_ERR" || fail "it complains: $(cat "$ATTACH_ERR")"
		assert_eq "$(size_of "$DEV")" "$size" "the size"
		is_zero 0 "$size" || fail "it does not start as zeroes"
		blkmodel --ops 40
		blkmodel --ops 40 --buffered
		run dd if=/dev/zero of="$DEV" bs=512 seek=$((size / 512)) count=1 oflag=direct \
			conv=notrunc
		assert_eq "$STATUS" 1 "the status of a write behind the end"
		assert_eq "$(dd if="$DEV" bs=512 skip=$((size / 512)) count=1 iflag=direct \
			2>/dev/null | wc -c)" 0 \
			"what is read behind the end"
		# so that the next one would find it
		head -c "$size" /dev/zero | tr '\0' '\377' >ones
		direct_write ones 0
		blkdiscard "$DEV"
		detach
	done
done

note "largest blocks"
attach --mem 12K --block-size 4096
assert_eq "$(queue_attr logical_block_size)" 4096 "the logical block"
blkmodel --ops 100
run dd if="$DEV" of=/dev/null bs=512 count=1 iflag=direct
assert_eq "$STATUS" 1 "the status of a read of an eighth of a block"
detach
