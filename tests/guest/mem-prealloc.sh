#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# --prealloc takes all of the memory before the device is there, or says why not.
# kernels: 6.12 7
# push: 7
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"

shmem=$(meminfo Shmem)
attach --mem 192M --prealloc
taken=$(($(meminfo Shmem) - shmem))
# others of the machine may give a page or two back meanwhile
[ $taken -ge $((192 * 1024 - 256)) ] || fail "only $taken KiB are taken"
assert_le $taken $((194 * 1024)) "KiB taken"
is_zero 0 $((192 << 20)) || fail "it does not start as zeroes"
blkmodel --ops 200 --span 8M
! grep -qi warn "$ATTACH_ERR" || fail "it complains: $(cat "$ATTACH_ERR")"
detach
await 5 shmem_below $((shmem + 1024))

note "a size that is no multiple of a page"
attach --mem 1049088 --prealloc
assert_eq "$(size_of "$DEV")" 1049088 "the size"
blkmodel --ops 100
detach

note "more than there is"
want=$(($(meminfo MemTotal) / 1024 + 1000))M
attach_fails 1 "--prealloc: .* are wanted and .* are to be had: $(
	)choose a smaller size, or leave --prealloc out" \
	--mem "$want" --prealloc
attach_fails 1 "--prealloc: 20 TiB are wanted" --mem 20T --prealloc
await 5 shmem_below $((shmem + 1024))
no_device 0 || fail "a device is left"
