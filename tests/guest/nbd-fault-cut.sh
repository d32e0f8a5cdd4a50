#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The connection ends in the middle of what can be on it, with 32 requests in flight: the
# application sees no error, and no byte is another. (Everywhere, and otherwise: nbd-fault-cut-all.)
# kernels: 6.12 7
# push: 6.12
# timeout: 200
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-proxy.bash"

make_image 16M
serve_image
proxy
attach "$PROXY_URI"

note "nothing in flight"
for how in cut half-close; do
	: >"$ATTACH_ERR"
	arm $how now
	await 10 said 'offline: .*; I/O waits'
	await 10 said 'online again'
	read_block 7 || fail "a read after $how"
done

load 32
for rule in 'cut request:13' 'half-close request:20' 'cut payload:mid' 'reset payload:end' \
	'cut reply:4' 'reset reply:last' 'cut data' 'cut data:mid' 'half-close data:last'; do
	survives "$rule" flight=16
done

note "while it is connected anew"
for rule in 'cut accept' 'cut greeting:9' 'cut option:8' 'cut option-reply:19' 'cut ready'; do
	survives_anew "$rule"
done
unload
same_bytes
await 10 is_online
detach
unserve
unproxy
