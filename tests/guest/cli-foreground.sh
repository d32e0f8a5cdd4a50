#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# In the foreground attach prints one line on stdout, the device, and only when it takes I/O; all
# else goes to stderr. A reader of stdout that left does not hurt it.
# kernels: 6.12 7
# push: 6.12
# timeout: 60
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

# at the very moment of the line, the first I/O works
mkfifo pipe
"$UB" --mem 16M --verbose >pipe 2>err </dev/null &
KEEPER=$!
exec 3<pipe
read -r DEV <&3
dd if=/dev/zero of="$DEV" bs=4k count=1 oflag=direct status=none
assert_eq "$(size_of "$DEV")" 16777216 "the size"
kill -TERM $KEEPER
ends_with 0
read -r rest <&3 && fail "a second line: $rest"
exec 3<&-
assert_match "$(cat err)" '^ublk-bridge: ' "stderr"
assert_match "$(cat err)" '/dev/ublkb0: 16 MiB of mem, 1 queue of depth 128, data path' \
	"what it says"
grep -v "^ublk-bridge: " err && fail "other lines on stderr"

# memory is the default, and so is its size
"$UB" >out 2>err </dev/null &
KEEPER=$!
await 30 test -s out
assert_eq "$(cat out) $(size_of /dev/ublkb0)" '/dev/ublkb0 16777216' "the default"
assert_eq "$(grep -c 'serving 16 MiB of memory, the default\. To end it: Ctrl-C\. Help: ' err)" 1 \
	"what it says of the default"

# stdout and stderr that nobody reads any more
"$UB" attach --mem 1M --verbose > >(head -c 0) 2> >(head -c 0) </dev/null &
second=$!
await 30 test -b /dev/ublkb1
await 30 eval '[ "$(device_state 1)" = live ]'
dd if=/dev/ublkb1 of=/dev/null bs=4k count=1 iflag=direct status=none
await 30 grep -q '\[none\]' /sys/block/ublkb1/queue/scheduler
nap 1 # it has said so, and nobody can see that here: before that a signal ends an attach with 1
kill -TERM $second
ends_with 0 $second
kill -INT $KEEPER
ends_with 0
assert_nothing_left
