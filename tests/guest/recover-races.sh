#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# attach, detach, recover, list and SIGKILL of whoever is there, from several shells at once, on the
# same names: nobody crashes, nobody hangs, and when it is over everything can be taken away.
# (recover-races-all: for a minute.)
# kernels: 6.12 7
# push: 7
# timeout: 150
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
RACE_S=${RACE_S:-10}
NAMES=(one two three)

# racer VERB: does that until time is over, to names at random; writes what it said
racer() {
	local verb=$1 name status pids end=$((SECONDS + RACE_S))
	while [ $SECONDS -lt $end ]; do
		name=${NAMES[RANDOM % ${#NAMES[@]}]}
		status=0
		case $verb in
		attach) "$UB" attach --daemon --mem 1M --depth 8 --name "$name" ;;
		detach) "$UB" detach "$name" ;;
		force) "$UB" detach --force "$name" ;;
		recover) "$UB" recover "$name" ;;
		recover-all) "$UB" recover --all ;;
		list) "$UB" list --json | jq -e . ;;
		io) timeout 20 dd if=/dev/zero of=/dev/ublkb$((RANDOM % 3)) bs=4k count=16 \
			oflag=direct conv=nocreat ;;
		kill)
			mapfile -t pids < <(grep -hoE '"(keeper|server|standby)_pid": [1-9][0-9]*' \
				"$UBLK_BRIDGE_RUNDIR/$name/state.json" 2>/dev/null |
				grep -oE '[0-9]+$')
			[ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[RANDOM % ${#pids[@]}]}"
			nap 0.$((RANDOM % 5 + 1))
			;;
		esac >"race.$verb.out" 2>>"race.$verb.err" </dev/null || status=$?
		# 126 and more: a signal that was not ours to send, but for the keeper as a daemon
		# that is not yet ready
		echo "$status" >>"race.$verb.status"
		case $verb:$status in
		*:134 | *:139 | *:135 | *:136) fail \
			"$verb crashed with $status: $(tail -n 3 "race.$verb.err")" ;;
		list:[!0]*) fail "list ended with $status: $(tail -n 3 race.list.err)" ;;
		esac
	done
}

racers=()
for verb in attach attach detach force recover recover-all list io kill; do
	racer $verb &
	racers+=($!)
done
for pid in "${racers[@]}"; do
	await $((RACE_S + 90)) gone "$pid"
	wait "$pid" || fail "a racer failed"
done
for verb in attach detach force recover; do
	note "$verb: $(sort "race.$verb.status" | uniq -c |
		awk '{ printf "%d times %d  ", $1, $2 }')"
	grep -qx 0 "race.$verb.status" || fail \
		"$verb never succeeded: $(tail -n 3 "race.$verb.err")"
done
if grep -hE 'Assertion|assertion|double free' race.*.err; then fail "an assertion failed"; fi
no_d_state
for name in "${NAMES[@]}"; do
	"$UB" detach --force "$name" 2>/dev/null || true
done
detach_all "the race"
"$UB" attach --daemon --mem 1M --name one >/dev/null
"$UB" detach one
