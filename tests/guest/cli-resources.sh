#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Too few descriptors, too little memory, too little of it lockable: wherever it runs out, attach
# ends with status 1 and a message that says what was too little, and leaves nothing.
# kernels: 6.12 7
# push: 6.12
# timeout: 120
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

nothing_left() {
	LEFT="$(compgen -G "/dev/ublk[bc]*") $(ls "$UBLK_BRIDGE_RUNDIR" 2>/dev/null)"
	[[ $LEFT != *[![:space:]]* ]]
}

# short_of REGEX COMMAND…: it fails with 1 and says REGEX, or serves; sets SERVED
short_of() {
	local regex=$1 pid
	shift
	"$@" >out 2>err </dev/null &
	pid=$!
	await 30 line_or_death out $pid
	SERVED=no
	if process_alive $pid; then
		SERVED=yes
		kill -TERM $pid
	fi
	STATUS=0
	wait $pid || STATUS=$?
	if [ $SERVED = yes ]; then
		assert_eq $STATUS 0 "the status of $*, which served"
	else
		assert_eq $STATUS 1 "the status of $*: $(cat err)"
		assert_match "$(tail -n 1 err)" "^ublk-bridge: .*($regex)" "the last line of $*"
	fi
	nothing_left || fail "left by $*, which said $(cat err): $LEFT"
}

# descriptors: one more each time, until it serves
SERVED=no
# below that, the dynamic linker fails
for ((nofile = 6; nofile < 40; nofile++)); do
	short_of 'Too many open files' prlimit --nofile=$nofile "$UB" --mem 1M
	[ $SERVED = no ] || break
done
[ $SERVED = yes ] || fail "it does not serve with $nofile descriptors"
[ $nofile -gt 8 ] || fail "the limit did nothing: $nofile descriptors are enough"
note "it needs $nofile descriptors"

# address space: enough for the program, not for the tag buffers
for mib in 12 24 36; do
	short_of 'Cannot allocate memory|cannot allocate|was killed|ended with' \
		prlimit --as=$((mib << 20)) "$UB" --mem 1M --data-path copy
	assert_eq $SERVED no "whether it serves in $mib MiB"
done

# locked memory: none, some for the program but not for the buffers, enough
unlocked=(setpriv --bounding-set=-ipc_lock)
for kib in 0 64 24576; do
	why='(Cannot allocate memory|Operation not permitted|Resource temporarily unavailable)'
	short_of "cannot lock .*RLIMIT_MEMLOCK.*CAP_IPC_LOCK.*$why" \
		prlimit --memlock=$((kib << 10)) "${unlocked[@]}" "$UB" --mem 1M --data-path copy
	assert_eq $SERVED no "whether it serves with $kib KiB of locked memory"
done
short_of 'nothing' prlimit --memlock=$((64 << 20)) "${unlocked[@]}" "$UB" --mem 1M --data-path copy
assert_eq $SERVED yes "whether 64 MiB of locked memory are enough"

# memory for the store
attach_fails 1 '--prealloc: 1 TiB are wanted and .* are to be had: choose a smaller size' \
	--mem 1T --prealloc
left=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
attach_fails 1 '--prealloc: .* are wanted' --mem $((left + 4 - left % 4))K --prealloc
attach --mem 32M --prealloc
detach
nothing_left || fail "something is left"
