#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What a back end fails is failed to whoever asked, with its errno where the driver keeps it,
# exactly there and nowhere else; a short count is never a success. Over each data path.
# kernels: 6.12 7
# push: 7
# timeout: 120
# sanitize: all
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
BRIDGE=$UBT

# sector read|write N: one sector, past the cache
sector() {
	if [ "$1" = read ]; then
		dd if="$DEV" of=/dev/null bs=512 skip="$2" count=1 iflag=direct
	else
		dd if=/dev/zero of="$DEV" bs=512 seek="$2" count=1 oflag=direct
	fi
}

for path in copy get-data user-copy; do
	# one bad sector
	attach --backend faulty:4M:bad=1001 --data-path $path
	for way in read write; do
		for n in 1000 1002; do
			run sector $way $n
			assert_eq "$STATUS" 0 "$path: $way of sector $n: $ERR"
		done
		run sector $way 1001
		assert_eq "$STATUS" 1 "$path: $way of the bad sector"
		assert_match "$ERR" 'Input/output error' "$path: $way of the bad sector"
	done
	run dd if="$DEV" of=copy bs=512 iflag=direct conv=noerror,sync
	assert_match "$ERR" "8191\+1 records|8191\+0 records in" "$path: what dd got around it"
	# a large request fails as a whole, its neighbours do not
	run dd if="$DEV" of=/dev/null bs=256k skip=1 count=1 iflag=direct
	assert_eq "$STATUS" 1 "$path: a large read over the bad sector"
	run dd if="$DEV" of=/dev/null bs=256k skip=2 count=1 iflag=direct
	assert_eq "$STATUS" 0 "$path: the next one"
	detach
	assert_match "$(cat "$ATTACH_ERR")" '; [1-9][0-9]* failed' "the count of failures"

	# half of what was asked for is nothing
	attach --backend faulty:4M:short --data-path $path
	for way in read write; do
		run sector $way 8
		assert_eq "$STATUS" 1 "$path: a short $way"
		assert_match "$ERR" 'Input/output error' "$path: a short $way"
	done
	detach
done

# errnos that the driver keeps, on each operation
attach --backend faulty:4M:fail=write:28
run sector write 8
assert_match "$ERR" 'No space left on device' "a write without space"
run sector read 8
assert_eq "$STATUS" 0 "a read beside it"
detach
attach --backend faulty:4M:fail=read:110
run sector read 8
assert_match "$ERR" 'Connection timed out' "a read that timed out"
detach
attach --backend faulty:4M:fail=discard:28
run blkdiscard "$DEV"
assert_match "$ERR" 'No space left|failed' "a discard that fails"
assert_eq "$STATUS" 1 "its status"
detach
# zeroes that the back end has no way for are written by the kernel; any other failure is one
attach --backend faulty:4M:fail=zero:95
dd if=/dev/urandom of="$DEV" bs=64k count=4 oflag=direct status=none
blkdiscard -z -l 256k "$DEV"
cmp -n 262144 "$DEV" /dev/zero
detach
attach --backend faulty:4M:fail=zero:5
run blkdiscard -z "$DEV"
assert_eq "$STATUS" 1 "the status of zeroes that fail"
detach

# a back end that kills the server half way
attach --no-recovery --backend faulty:4M:die=2
sector write 1 2>/dev/null
run sector write 2
assert_eq "$STATUS" 1 "the status of the write that killed"
ends_with 1
assert_nothing_left "a back end that killed the server"
no_d_state
