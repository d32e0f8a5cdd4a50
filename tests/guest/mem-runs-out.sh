#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A store that is larger than the machine is written until memory is out: the writer is told ENOSPC,
# nobody is killed, what was written stays readable and writable, and after a discard there is room.
# kernels: 6.12 7
# push: 6.12
# timeout: 240
# memory: 2G
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"

[ "$(meminfo MemTotal)" -lt 7000000 ] || skip "this machine has too much memory to fill it"

alive() { process_alive "$KEEPER" && process_alive "$SERVER"; }

attach --mem 8G
SERVER=$(server_pid)
total=$(meminfo MemTotal)

note "through the page cache, which wants memory too"
# a little more than the machine has: a buffered writer learns of errors from fsync only
status=0
dd if=/dev/zero of="$DEV" bs=1M count=$((total / 1024)) conv=notrunc,fsync 2>said || status=$?
assert_eq "$status" 1 "the writer's status"
assert_match "$(cat said)" 'No space left on device|Input/output error' "what the writer is told"
alive || fail "somebody died"
[ "$(meminfo Shmem)" -gt $((total / 2)) ] || fail \
	"it gave up with $(meminfo Shmem) KiB of $total KiB"

note "direct"
run dd if=/dev/zero of="$DEV" bs=1M seek=4096 oflag=direct conv=notrunc
assert_eq "$STATUS" 1 "the writer's status"
assert_match "$ERR" 'No space left on device' "what the writer is told"
alive || fail "somebody died"
[ "$(meminfo MemAvailable)" -gt 16384 ] || fail \
	"only $(meminfo MemAvailable) KiB are left to others"
assert_match "$(cat "$ATTACH_ERR")" 'memory is short' "the server's warning"

note "what is there stays"
dd if=/dev/urandom of="$DEV" bs=1M count=8 seek=100 oflag=direct conv=notrunc status=none
run dd if="$DEV" of=/dev/null bs=1M iflag=direct count=1024
assert_eq "$STATUS" 0 "the reader's status"
# a block that is not there still reads as zeroes
is_zero $((7 << 30)) 1048576 || fail "a hole is not zero when memory is out"
# zeroes that need no memory are taken, those that need some are refused
fallocate --punch-hole -o 7G -l 1M "$DEV"
run blkdiscard -z -o 7G -l 512M "$DEV"
assert_eq "$STATUS" 1 "zeroes that need memory"

note "after a discard there is room"
blkdiscard "$DEV"
dd if=/dev/zero of="$DEV" bs=1M count=256 oflag=direct conv=notrunc status=none
dd if=/dev/zero of="$DEV" bs=1M count=64 conv=notrunc,fsync status=none
alive || fail "somebody died"
assert_match "$(cat "$ATTACH_ERR")" 'memory is to be had again' "the server's news"
blkdiscard "$DEV"
detach
