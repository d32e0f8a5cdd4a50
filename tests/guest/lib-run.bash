# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# For tests of a full run directory: a tmpfs of its own, small enough to be filled, until the test
# ends.
export UBLK_BRIDGE_RUNDIR=$TEST_DIR/small
mkdir "$UBLK_BRIDGE_RUNDIR"
mount -t tmpfs -o size=256k,mode=700 none "$UBLK_BRIDGE_RUNDIR"
trap 'umount -l "$UBLK_BRIDGE_RUNDIR"' EXIT

fill() { dd if=/dev/zero of="$UBLK_BRIDGE_RUNDIR/fill" bs=4k status=none 2>/dev/null || true; }

# info_of KEY: what the keeper itself says: state.json may be of yesterday
info_of() { "$UB" info "$ID" --json | jq -r ".$1"; }
stands_by() { [ "$(info_of standby_pid)" != null ]; }
is_served_by_another() { [ "$(info_of server_pid)" != "$1" ]; }

# server_dies: and another takes over, without a look at state.json
server_dies() {
	local pid
	await 20 stands_by
	pid=$(info_of server_pid)
	kill -KILL "$pid"
	await 40 is_served_by_another "$pid"
	stamp_goes_on
}
