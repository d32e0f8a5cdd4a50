# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# A guest with little memory, and an NBD server outside it ("# export:" in the test's header).

# shellcheck source=tests/guest/lib-nbd.bash
. "$(dirname "${BASH_SOURCE[0]}")/lib-nbd.bash"

require ip

OUTSIDE_DOWN=/run/exchange/export-down
[ -s /run/exchange/export ] || skip "no NBD server outside this machine: this test wants a guest of its own"
read -r OUTSIDE_HOST OUTSIDE_PORT </run/exchange/export
# shellcheck disable=SC2034 # for the tests
OUTSIDE_URI=nbd://$OUTSIDE_HOST:$OUTSIDE_PORT/

# outside_reachable: the guest's one network device leads to the server
outside_reachable() {
	rm -f "$OUTSIDE_DOWN"
	modprobe virtio_net
	await 10 test -e /sys/class/net/eth0
	ip address replace "${OUTSIDE_HOST%.*}.15/24" dev eth0
	ip link set eth0 up
	# the emulated network waits for an ACK after each small segment, and the guest's may take 40 ms
	ip route replace "${OUTSIDE_HOST%.*}.0/24" dev eth0 quickack 1
}

# outside_dies SECONDS: the server is killed, and comes back after that time by itself: while the machine has no
# page to spare nobody in it may be counted on to start it again
outside_dies() { echo "$1" >"$OUTSIDE_DOWN"; }

# sectors_written: since the device was made
sectors_written() {
	local stat
	read -ra stat <"/sys/block/${DEV#/dev/}/stat"
	echo "${stat[6]}"
}
has_written() { [ "$(sectors_written)" -gt "$1" ]; }
