#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The connection ends at every stage of the protocol, in every way, with 0, 1 and 32 requests in
# flight, with one connection and with four: no error, no hang, no wrong byte.
# kernels: 6.12 7
# timeout: 600
# tier: all
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-proxy.bash"

make_image 16M
serve_image
proxy
for connections in 1 4; do
	attach -C $connections "$PROXY_URI"
	note "$connections connections, nothing in flight"
	for how in cut reset half-close; do
		: >"$ATTACH_ERR"
		arm $how now all
		await 10 said 'offline: .*; I/O waits'
		await 10 said 'online again'
		read_block 7 || fail "a read after $how"
	done
	for flight in 1 32; do
		note "$connections connections, $flight in flight"
		load $flight
		for how in cut reset half-close; do
			for where in request request:13 request:end payload payload:mid \
				payload:end \
				reply reply:4 reply:last reply:end data data:mid data:last \
				data:end; do
				survives "$how $where" flight=$((flight / 2 / connections))
			done
		done
		unload
		same_bytes
	done
	note "$connections connections, while they are connected anew"
	load 32
	for how in cut half-close; do
		for where in accept greeting greeting:9 greeting:end flags:2 option option:8 \
			option-body:mid option-reply \
			option-reply:19 option-data:1 ready; do
			survives_anew "$how $where"
		done
	done
	note "$connections connections, again and again"
	arm cut reply every=200 times=8
	{ load_goes_on 30 && load_goes_on 30; } || broken "$RULE"
	clear_rules
	unload
	same_bytes
	await 10 is_online
	detach
done
unserve
unproxy
