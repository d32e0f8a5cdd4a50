#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Swap on the device: a program that needs more memory than it may have gets its own bytes back, and
# the device cannot be detached meanwhile.
# kernels: 6.12 7
# push: 7
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
require mkswap swapon
[ -e /sys/fs/cgroup/cgroup.controllers ] || skip "no control groups of version 2"
grep -qw memory /sys/fs/cgroup/cgroup.controllers || skip "no memory controller"

echo +memory >/sys/fs/cgroup/cgroup.subtree_control
GROUP=/sys/fs/cgroup/ub-swapping.$$
mkdir "$GROUP"
# shellcheck disable=SC2317 # at the end
leave() {
	swapoff "$DEV" 2>/dev/null || true
	wait_for 5 rmdir "$GROUP" || note "$GROUP stays"
}
trap leave EXIT
echo 12M >"$GROUP/memory.max"

# one line of 32 MiB: tail keeps it all until it ends
head -c 24M /dev/urandom | base64 -w 0 >line
want=$(sha256sum <line)
for path in copy get-data; do
	note "$path"
	attach --mem 128M --queues 2 --data-path "$path"
	mkswap "$DEV" >/dev/null
	swapon "$DEV"
	assert_fails 3 "busy: .*swap" "$UB" detach "$ID"
	# from a pipe: a file it would read again
	got=$(dd if=line bs=64k status=none |
		bash -c "echo \$\$ >$GROUP/cgroup.procs; exec tail -n 1" | sha256sum)
	assert_eq "$got" "$want" "what came back from swap"
	swapoff "$DEV"
	read -r _ _ sectors _ </sys/block/"${DEV#/dev/}"/stat
	read -r _ _ _ _ _ _ written _ </sys/block/"${DEV#/dev/}"/stat
	[ "$written" -gt 30000 ] || fail "only $written sectors were swapped out"
	[ "$sectors" -gt 0 ] || fail "nothing was swapped in"
	detach
done
