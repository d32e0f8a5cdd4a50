#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Faults under TLS, at so many bytes of ciphertext; a byte that was changed is noticed wherever it
# is. (In every way: nbd-fault-tls-all.)
# kernels: 6.12 7
# push: 7
# timeout: 200
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

note "before it is live"
for rule in 'corrupt raw-server:40' 'cut raw-client:20'; do
	arm "$rule"
	attach_fails 1 'cannot connect: ' "$TLS_URI"
	fired || fail "\"$rule\" did not happen"
	note "$rule: $ERR"
done
attach --stall-timeout 1s "$TLS_URI"
load 32
for rule in 'cut raw-server:10000' 'half-close raw-client:20000' 'corrupt raw-server:30001' \
	'corrupt raw-client:15001' \
	'corrupt raw-server:2' 'stall raw-client:10007'; do
	before=$(nr_connections)
	survives "$rule"
	another_connection "$before" || fail "\"$rule\" did not end the connection"
done
note "while it is connected anew"
for rule in 'corrupt option-reply:15 opt=5' 'cut raw-client:20' 'corrupt raw-server:40'; do
	survives_anew "$rule"
done
unload
same_bytes
await 10 is_online
detach
unserve
unproxy
