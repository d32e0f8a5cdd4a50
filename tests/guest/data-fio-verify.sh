#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fio writes blocks of 512 bytes to 1 MiB at random and finds its checksums again: two jobs on two
# queues, each data path, every way into the kernel.
# kernels: 6.12 7
# push: 7
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
require fio

for path in copy get-data user-copy; do
	note "$path"
	attach --mem 32M --queues 2 --data-path "$path"
	fio_verify direct-libaio --ioengine=libaio --direct=1
	fio_verify direct-io_uring --ioengine=io_uring --direct=1 --fixedbufs=1
	case $path in
	copy) fio_verify buffered-psync --ioengine=psync --direct=0 --fsync=16 ;;
	get-data) fio_verify direct-psync --ioengine=psync --direct=1 --sync=dsync ;;
	user-copy) fio_verify buffered-io_uring --ioengine=io_uring --direct=0 --fdatasync=16 ;;
	esac
	detach
done
