#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What a back end cannot do the core makes up for: large I/O is split, zeroes are written, a discard
# does nothing and succeeds, FUA is a write and a flush. The device behaves as the model all the
# same.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
BRIDGE=$UBT

for path in copy get-data user-copy; do
	note "$path, small I/O"
	attach --backend faulty:8M:max-io=4096,reorder,no-fua --data-path "$path"
	blkmodel --threads 4 --ops 100 --discard 0xdd
	detach
done

note "it announces discard and zeroes and has none"
attach --backend faulty:8M:lie,no-trim,no-zero,max-io=65536
[ "$(queue_attr discard_max_bytes)" -gt 0 ] || fail "no discard is announced"
[ "$(queue_attr write_zeroes_max_bytes)" -gt 0 ] || fail "no write of zeroes is announced"
blkmodel --threads 4 --ops 200 --discard keep
detach

note "it has neither, and says so"
attach --backend faulty:8M:no-trim,no-zero,no-flush,no-fua
assert_eq "$(queue_attr discard_max_bytes)" 0 "the largest discard"
assert_eq "$(queue_attr write_zeroes_max_bytes)" 0 "the largest write of zeroes"
blkmodel --threads 4 --ops 200 --discard keep
detach
