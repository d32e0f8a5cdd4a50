#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A network that swallows packets, and a server that stands still: longer than the stall timeout,
# both come back, and no application sees an error.
# kernels: 6.12 7
# push: 7
# timeout: 180
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-stamp.bash"
require ip
require_module veth
NS=ubtest$$

net_down() { ip netns del "$NS" 2>/dev/null || true; }
trap net_down EXIT
ip netns add "$NS"
ip link add ub$$ type veth peer name ubpeer netns "$NS"
ip addr add 192.0.2.1/30 dev ub$$
ip link set ub$$ up
ip -n "$NS" addr add 192.0.2.2/30 dev ubpeer
ip -n "$NS" link set ubpeer up

# serve_tcp: on the other side of the network
serve_tcp() {
	rm -f "$TEST_DIR/nbd.pid"
	ip netns exec "$NS" nbdkit -i 192.0.2.2 -P "$TEST_DIR/nbd.pid" file "$IMG" 2>>"$NBD_LOG" ||
		fail "nbdkit: $(tail -n 3 "$NBD_LOG")"
	await 10 test -s "$TEST_DIR/nbd.pid"
	SERVER=$(<"$TEST_DIR/nbd.pid")
}

# blackhole add|del: requests arrive and are executed, and nothing comes back
blackhole() { ip -n "$NS" route "$1" blackhole 192.0.2.1/32; }

make_image 16M
serve_tcp
attach --stall-timeout 1s --fence-timeout 2s -C 2 nbd://192.0.2.2
note "packets vanish"
start_stamp
for ((i = 0; i < ${ROUNDS:-1}; i++)); do
	blackhole add
	await 20 is_offline
	nap 1.5
	blackhole del
	await 60 is_online
	stamp_goes_on
done
said 'stalled: no answer' || fail "nothing was said: $(cat "$ATTACH_ERR")"

note "the link is down"
ip -n "$NS" link set ubpeer down
await 20 is_offline
nap 1.5
ip -n "$NS" link set ubpeer up
await 60 is_online
stop_stamp

note "the server stands still"
start_stamp
for ((i = 0; i < ${ROUNDS:-1}; i++)); do
	kill -STOP "$SERVER"
	await 20 is_offline
	nap 1.5
	kill -CONT "$SERVER"
	# nbdkit 1.32 aborts when a connection, given up meanwhile, ends within a request
	nap 1
	! gone "$SERVER" || serve_tcp
	await 60 is_online
	stamp_goes_on
done
stop_stamp
detach
unserve
