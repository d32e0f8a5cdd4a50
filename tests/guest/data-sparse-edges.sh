#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Where data and holes meet in the memory store: sectors alone in their page, I/O over several
# pieces of both, discards that end within pages, the last sector of huge devices; on each data
# path.
# kernels: 6.12 7
# push: 7
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"

head -c 512 /dev/urandom >sector
head -c 1048576 /dev/urandom >mega

for path in copy get-data user-copy; do
	note "$path: one sector in an empty page"
	attach --mem 8M --data-path "$path"
	for at in 512 12288 69120 1048064; do
		direct_write sector "$at"
	done
	{
		head -c 512 /dev/zero && cat sector && head -c $((12288 - 1024)) /dev/zero &&
			cat sector
		head -c $((69120 - 12800)) /dev/zero && cat sector
		head -c $((1048064 - 69632)) /dev/zero && cat sector
	} >want
	dd if="$DEV" bs=1M count=1 iflag=direct status=none | cmp - want ||
		fail "data and holes in one read"

	note "$path: a discard takes whole pages, and only those"
	direct_write mega 0
	blkdiscard -o 512 -l $((8192 - 512)) "$DEV"
	head -c 4096 mega | cmp - <(direct_read 0 4096) ||
		fail "the page that was discarded in part"
	is_zero 4096 4096 || fail "the page that was discarded as a whole"
	blkdiscard -o 16384 -l 3584 "$DEV"
	dd if=mega bs=512 skip=32 count=8 status=none | cmp - <(direct_read 16384 4096) ||
		fail "a discard of less than a page"
	blkdiscard -z -o 20992 -l 1024 "$DEV"
	{
		dd if=mega bs=512 skip=40 count=1 status=none
		head -c 1024 /dev/zero
		dd if=mega bs=512 skip=43 count=5 status=none
	} | cmp - <(direct_read 20480 4096) || fail "zeroes within a page"
	dd if=mega bs=8192 skip=3 status=none | cmp - <(direct_read 24576 $((1048576 - 24576))) ||
		fail "what was not touched"

	note "$path: a page that was given back comes again as zeroes"
	blkdiscard -o 0 -l 1M "$DEV"
	direct_write sector 4608
	is_zero 4096 512 || fail "the sector before it has old data"
	is_zero 5120 3072 || fail "the sectors behind it have old data"
	detach

	note "$path: the end of a huge device"
	attach --mem 20T --data-path "$path"
	last=$((20 * 1024 * 1024 * 1024 * 1024 - 512))
	direct_write sector "$last"
	direct_read "$last" 512 | cmp - sector || fail "the last sector"
	is_zero $((last - 65024)) 65024 || fail "the sectors before the last one"
	blkmodel --offset $((last + 512 - (2 << 20))) --span 2M --ops 150
	# every address counts: what lies 4 GiB, 2 TiB and 16 TiB further is another place
	for shift in 32 41 44; do
		is_zero $((last - (1 << shift))) 512 || fail "2^$shift bytes before the end"
	done
	run dd if=sector of="$DEV" bs=512 seek=$((last / 512 + 1)) oflag=direct conv=notrunc
	assert_eq "$STATUS" 1 "a write behind the end"
	detach
done
