#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The clock of the machine is set, by days, back and forth, while servers die: nothing waits for it.
# kernels: 6.12 7
# push: 6.12
# timeout: 120
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"

# clock_right: as far as the kernel's uptime knows
clock_before=$EPOCHSECONDS
read -r up_before _ </proc/uptime
# shellcheck disable=SC2317 # at the end, too
clock_right() {
	uptime_s
	date -s "@$((clock_before + UPTIME - ${up_before%.*}))" >/dev/null
}
trap clock_right EXIT

# uptime_s: UPTIME; the shell's own SECONDS, and with them await, go by the clock
uptime_s() {
	read -r UPTIME _ </proc/uptime
	UPTIME=${UPTIME%.*}
}
# soon WHAT COMMAND…: within 20 s
soon() {
	local until
	uptime_s
	until=$((UPTIME + 20 * SLOW))
	until "${@:2}"; do
		uptime_s
		[ "$UPTIME" -lt $until ] || fail \
			"$1: waited in vain for ${*:2}: $(tail -n 5 "$ATTACH_ERR")"
		sleep 0.1
	done
}

attach --mem 8M
start_stamp
# first back, for whoever watches this test goes by the clock, too
for step in '-2 days' '+1 day' '+1 day' '+20 seconds'; do
	soon "$step" has_standby
	pid=$(state_of server_pid)
	kill -KILL "$pid"
	date -s "$step" >/dev/null
	soon "$step" other_server "$pid"
	read -ra stat <"/sys/block/${DEV#/dev/}/stat"
	soon "$step" more_written $((stat[4] + 10))
	stamp_alive
	note "$step: $(date)"
	sleep 1.2
done
clock_right
stop_stamp
note "$(pauses)"
detach
