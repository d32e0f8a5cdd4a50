#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The clock of the machine is set, by a day, back and forth, while servers die: nothing waits for it.
# kernels: 6.12 7
# push: 6.12
# timeout: 60
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"

# puts the clock right, as far as the kernel's uptime knows
began=$EPOCHSECONDS up=$(cut -d . -f 1 /proc/uptime)
clock_right() { date -s "@$((began + $(cut -d . -f 1 /proc/uptime) - up))" >/dev/null; }
trap clock_right EXIT

attach --mem 8M
start_stamp
for step in '+1 day' '-2 days' '+1 day'; do
	await 20 has_standby
	pid=$(state_of server_pid)
	kill -KILL "$pid"
	date -s "$step" >/dev/null
	deadline=$(($(cut -d . -f 1 /proc/uptime) + 10 * SLOW))
	while ! other_server "$pid"; do
		[ "$(cut -d . -f 1 /proc/uptime)" -lt $deadline ] || fail "$step: not recovered"
		nap 0.1
	done
	stamp_goes_on
	nap 1.2
done
clock_right
stop_stamp
note "$(pauses)"
detach
