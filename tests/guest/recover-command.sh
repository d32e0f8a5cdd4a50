#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Devices whose NBD server the keeper has started, with [ COMMAND ] and --command, through the death
# of their own server, and of the keeper, too: no byte is lost, and the command is ended with the
# device.
# kernels: 6.12 7
# tier: all
# timeout: 150
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
require qemu-nbd

no_command() { no_nbdkit && ! pgrep -x qemu-nbd >/dev/null; }

make_image 16M
# through ARGUMENTS…: kills its server, its keeper, and both
through() {
	local pids pid
	note "$*"
	rm -f "$JOURNAL"
	attach --fence-timeout 2s "$@"
	start_stamp
	kills 2
	for who in keeper_pid 'keeper_pid server_pid'; do
		await 20 has_standby
		pids=()
		for one in $who; do pids+=("$(state_of "$one")"); done
		kill -KILL "${pids[@]}"
		for pid in "${pids[@]}"; do await 10 gone "$pid"; done
		nap 0.3
		"$UB" recover "$ID" || fail "$who: recover ended with $?"
		await 20 is_online
		stamp_goes_on
	done
	kill_server
	stamp_goes_on
	stop_stamp
	"$UB" detach "$ID"
	await 10 no_device "$ID"
	await 10 no_command
	[ -z "$(find "$UBLK_BRIDGE_RUNDIR" -name '.nbd-*' 2>/dev/null)" ] ||
		fail "its socket is left"
}
# nbdkit aborts, now and then, when a connection ends amid requests: see docs/traps.md
through [ qemu-nbd --persistent --shared=8 -f raw -x '' "$IMG" ]
through --restart-command [ nbdkit file "$IMG" ]
through --restart-command --command nbdkit -s file "$IMG"

note "--command alone: its one connection goes with the server, and what waits fails"
attach --command nbdkit -s file "$IMG"
await 20 has_standby
kill -KILL "$(state_of server_pid)"
await 20 is_failed
run dd if="$DEV" of=/dev/null bs=4k count=1 iflag=direct
assert_eq "$STATUS" 1 "a read when the connection is gone for good"
"$UB" detach --force "$ID"
await 10 no_device "$ID"
