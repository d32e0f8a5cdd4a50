#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Ten moves in a row under blkstamp, between memory and two servers: no sector is stale, torn or
# lost.
# kernels: 6.12 7
# push: 6.12
# timeout: 240
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-migrate.bash"
require nbdcopy

make_side 1 8M garbage
make_side 2 8M garbage
serve_side 1
serve_side 2
attach --mem 8M --queues 2
start_stamp --zeroes 10
for to in 1 2 mem 1 2 mem 1 mem 1 2; do
	case $to in
	mem) move --mem 8M ;;
	1) move -C 2 "$(side_uri 1)" ;;
	2) move "$(side_uri 2)" ;;
	esac
	stamp_goes_on
done
note "$(pauses_of_moves)"
assert_eq "$(wc -l <"$TEST_DIR/moves")" 10 "moves"
assert_eq "$(state_of server_pid)" "$(server_pid)" "the server in state.json"

note "and it is recovered as ever"
kill_server
stamp_goes_on
stop_stamp
note "longest pause of an I/O: $(longest_pause) ms"
same_as 2
detach
kill_side 1
kill_side 2
no_d_state
