#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A hundred recoveries: the keeper has as many descriptors afterwards and no more memory, nor has
# the server; no process, no
# memory file and no connection is left over.
# kernels: 6.12 7
# tier: all
# timeout: 700
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
ROUNDS=${ROUNDS:-100}

nr_fds() {
	local fds=("/proc/$1/fd"/*)
	echo ${#fds[@]}
}
nr_processes() { wc -l <"$TEST_CGROUP/cgroup.procs"; }

# look: KEEPER_FDS KEEPER_KIB SERVER_FDS SERVER_KIB PROCESSES
look() {
	await 20 has_standby
	SERVER_PID=$(state_of server_pid)
	KEEPER_FDS=$(nr_fds "$KEEPER") KEEPER_KIB=$(rss_kib "$KEEPER")
	SERVER_FDS=$(nr_fds "$SERVER_PID") SERVER_KIB=$(rss_kib "$SERVER_PID")
	PROCESSES=$(nr_processes)
	note "keeper: $KEEPER_FDS descriptors, $KEEPER_KIB KiB; $(
		)server: $SERVER_FDS, $SERVER_KIB KiB; $PROCESSES processes"
}

make_image 8M
serve file "$IMG"
attach -C 2 "$URI"
SOCKETS=$(ss -x 2>/dev/null | grep -c "$SOCK" || true)
for ((i = 0; i < ROUNDS; i++)); do
	[ $i != 5 ] || { look && first=("$KEEPER_FDS" "$KEEPER_KIB" "$SERVER_FDS" "$SERVER_KIB" \
		"$PROCESSES"); }
	kill_server
	dd if=/dev/zero of="$DEV" bs=4k count=1 seek=$i oflag=direct status=none ||
		fail "I/O fails after $i recoveries"
	# one that lived so long did not die of what killed the one before it
	nap 1.1
done
look
assert_eq "$KEEPER_FDS" "${first[0]}" "the keeper's descriptors"
assert_le "$KEEPER_KIB" $((first[1] + 256)) "the keeper's memory in KiB"
assert_eq "$SERVER_FDS" "${first[2]}" "the server's descriptors"
assert_le "$SERVER_KIB" $((first[3] * 11 / 10)) "the server's memory in KiB"
assert_eq "$PROCESSES" "${first[4]}" "the processes"
assert_eq "$("$UB" info "$ID" --json | jq -r .recoveries)" "$ROUNDS" "the recoveries"
[ "$(ss -x 2>/dev/null | grep -c "$SOCK" || true)" -le "$SOCKETS" ] || fail "connections are left"
detach
unserve
