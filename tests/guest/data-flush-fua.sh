#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# FLUSH and FUA reach the back end: fsync sends a flush behind the write it covers, a synchronous
# direct write carries FUA (and Linux lets a flush follow), and where the back end has no FUA the
# write and a flush take its place.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
BRIDGE=$UBT
LOG=$TEST_DIR/io.log

# write_synced: one direct block at 8192 that must be safe when it returns
write_synced() { dd if=/dev/zero of="$DEV" bs=4096 seek=2 count=1 oflag=direct,dsync conv=notrunc \
	status=none; }

# logged: what the back end got since the last call, one line
logged() {
	grep -v '^R' "$LOG" | tr '\n' ';' || true
	: >"$LOG"
}

for path in copy get-data user-copy; do
	note "$path: a back end that has both"
	attach --backend "faulty:8M:log=$LOG" --data-path "$path"
	assert_eq "$(queue_attr write_cache)" "write back" "the write cache"
	assert_eq "$(queue_attr fua)" 1 "FUA"
	logged >/dev/null
	write_synced
	assert_eq "$(logged)" "W fua 8192 4096;F 0 0;" "a synchronous direct write"
	dd if=/dev/zero of="$DEV" bs=4096 count=2 conv=notrunc,fsync status=none
	assert_eq "$(logged)" "W 0 8192;F 0 0;" "a buffered write and fsync"
	dd if=/dev/zero of="$DEV" bs=8192 count=1 oflag=direct conv=notrunc status=none
	assert_eq "$(logged)" "W 0 8192;" "a plain direct write"
	blkdiscard -z -o 4096 -l 4096 "$DEV"
	assert_match "$(logged)" '^Z nounmap 4096 4096;(F 0 0;)?$' "zeroes"
	fallocate --punch-hole -o 4096 -l 4096 "$DEV"
	assert_match "$(logged)" '^Z 4096 4096;(F 0 0;)?$' "a hole"
	blkdiscard -o 4096 -l 8192 "$DEV"
	assert_eq "$(logged)" "D 4096 8192;" "a discard"
	sync "$DEV"
	assert_match "$(logged)" '(^|;)F 0 0;$' "fsync of nothing"
	detach

	note "$path: no FUA"
	attach --backend "faulty:8M:no-fua,log=$LOG" --data-path "$path"
	assert_eq "$(queue_attr fua)" 1 "FUA"
	logged >/dev/null
	write_synced
	assert_eq "$(logged)" "W 8192 4096;F 0 0;F 0 0;" "a synchronous direct write"
	detach

	note "$path: neither, there is nothing to flush"
	attach --backend "faulty:8M:no-fua,no-flush,log=$LOG" --data-path "$path"
	logged >/dev/null
	write_synced
	sync "$DEV"
	assert_eq "$(logged)" "W 8192 4096;" "a synchronous direct write"
	detach
done

note "a flush that fails, fails the fsync"
attach --backend "faulty:8M:fail=flush:5"
run dd if=/dev/zero of="$DEV" bs=4096 count=1 conv=notrunc,fsync status=none
assert_eq "$STATUS" 1 "the status of dd"
assert_match "$ERR" 'fsync failed.*Input/output error' "what dd says"
# the first signal finds that it cannot be written back, another one insists
kill -TERM "$KEEPER"
kill -INT "$KEEPER"
await 30 gone "$KEEPER"
await 10 no_device "$ID"
