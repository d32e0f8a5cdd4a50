#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# While the server is away its name and the route to it may be unknown, too: that is an outage like
# another, and ends when all is back.
# kernels: 6.12 7
# push: 7
# timeout: 120
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq ip

[ -n "${UB_IN_GUEST:-}" ] || skip "/etc/hosts is not this test's to change"
cp /etc/hosts hosts.before
ip link add ubtest0 type dummy 2>/dev/null || skip "no dummy network device"
trap 'cat hosts.before >/etc/hosts; ip link delete ubtest0 2>/dev/null || true' EXIT
ip address add 192.0.2.9/32 dev ubtest0
ip link set ubtest0 up

name_known() { (cat hosts.before; echo "192.0.2.9 store.test") >/etc/hosts; }
name_unknown() { cat hosts.before >/etc/hosts; }
tcp_serve() {
	rm -f "$TEST_DIR/nbd.pid"
	nbdkit -p 10809 -P "$TEST_DIR/nbd.pid" file "$IMG" 2>>"$NBD_LOG" ||
		fail "nbdkit: $(tail -n 3 "$NBD_LOG")"
	await 10 test -s "$TEST_DIR/nbd.pid"
	SERVER=$(<"$TEST_DIR/nbd.pid")
}
read_one() { dd if="$DEV" of=/dev/null bs=4k count=1 skip=$((RANDOM % 100)) iflag=direct \
	status=none; }

make_image 16M
name_known
tcp_serve
attach nbd://store.test/
same_bytes

note "a name that is unknown"
name_unknown
unserve
await 10 said 'not reached: .*(store\.test|[Nn]ame|resol)'
read_one &
reader=$!
tcp_serve
nap 2
process_alive $reader || fail "the read did not wait"
is_offline || fail "its health is $(health)"
name_known
await 30 is_online
await 10 gone $reader
wait $reader || fail "the read failed"

note "a route that is unknown"
# first the server: without a route nothing would tell of its end
unserve
await 10 is_offline
ip address delete 192.0.2.9/32 dev ubtest0
ip route replace unreachable 192.0.2.9/32
await 10 said 'not reached: .*(route|unreachable|reach)'
tcp_serve
read_one &
reader=$!
nap 1
is_offline || fail "its health is $(health)"
ip route delete unreachable 192.0.2.9/32
ip address add 192.0.2.9/32 dev ubtest0
await 30 is_online
await 10 gone $reader
wait $reader || fail "the read failed"
same_bytes
detach
unserve
