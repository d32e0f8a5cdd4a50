#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A keeper that lives long does not grow: in memory, descriptors or processes, however often it is
# asked, probed, refused to detach and worked; nor does its server. An idle one makes no wake-ups.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"

attach --mem 16M --queues 2
SERVER=$(server_pid)

fds() { find "/proc/$1/fd" -mindepth 1 | wc -l; }
threads() { find "/proc/$1/task" -mindepth 1 -maxdepth 1 | wc -l; }
census() { printf '%s ' "$(fds "$KEEPER")" "$(fds "$SERVER")" "$(threads "$KEEPER")" \
	"$(threads "$SERVER")"; }
switches() { awk '/ctxt_switches/ { n += $2 } END { print n }' "/proc/$1"/task/*/status; }

exercise() {
	local round
	for ((round = 0; round < $1; round++)); do
		"$UB" list >/dev/null
		"$UB" list --json >/dev/null
		blkid -p "$DEV" >/dev/null || true
		head -c 1M /dev/urandom >"$DEV"
		blockdev --flushbufs "$DEV"
		blkdiscard "$DEV"
		exec {held}<"$DEV"
		run "$UB" detach "$ID"
		assert_eq "$STATUS" 3 "detach of an open device"
		exec {held}<&-
	done
}

exercise 3
before=$(census) keeper_rss=$(rss_kib "$KEEPER") server_rss=$(rss_kib "$SERVER")
exercise 8
assert_eq "$(census)" "$before" "descriptors of keeper and server, their threads"
assert_le $(($(rss_kib "$KEEPER") - keeper_rss)) $((256 * SLOW)) "KiB that the keeper has more"
assert_le $(($(rss_kib "$SERVER") - server_rss)) $((256 * SLOW)) "KiB that the server has more"

note "idle"
sync "$DEV"
quiet() {
	local keeper server
	keeper=$(switches "$KEEPER") server=$(switches "$SERVER")
	nap 1
	[ "$(switches "$KEEPER")" = "$keeper" ] && [ "$(switches "$SERVER")" = "$server" ]
}
await 20 quiet
detach
