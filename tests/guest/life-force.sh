#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# detach --force takes a device away from whoever has it: mounted, open, as swap. The holder gets
# errors, what it wrote before is written back first, and the number is free when the last one lets
# go.
# kernels: 6.12 7
# push: 6.12
# timeout: 90
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require mkfs.ext4
require_module ext4

mkdir here
attach --mem 32M --name forced
mkfs.ext4 -q "$DEV"
mount "$DEV" here
assert_fails 3 "busy: mounted on" "$UB" detach forced
echo before >here/file
began=$SECONDS
run "$UB" detach forced --force
assert_eq "$STATUS" 0 "the status by force: $ERR"
assert_le $((SECONDS - began)) $((25 * SLOW)) "the seconds it took"
ends_with 0
[ ! -e "$DEV" ] || fail "the node is left"
no_rundir || fail "the run directory is left"
umount here
await 10 no_device 0

# an open file, with I/O going on
attach --mem 32M
exec 5<>"$DEV"
"$UB" detach 0 --force
ends_with 0
dd of=/dev/fd/5 if=/dev/zero bs=4k count=1 conv=notrunc,fsync status=none 2>/dev/null &&
	fail "a write to nothing succeeds"
exec 5>&-
await 10 no_device 0
assert_nothing_left

# nothing to force: as without
attach --mem 32M
"$UB" detach --force 0
ends_with 0
assert_nothing_left
