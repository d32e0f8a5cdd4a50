#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A server that stands still: it is not cut before another connection stands, and what it still
# holds never lands on newer data.
# kernels: 6.12 7
# push: 6.12
# timeout: 120
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq

# stamp BYTE: the first block is full of it
stamp() { head -c 4096 /dev/zero | tr '\0' "$1" |
	dd of="$DEV" bs=4k count=1 oflag=direct status=none; }
first_byte() { head -c 1 "$IMG"; }

make_image 16M
note "slow, and never replaced"
serve file "$IMG"
attach --stall-timeout 1s "$URI"
kill -STOP "$SERVER"
stamp A &
writer=$!
await 10 is_offline
said 'stalled: no answer' || fail "nothing was said: $(cat "$ATTACH_ERR")"
kill -CONT "$SERVER"
await 20 gone $writer
wait $writer || fail "the write failed"
await 10 is_online
detach

note "frozen with a write in it, and another server in its place"
attach --stall-timeout 1s --fence-timeout 3s "$URI"
old=$SERVER
kill -STOP "$old"
stamp B &
writer=$!
nap 0.3
serve file "$IMG"
# It is given up, and sent again at once. What lies in the old server's queue is read when it thaws:
# no clock runs before that.
await 20 gone $writer
wait $writer || fail "the write failed"
stamp C &
writer=$!
dd if="$DEV" of=/dev/null bs=4k count=1 skip=100 iflag=direct status=none
dd if=/dev/zero of="$DEV" bs=4k count=1 seek=100 oflag=direct status=none
nap 4
process_alive $writer || fail "a newer write did not wait for the old server"
kill -CONT "$old"
await 20 gone $writer
wait $writer || fail "the write failed"
kill -TERM "$old"
await 10 gone "$old"
assert_eq "$(first_byte)" C "the byte that was written last"
detach
unserve

note "frozen for good"
serve file "$IMG"
attach --stall-timeout 1s --fence-timeout 2s "$URI"
old=$SERVER
kill -STOP "$old"
stamp D &
writer=$!
nap 0.3
serve file "$IMG"
await 20 gone $writer
wait $writer || fail "the write failed"
stamp E &
writer=$!
nap 3
process_alive $writer || fail "a newer write did not wait for the old server"
kill -KILL "$old" # the socket is empty now, and the time counts
await 20 gone $writer
wait $writer || fail "the write failed"
said 'may land on newer data' || fail "no warning: $(cat "$ATTACH_ERR")"
assert_eq "$(first_byte)" E "what was written"
detach
unserve

note "a delay between receiving and writing"
serve --filter=delay file "$IMG" delay-write=2
attach --fence-timeout 5s "$URI"
stamp E &
writer=$!
nap 0.5
kill -TERM "$SERVER" # it answers what it has, and ends
rm -f "$SOCK"
serve file "$IMG"
await 20 gone $writer
wait $writer || fail "the write failed"
stamp F
nap 2.5
assert_eq "$(first_byte)" F "the byte that was written last"
detach
unserve
