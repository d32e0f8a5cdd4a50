#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Sixteen devices attached at the same time, each with data of its own, and detached at the same
# time.
# kernels: 6.12 7
# tier: all
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
COUNT=16

# all_ended PID…: fails the test when one ended badly
all_ended() {
	local pid
	for pid; do
		wait "$pid" || fail "a process of all at once ended with $?: $(cat ./*.err)"
	done
}

pids=()
for ((i = 0; i < COUNT; i++)); do
	"$UB" attach --daemon --mem 4M --depth 16 >"$i.out" 2>"$i.err" &
	pids+=($!)
done
all_ended "${pids[@]}"
assert_eq "$(sort -u ./*.out | wc -l)" $COUNT "the number of different devices"
assert_eq "$("$UB" list --json | grep -o '"device"' | wc -l)" $COUNT "the devices that list knows"

for ((i = 0; i < COUNT; i++)); do
	DEV=/dev/ublkb$i
	[ -b "$DEV" ] || fail "no $DEV"
	head -c 64K /dev/urandom >"$i.data"
	direct_write "$i.data" 1048576
done
for ((i = 0; i < COUNT; i++)); do
	DEV=/dev/ublkb$i
	direct_read 1048576 65536 | cmp - "$i.data" || fail "$DEV has another's data"
done

pids=()
for ((i = 0; i < COUNT; i++)); do
	"$UB" detach $i 2>"$i.err" &
	pids+=($!)
done
all_ended "${pids[@]}"
for ((i = 0; i < COUNT; i++)); do
	no_device $i || fail "device $i is left"
done
