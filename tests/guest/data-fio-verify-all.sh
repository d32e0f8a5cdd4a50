#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fio's checksums over every data path, every way into the kernel, direct and buffered, on memory
# and on a back end that answers late and out of order.
# kernels: 6.12 7
# timeout: 600
# tier: all
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
require fio
BRIDGE=$UBT

for path in copy get-data user-copy; do
	for backend in mem:128M faulty:128M:delay=1,reorder faulty:128M:foreign \
		faulty:128M:max-io=8192,no-fua; do
		note "$path $backend"
		attach --backend "$backend" --queues 2 --data-path "$path"
		fio_verify direct-libaio --ioengine=libaio --direct=1 --size=40M \
			--offset_increment=40M
		fio_verify direct-io_uring --ioengine=io_uring --direct=1 --size=40M \
			--offset_increment=40M
		fio_verify direct-psync --ioengine=psync --direct=1
		fio_verify dsync --ioengine=psync --direct=1 --sync=dsync
		fio_verify buffered-libaio --ioengine=libaio --direct=0
		fio_verify buffered-psync --ioengine=psync --direct=0 --fsync=32
		fio_verify buffered-io_uring --ioengine=io_uring --direct=0 --fdatasync=32
		detach
	done
done
