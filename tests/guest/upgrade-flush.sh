#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A server says once that it could not write back. When it says so to the flush of an upgrade, the upgrade is refused,
# and the application's next fsync fails.
# kernels: 6.12 7
# push: 7
# timeout: 120
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require nbdkit

D=$TEST_DIR/disk
mkdir -p "$D"
truncate -s 16M "$D/image"
export D
# shellcheck disable=SC2016 # the plugin's own variables
nbdkit -U "$D/sock" -P "$D/pid" eval get_size='echo 16777216' \
	pread='dd if=$D/image iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none' \
	can_write='exit 0' can_flush='exit 0' can_fua='echo none' \
	flush='if mv $D/broken $D/told 2>/dev/null; then echo "EIO lost" >&2; exit 1; fi' \
	pwrite='dd of=$D/image bs=65536 seek=$4 oflag=seek_bytes conv=notrunc status=none' 2>"$D/err" ||
	fail "$(cat "$D/err")"
await 10 test -S "$D/sock"
attach "nbd+unix:///?socket=$D/sock"
await 20 has_standby
dd if=/dev/urandom of="$DEV" bs=4k count=1 oflag=direct status=none
: >"$D/broken" # its write-back fails from here on, once
assert_fails 3 'a flush failed' "$BRIDGE" upgrade "$ID"
test -e "$D/told" || fail "the server was not asked to flush"
status=0
dd if=/dev/zero of="$DEV" bs=4k count=1 seek=9 conv=fsync status=none 2>"$D/fsync.err" || status=$?
[ $status != 0 ] || fail "LOST IN SILENCE: fsync succeeds"
# said once: what comes then is well
dd if=/dev/zero of="$DEV" bs=4k count=1 seek=9 conv=fsync status=none
"$BRIDGE" upgrade "$ID" || fail "the next upgrade ended with $?"
await 20 is_online
detach "$ID"
kill "$(cat "$D/pid")"
