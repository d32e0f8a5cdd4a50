#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Faults under TLS: in every way and at many places of the ciphertext, with 0, 1 and 32 requests in
# flight, with one connection and with four.
# kernels: 6.12 7
# timeout: 600
# tier: all
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-proxy.bash"
require psktool certtool

make_image 16M
psktool -u alice -p "$TEST_DIR/keys.psk" >/dev/null 2>&1
# or qemu-nbd makes some, and that takes minutes here
certtool --get-dh-params --outfile "$TEST_DIR/dh-params.pem" >/dev/null 2>&1
serve_image --object "tls-creds-psk,id=tls,endpoint=server,dir=$TEST_DIR" --tls-creds tls
proxy
TLS_URI="nbds+unix://alice@/?socket=$PROXY_SOCK&tls-psk-file=$TEST_DIR/keys.psk"

for rule in 'cut option-reply:19 opt=5' 'corrupt option-reply:15 opt=5' 'cut raw-client:20' \
	'cut raw-server:60' 'corrupt raw-server:40' \
	'corrupt raw-client:120' 'cut raw-server:300' 'half-close raw-server:100' \
	'reset raw-client:200'; do
	arm "$rule"
	attach_fails 1 'cannot connect: ' "$TLS_URI"
	fired || fail "\"$rule\" did not happen"
	note "$rule: $ERR"
done
for connections in 1 4; do
	attach -C $connections --stall-timeout 1s --fence-timeout 2s "$TLS_URI"
	note "$connections connections, nothing in flight"
	for how in cut reset half-close; do
		: >"$ATTACH_ERR"
		arm $how now all
		await 10 said 'online again'
		read_block 7 || fail "a read after $how"
	done
	for flight in 1 32; do
		note "$connections connections, $flight in flight"
		load $flight
		for how in cut reset half-close corrupt stall freeze; do
			for where in raw-server:1 raw-server:100003 raw-client:2 \
				raw-client:150001; do
				before=$(nr_connections)
				survives "$how $where"
				wait_for 15 another_connection "$before" ||
					fail "\"$how $where\" did not end the connection"
			done
		done
		unload
		same_bytes
	done
	note "$connections connections, while they are connected anew"
	load 32
	for rule in 'cut option-reply:3 opt=5' 'corrupt option-reply:15 opt=5' 'cut raw-client:20' \
		'cut raw-server:60' \
		'corrupt raw-server:40' 'corrupt raw-client:120' 'cut raw-server:300' \
		'stall raw-server:200 for=1500'; do
		survives_anew "$rule"
	done
	unload
	same_bytes
	await 10 is_online
	detach
done
unserve
unproxy
