#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Fifty devices whose servers are all killed at once, then their keepers, then both: each is
# recovered, with its own data.
# kernels: 6.12 7
# tier: all
# timeout: 600
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
COUNT=${COUNT:-50}

# pids_of KEY: of all devices; sets PIDS
pids_of() {
	local text i
	PIDS=()
	for ((i = 0; i < COUNT; i++)); do
		text=$(<"$UBLK_BRIDGE_RUNDIR/ublk$i/state.json")
		[[ $text =~ \"$1\":\ *([0-9]+) ]]
		PIDS+=("${BASH_REMATCH[1]}")
	done
}
all_stand_by() {
	pids_of standby_pid
	[[ " ${PIDS[*]} " != *" 0 "* ]]
}
all_others() {
	local old=("$@") i
	pids_of server_pid
	for ((i = 0; i < COUNT; i++)); do
		[ "${PIDS[i]}" != "${old[i]}" ] || return 1
	done
}

# data_of I: what device I has
data_of() { printf 'this is device %d%4080s\n' "$1" x | head -c 4096; }
check_data() {
	local i
	for ((i = 0; i < COUNT; i++)); do
		dd if="/dev/ublkb$i" bs=4k count=1 iflag=direct status=none |
			cmp -s - "data.$i" || fail "$1: device $i has not its data"
	done
}

for ((i = 0; i < COUNT; i++)); do
	"$UB" attach --daemon --mem 1M --depth 8 >/dev/null 2>>attach.err ||
		fail "attach: $(tail -n 2 attach.err)"
	data_of $i >data.$i
	dd if=data.$i of="/dev/ublkb$i" bs=4k oflag=direct status=none
done
await 60 all_stand_by

note "all servers"
pids_of server_pid
servers=("${PIDS[@]}")
began=$SECONDS
kill -KILL "${servers[@]}"
await 90 all_others "${servers[@]}"
note "all $COUNT recovered within $((SECONDS - began)) s"
check_data "all servers"
await 60 all_stand_by

note "all keepers"
pids_of keeper_pid
kill -KILL "${PIDS[@]}"
for pid in "${PIDS[@]}"; do await 10 gone "$pid"; done
"$UB" recover --all >>recover.out 2>&1 || fail \
	"recover --all ended with $?: $(tail -n 3 recover.out)"
check_data "all keepers"
await 60 all_stand_by

note "all keepers and servers"
pids_of keeper_pid
keepers=("${PIDS[@]}")
pids_of server_pid
kill -KILL "${keepers[@]}" "${PIDS[@]}"
for pid in "${keepers[@]}" "${PIDS[@]}"; do await 10 gone "$pid"; done
began=$SECONDS
"$UB" recover --all >>recover.out 2>&1 || fail \
	"recover --all ended with $?: $(tail -n 3 recover.out)"
note "recover --all took $((SECONDS - began)) s"
check_data "all keepers and servers"
for ((i = 0; i < COUNT; i++)); do
	"$UB" detach $i
done
no_d_state
