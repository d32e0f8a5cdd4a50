#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A connection on which nothing comes any more, in the middle of something: after the stall timeout
# another one is made, and what was not answered goes over that. (Everywhere: nbd-fault-stall-all.)
# kernels: 6.12 7
# push: 6.12
# timeout: 200
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-proxy.bash"

make_image 16M
serve_image
proxy
attach --stall-timeout 1s --fence-timeout 2s "$PROXY_URI"
load 32
for rule in 'stall payload:mid' 'stall reply:9' 'freeze data:mid'; do
	before=$(nr_connections)
	survives "$rule" flight=16
	wait_for 15 another_connection "$before" || fail "\"$rule\" brought no other connection"
done
said 'stalled: no answer' || fail "nobody said it: $(cat "$ATTACH_ERR")"

note "shorter than the timeout: nothing happens"
: >"$ATTACH_ERR"
before=$(nr_connections)
survives stall data:mid for=300 flight=16
assert_eq "$(nr_connections)" "$before" "connections"
! said stalled || fail "it was taken for stalled: $(cat "$ATTACH_ERR")"

note "the old one never ends"
survives freeze request:end cmd=write dead
await 20 said 'it is given up'
unload
same_bytes
await 10 is_online
detach
unserve
unproxy
