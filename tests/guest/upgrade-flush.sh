#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A server says once that it could not write back. When it says so to the flush of an upgrade, the
# upgrade is refused, also when it tries again, and the application's next fsync fails, also after a
# death of the server process.
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
	flush='echo flush >>$D/log; if mv $D/slow $D/slept 2>/dev/null; then sleep 3.4; fi
		if mv $D/broken $D/told 2>/dev/null; then echo "EIO lost" >&2; exit 1; fi' \
	pwrite='echo write >>$D/log
		dd of=$D/image bs=65536 seek=$4 oflag=seek_bytes conv=notrunc status=none' \
	2>"$D/err" ||
	fail "$(cat "$D/err")"
await 10 test -S "$D/sock"
# breaks: something is acknowledged, and its write-back will fail; the server says so once, to the
# next flush
breaks() {
	rm -f "$D/told"
	attach "nbd+unix:///?socket=$D/sock"
	await 20 has_standby
	dd if=/dev/urandom of="$DEV" bs=4k count=1 oflag=direct status=none
	: >"$D/broken"
}
# fsync_fails: the application hears of it, once
fsync_fails() {
	local status=0
	dd if=/dev/zero of="$DEV" bs=4k count=1 seek=9 conv=fsync status=none 2>"$D/fsync.err" ||
		status=$?
	test -e "$D/told" || fail "the server was not asked to flush"
	[ $status != 0 ] || fail "LOST IN SILENCE after $1: fsync succeeds"
	dd if=/dev/zero of="$DEV" bs=4k count=1 seek=9 conv=fsync status=none
	await 20 has_standby
	"$BRIDGE" upgrade "$ID" || fail "the next upgrade ended with $?"
	await 20 is_online
	detach "$ID"
	await 20 no_device "$ID"
}

breaks
assert_fails 3 'a flush failed.*the next fsync' "$BRIDGE" upgrade "$ID"
fsync_fails "an upgrade"

breaks
assert_fails 3 'a flush failed' "$BRIDGE" upgrade "$ID" --wait 5s
fsync_fails "an upgrade that tried again"

breaks
assert_fails 3 'a flush failed' "$BRIDGE" upgrade "$ID"
await 20 has_standby
assert_fails 3 'a flush failed' "$BRIDGE" upgrade "$ID"
fsync_fails "a second upgrade"

breaks
assert_fails 3 'a flush failed' "$BRIDGE" upgrade "$ID"
await 20 has_standby
pid=$(state_of server_pid)
kill -KILL "$pid"
await 40 other_server "$pid"
fsync_fails "an upgrade, and a death of the server process"

breaks
exec {held}<>"$DEV"
assert_fails 3 'is busy' "$BRIDGE" detach "$ID"
[ ! -e "$D/told" ] || fail "a detach that was refused has taken the error"
exec {held}<&-
fsync_fails "a detach that was refused"

# the flush before the pause takes so long that it is not waited for: what is acknowledged meanwhile
# is flushed in the pause
attach "nbd+unix:///?socket=$D/sock"
await 20 has_standby
dd if=/dev/urandom of="$DEV" bs=4k count=1 oflag=direct status=none
: >"$D/slow"
"$BRIDGE" upgrade "$ID" --wait 20s &
upgrade=$!
await 10 test -e "$D/slept"
: >"$D/log"
dd if=/dev/urandom of="$DEV" bs=4k count=1 seek=2 oflag=direct status=none
wait $upgrade || fail "the upgrade ended with $?"
# one flush or, where the first try found a request in flight, one more of each later try
assert_match "$(tr '\n' ' ' <"$D/log")" '^write (flush )+$' \
	"what the server was asked after the slow flush had begun"
await 20 is_online
detach "$ID"
kill "$(cat "$D/pid")"
