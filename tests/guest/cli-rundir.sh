#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A run directory that is full, cannot be written to, or holds files that are broken or of a newer
# version: attach says what it is and leaves nothing; what is broken stands in nobody's way.
# kernels: 6.12 7
# push: 7
# timeout: 90
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require jq

RUN=$TEST_DIR/small
mkdir "$RUN"
trap 'umount "$RUN" 2>/dev/null || true' EXIT
attach_here() { UBLK_BRIDGE_RUNDIR=$RUN "$UB" attach "$@"; }

# nothing_made: no device, no process, and nothing in the run directory but what was there
nothing_made() {
	wait_for 2 no_ublk || fail "$1 leaves a device"
	wait_for 2 no_bridge || fail "$1 leaves processes"
	assert_eq "$(ls -A "$RUN")" "$2" "what is in the run directory after $1"
}

note "read only"
mount -t tmpfs -o ro,size=64k none "$RUN"
assert_fails 1 "cannot make the run directory $RUN/ublk0: Read-only file system" attach_here \
	--mem 1M
nothing_made "a run directory that is read only" ''
umount "$RUN"

note "without inodes: each number of them, until it serves"
served=no
for ((inodes = 2; inodes < 12; inodes++)); do
	mount -t tmpfs -o "size=64k,nr_inodes=$inodes" none "$RUN"
	UBLK_BRIDGE_RUNDIR=$RUN "$UB" attach --mem 1M >out 2>err </dev/null &
	pid=$!
	await 30 line_or_death out $pid
	if process_alive $pid; then
		served=yes
		kill -TERM $pid
	fi
	status=0
	wait $pid || status=$?
	if [ $served = yes ]; then
		assert_eq $status 0 "the status with $inodes inodes"
	else
		assert_eq $status 1 "the status with $inodes inodes"
		assert_match "$(<err)" 'ublk-bridge: .*No space left on device'
	fi
	nothing_made "a run directory with $inodes inodes" ''
	umount "$RUN"
	[ $served = no ] || break
done
[ $served = yes ] || fail "it never serves"
[ $inodes -gt 3 ] || fail "the limit did nothing"

note "without a block for state.json"
mount -t tmpfs -o size=8k none "$RUN"
head -c 8192 /dev/zero >"$RUN/.full"
assert_fails 1 'cannot write state.json: No space left on device' attach_here --mem 1M
nothing_made "a run directory that is full" .full
rm "$RUN/.full"

note "what is broken is taken over"
for content in '' '{"version": 1, "name"' '{"version": 2, "name": "disk"}' '[]' $'\xff\xfe' \
	"$(printf '[%.0s' {1..4000})"; do
	mkdir -p "$RUN/disk/"
	printf '%s' "$content" >"$RUN/disk/state.json"
	assert_eq "$(UBLK_BRIDGE_RUNDIR=$RUN "$UB" list --json | jq -c '[.[] | [.name, .state]]')" \
		'[["disk","stale"]]' \
		"the list with ${content:0:40}"
	assert_fails 1 "no device is named 'disk'" env UBLK_BRIDGE_RUNDIR="$RUN" "$UB" info disk
done
UBLK_BRIDGE_RUNDIR=$RUN attach --mem 1M --name disk
assert_eq "$(UBLK_BRIDGE_RUNDIR=$RUN "$UB" info disk --json | jq -r .state)" live \
	"the state of the new one"

note "broken while it is served"
printf '{' >"$RUN/disk/state.json"
assert_eq "$(UBLK_BRIDGE_RUNDIR=$RUN "$UB" list --json |
	jq -c '[.[] | [.id, .name, .state, .remedy]]')" \
	'[[0,null,"live",null],[null,"disk","stale",null]]' "a device whose state was broken"
assert_fails 3 "'disk' has no device, but a keeper" env UBLK_BRIDGE_RUNDIR="$RUN" "$UB" detach disk
dd if="$DEV" of=/dev/null bs=4k count=1 iflag=direct status=none
UBLK_BRIDGE_RUNDIR=$RUN "$UB" detach "$ID"
ends_with 0
nothing_made "a device whose state was broken" ''
umount "$RUN"
