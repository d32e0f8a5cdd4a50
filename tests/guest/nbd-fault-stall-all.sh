#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Nothing comes any more, at every stage, with 1 and 32 requests in flight, with one connection and
# with four, and while the next one is made, too.
# kernels: 6.12 7
# timeout: 400
# tier: all
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-proxy.bash"

make_image 16M
serve_image
proxy
for connections in 1 4; do
	attach -C $connections --stall-timeout 1s --fence-timeout 2s "$PROXY_URI"
	for flight in 1 32; do
		note "$connections connections, $flight in flight"
		load $flight
		for rule in 'stall request' 'stall request:5' 'stall payload:mid' 'stall reply' \
			'stall reply:9' 'stall data:mid' \
			'freeze data' 'freeze request:end'; do
			before=$(nr_connections)
			survives "$rule" flight=$((flight / 2 / connections))
			wait_for 15 another_connection "$before" ||
				fail "\"$rule\" brought no other connection"
		done
		for rule in 'stall request:20' 'stall payload:mid' 'stall reply:3' \
			'stall data:mid'; do
			survives "$rule" for=300 flight=$((flight / 2 / connections))
		done
		unload
		same_bytes
	done
	note "$connections connections, the next one is slow, too"
	load 32
	for rule in 'stall greeting:4' 'stall option-reply:3' 'freeze accept'; do
		survives_anew "$rule" for=1500
		arm "$rule" new for=1500
		survives freeze reply all
		fired $((RULE - 1)) || fail "\"$rule\" did not happen"
	done
	note "$connections connections, it never comes to the end of its negotiation"
	arm stall option-data:1 new dead
	arm cut reply all
	await 10 fired $((RULE - 1))
	load_goes_on 40 || broken "$RULE"
	unload
	same_bytes
	detach
done
unserve
unproxy
