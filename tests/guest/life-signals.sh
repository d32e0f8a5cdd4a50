#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# INT and TERM to the keeper take the device away and end it with 0; the server hears no signal, so
# that a Ctrl-C, which the whole terminal gets, still lets the last write-back through.
# kernels: 6.12 7
# push: 7
# timeout: 60
# sanitize: yes
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

for signal in INT TERM; do
	attach --mem 8M
	server=$(child_of "$KEEPER")
	dd if=/dev/zero of="$DEV" bs=64k count=16 status=none # stays dirty in the page cache
	kill -$signal "$KEEPER"
	ends_with 0
	assert_nothing_left "$signal"
	gone "$server" || fail "the server is left"
	assert_match "$(cat "$ATTACH_ERR")" '/dev/ublkb0 served .* [1-9][0-9]* writes' \
		"what it tells"
done

attach --mem 8M
server=$(child_of "$KEEPER")
for signal in INT TERM HUP QUIT TSTP PIPE; do
	kill -$signal "$server"
done
dd if=/dev/zero of="$DEV" bs=64k count=16 oflag=direct status=none
process_alive "$server" || fail "the server obeyed a signal"
sid() { ps -o sid= -p "$1" | tr -d ' '; }
assert_eq "$(sid "$server")" "$server" "the server's session"
kill -INT "$KEEPER"
ends_with 0

# a signal before the device is there: nothing stays, and the status says that it did not come to be
BRIDGE=$UBT
UB_STEP=server-hello=stop "$UBT" --mem 1M >out 2>err </dev/null &
KEEPER=$!
await 10 eval 'grep -q "State:.T" "/proc/$(child_of $KEEPER)/status"'
kill -TERM $KEEPER
ends_with 1
assert_match "$(cat err)" 'interrupted before it said hello' "the message"
assert_eq "$(cat out)" "" "stdout"
assert_nothing_left "a signal during attach"
