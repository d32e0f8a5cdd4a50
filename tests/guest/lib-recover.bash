# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Server processes that die, and the device that does not.

# shellcheck source=tests/guest/lib-stamp.bash
. "$(dirname "${BASH_SOURCE[0]}")/lib-stamp.bash"

# kill_server [SIGNAL]: the device's server dies, and another one takes over
kill_server() {
	local pid
	await 20 has_standby
	pid=$(state_of server_pid)
	kill "-${1:-KILL}" "$pid"
	await 40 other_server "$pid"
}

# kills ROUNDS: under blkstamp, awaited each time until writes are answered again
kills() {
	local i
	for ((i = 0; i < $1; i++)); do
		nap 1.$((RANDOM % 5))
		stamp_alive
		kill_server
		stamp_goes_on
	done
}

# pauses: how long the keeper says that each recovery took, in milliseconds: median and maximum
pauses() {
	grep -oE 'recovered after [0-9]+\.[0-9]+ s' "$ATTACH_ERR" | grep -oE '[0-9.]+' | sort -n |
		awk '{ all[NR] = $1 * 1000 }
			END { printf "%d recoveries, median %d ms, at most %d ms",
			NR, all[int((NR + 1) / 2)], all[NR] }'
}
