#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Every kind of access over data path user-copy, byte for byte as a model in memory: the memory back
# end with two queues and threads whose parts meet within pages, then through the page cache too,
# then a back end that answers late, out of order and from a thread of its own.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
BRIDGE=$UBT

note "memory, two queues"
attach --mem 24M --queues 2 --data-path user-copy
blkmodel --threads 4 --ops 700
detach

note "memory, with the page cache and a mapping"
attach --mem 16M --data-path user-copy
blkmodel --buffered --ops 500
detach

note "late and out of order"
attach --backend faulty:16M:delay=1,reorder --queues 2 --data-path user-copy
blkmodel --threads 8 --ops 120 --discard 0xdd
detach

note "by another thread"
attach --backend faulty:16M:foreign --queues 2 --data-path user-copy
blkmodel --threads 4 --ops 150 --discard 0xdd
detach
