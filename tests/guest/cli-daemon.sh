#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# --daemon returns with status 0 when the device takes I/O, with a message and another status when
# it never will; it leaves the terminal, the pipes and the working directory of whoever started it.
# kernels: 6.12 7
# push: 7
# timeout: 60
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

# a lock that is held by a descriptor ends with whoever made it
exec 7>lock-of-another
flock 7

# the substitution ends only when nobody holds the pipe any more
out=$("$UB" --daemon --mem 1M 2>err)
assert_eq "$out" /dev/ublkb0 "what it prints"
dd if=/dev/ublkb0 of=/dev/null bs=4k count=1 iflag=direct status=none
both=$("$UB" -d --mem 1M --name d1 2>&1)
grep -qx /dev/ublkb1 <<<"$both" || fail "it prints $both"
dd if=/dev/ublkb1 of=/dev/null bs=4k count=1 iflag=direct status=none

for name in ublk0 d1; do
	for pid in $(keeper_of $name) $(server_of $name); do
		assert_eq "$(readlink /proc/"$pid"/cwd)" / "the working directory of $pid"
		for fd in 0 1 2; do
			assert_eq "$(readlink "/proc/$pid/fd/$fd")" /dev/null \
				"descriptor $fd of $pid"
		done
		read -r stat <"/proc/$pid/stat"
		# shellcheck disable=SC2086 # words: after the name, state ppid pgrp session tty
		set -- ${stat##*) }
		[ "$4" != "$(ps -o sid= -p $$ | tr -d ' ')" ] ||
			fail "process $pid is in the session of the test"
		assert_eq "$5" 0 "the terminal of $pid"
	done
	for link in "/proc/$(keeper_of $name)/fd"/*; do
		[[ $(readlink "$link") != */lock-of-another ]] || fail "the keeper inherited a file"
	done
done

exec 7>&-
flock -n lock-of-another true || fail "the daemons hold a lock of whoever started them"

# TERM ends a daemon too
kill -TERM "$(keeper_of d1)"
await 30 no_device 1
"$UB" detach 0
assert_nothing_left

# a message and a status when it comes to nothing
run "$UB" --daemon --mem 1M --id 1 --scheduler nosuch
assert_eq "$STATUS/$OUT" 1/ "the status and stdout of a daemon that fails"
assert_match "$ERR" "cannot set the scheduler 'nosuch': this kernel has .*none"
run "$UB" --daemon --mem 1000
assert_eq "$STATUS" 2 "the status of a usage error"
for step in spawn rundir settle; do
	UB_STEP=$step=5 run "$UBT" --daemon --mem 1M
	assert_eq "$STATUS/$OUT" 1/ "the status and stdout of a daemon that fails at $step"
	assert_match "$ERR" "$step \(injected\): Input/output error" "its message"
done
# it is killed itself
UB_STEP=start-dev=kill run "$UBT" --daemon --mem 1M
[ "$STATUS" != 0 ] || fail "a daemon that was killed reports success"
assert_match "$ERR" 'the daemon was killed by signal 9 ' "the message of a daemon that was killed"
for id in 0 1; do
	no_device $id || "$UB" detach $id
done
assert_nothing_left
