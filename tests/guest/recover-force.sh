#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Nobody recovers: detach refuses and names both ways out; by force the waiting I/O ends with
# errors, a mounted filesystem is shut down, and no process stays in D state. With all dead, with a
# standby left, and with a keeper in mid-recovery.
# kernels: 6.12 7
# push: 7
# timeout: 150
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-recover.bash"
. "$(dirname "$0")/lib-recover-steps.bash"
require mkfs.ext4
BRIDGE=$UBT

# make_dirty: a mounted filesystem with pages that are not written back
make_dirty() {
	mkfs.ext4 -q -E lazy_itable_init=0 "$DEV"
	mount "$DEV" here
	await 20 has_standby
	dd if=/dev/zero of=here/dirty bs=64k count=32 status=none
}

# wait_in_vain: a reader and an fsync that nobody answers; sets WAITING
wait_in_vain() {
	sync here/dirty 2>/dev/null &
	WAITING=($!)
	dd if="$DEV" of=/dev/null bs=4k count=1 skip=300 iflag=direct status=none 2>/dev/null &
	WAITING+=($!)
	await 10 in_d_state
}
in_d_state() { ! none_in_d_state; }

by_verb() {
	run "$UB" detach --force "$ID"
	assert_eq "$STATUS" 0 "the status of detach --force ($ERR)"
}
by_signals() {
	kill -TERM "$KEEPER"
	kill -INT "$KEEPER"
	await 40 gone "$KEEPER"
}

# taken_by_force WHAT [HOW]: all that waits ends in error, and nothing is left
taken_by_force() {
	local pid began=$SECONDS
	"${2:-by_verb}"
	note "$1: gone after $((SECONDS - began)) s"
	for pid in "${WAITING[@]}"; do
		await 20 gone "$pid"
		! wait "$pid" || fail "$1: I/O that nobody answered succeeded"
	done
	umount here
	assert_sweep "$1"
}

mkdir here
for who in 'keeper_pid server_pid standby_pid' 'keeper_pid server_pid'; do
	attach --mem 32M
	make_dirty
	pids=()
	for one in $who; do pids+=("$(state_of "$one")"); done
	kill -KILL "${pids[@]}"
	for pid in "${pids[@]}"; do await 10 gone "$pid"; done
	wait_in_vain
	assert_fails 3 'busy.*mounted on .*here.*--force' "$UB" detach "$ID"
	taken_by_force "dead: $who"
done

note "nobody has it open: what is not written back is not given up unasked"
attach --mem 16M
await 20 has_standby
pids=("$(state_of keeper_pid)" "$(state_of server_pid)")
kill -KILL "${pids[@]}"
for pid in "${pids[@]}"; do await 10 gone "$pid"; done
assert_fails 1 "has no server.*recover $ID.*--force" "$UB" detach "$ID"
WAITING=()
"$UB" detach --force "$ID"
assert_sweep "unused"

for how in by_verb by_signals; do
	note "a keeper whose standby does not get ready, $how"
	attach_with server-hello=stop --mem 32M
	make_dirty
	keeper=$(state_of keeper_pid)
	pids=("$(state_of standby_pid)" "$(state_of server_pid)")
	: >"$NOW"
	kill -KILL "${pids[@]}"
	for pid in "${pids[@]}"; do await 10 gone "$pid"; done
	await 10 was_acted
	assert_eq "$("$UB" info "$ID" --json | jq -r .state)" recovering "the state"
	wait_in_vain
	taken_by_force "a keeper that recovers" $how
	await 10 gone "$keeper"
done
