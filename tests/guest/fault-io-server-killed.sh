#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# SIGKILL of the server under I/O, without recovery: whoever waits gets an error, the keeper takes
# the device away, nothing hangs. Also with every tag of the queue in the server, which Linux 6.12
# notices only by its timer of 30 s.
# kernels: 6.12 7
# push: 6.12
# timeout: 150
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require fio

for path in copy get-data user-copy; do
	attach --no-recovery --mem 16M --queues 2 --data-path $path
	start_fio
	kill -KILL "$(child_of "$KEEPER")"
	ends_with 1
	await 30 gone "$FIO"
	! wait "$FIO" || fail "fio did not notice that its device went"
	assert_nothing_left "the server killed under I/O"
done

rm -f /run/ub-faulty-go
for depth in 1 4; do
	attach_hanging 4M --no-recovery --depth $depth
	start_readers $depth
	began=$SECONDS
	kill -KILL "$(child_of "$KEEPER")"
	readers_fail 45
	note "depth $depth: noticed after $((SECONDS - began)) s"
	! kernel_at_least 7 || assert_le $((SECONDS - began)) $((10 * SLOW)) \
		"the seconds until the readers failed"
	ends_with 1
	assert_nothing_left "the server killed with all tags"
done
no_d_state
