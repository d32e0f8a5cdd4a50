#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# TLS: certificates and shared keys, right and wrong, each with its message, and an outage under it.
# kernels: 6.12 7
# push: 7
# timeout: 180
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq certtool psktool

PKI=$TEST_DIR/pki
make_image 32M

# certificate NAME CA EXTRA…: a server's key and certificate for `localhost`, in $PKI/NAME
certificate() {
	local dir=$PKI/$1 ca=$PKI/$2
	mkdir -p "$dir"
	printf '%s\n' 'organization = "test"' 'cn = "localhost"' tls_www_server encryption_key \
		signing_key >"$dir/info"
	printf '%s\n' "${@:3}" >>"$dir/info"
	certtool --generate-privkey --key-type=ecdsa --outfile "$dir/server-key.pem" 2>/dev/null
	certtool --generate-certificate --load-privkey "$dir/server-key.pem" \
		--load-ca-certificate "$ca/ca-cert.pem" \
		--load-ca-privkey "$ca/ca-key.pem" --template "$dir/info" \
		--outfile "$dir/server-cert.pem" 2>/dev/null ||
		fail "certtool: $1"
	cp "$ca/ca-cert.pem" "$dir/ca-cert.pem"
}
authority() {
	mkdir -p "$PKI/$1"
	printf 'cn = "%s"\nca\ncert_signing_key\n' "$1" >"$PKI/$1/info"
	certtool --generate-privkey --key-type=ecdsa --outfile "$PKI/$1/ca-key.pem" 2>/dev/null
	certtool --generate-self-signed --load-privkey "$PKI/$1/ca-key.pem" \
		--template "$PKI/$1/info" \
		--outfile "$PKI/$1/ca-cert.pem" 2>/dev/null || fail "certtool: $1"
}
authority ours
authority theirs
certificate right ours 'dns_name = "localhost"' 'expiration_days = 10'
certificate other-host ours 'dns_name = "elsewhere.example"' 'expiration_days = 10'
certificate expired ours 'dns_name = "localhost"' 'activation_date = "2020-01-01 00:00:00"' \
	'expiration_date = "2021-01-01 00:00:00"'
certificate stranger theirs 'dns_name = "localhost"' 'expiration_days = 10'
mkdir -p "$PKI/client"
cp "$PKI/ours/ca-cert.pem" "$PKI/client/"

# tcp_server ARGUMENTS…
tcp_server() {
	[ -z "${SERVER:-}" ] || ! process_alive "$SERVER" || unserve
	rm -f "$TEST_DIR/nbd.pid"
	nbdkit -p 10809 -i localhost -P "$TEST_DIR/nbd.pid" "$@" 2>>"$NBD_LOG" || fail "nbdkit $*"
	await 10 test -s "$TEST_DIR/nbd.pid"
	SERVER=$(<"$TEST_DIR/nbd.pid")
}
CERTIFIED="nbds://localhost/?tls-certificates=$PKI/client"

tcp_server --tls=require --tls-certificates="$PKI/right" file "$IMG"
attach "$CERTIFIED"
fio_verify tls --rw=randwrite --bsrange=4k-128k --iodepth=16 --ioengine=libaio --direct=1
same_bytes
note "an outage under TLS"
dd if="$DEV" of=/dev/null bs=4k count=2000 iflag=direct status=none &
reader=$!
tcp_server --tls=require --tls-certificates="$PKI/right" file "$IMG"
await 30 gone $reader
wait $reader || fail "a read failed"
note "it comes back with an expired certificate, and with the right one"
tcp_server --tls=require --tls-certificates="$PKI/expired" file "$IMG"
await 20 said 'not reached: .*(expired|certificate)'
is_offline || fail "its health is $(health)"
tcp_server file "$IMG"
await 20 said 'not reached: .*TLS'
tcp_server --tls=require --tls-certificates="$PKI/right" file "$IMG"
await 20 is_online
same_bytes
detach
attach --tcp localhost 10809 --tls require --tls-certificates "$PKI/client"
detach
attach --tcp localhost 10809 --tls allow --no-tls-verify --tls-certificates "$PKI/client"
detach

for wrong in expired stranger other-host; do
	tcp_server --tls=require --tls-certificates="$PKI/$wrong" file "$IMG"
	attach_fails 1 'certificate|expired|verif' "$CERTIFIED"
	note "$wrong: $ERR"
	attach --no-tls-verify "$CERTIFIED"
	detach
done
note "a stranger where there is no host's name: refused, whatever its certificate"
CHECKED=(--tls require --tls-certificates "$PKI/client")
STRANGER=(nbdkit --tls=require --tls-certificates="$PKI/stranger" file "$IMG")
attach_fails 1 'certificate|verif' "${CHECKED[@]}" --tcp localhost 10809
exec {connected}<>/dev/tcp/localhost/10809
attach_fails 2 'cannot be verified' "${CHECKED[@]}" --fd "$connected"
exec {connected}<&-
unserve
serve --tls=require --tls-certificates="$PKI/stranger" file "$IMG"
attach_fails 2 'cannot be verified.*--tls-psk-file' "${CHECKED[@]}" --unix "$SOCK"
attach_fails 2 'cannot be verified' "nbds+unix:///?socket=$SOCK&tls-certificates=$PKI/client"
attach_fails 2 'cannot be verified' "${CHECKED[@]}" [ "${STRANGER[@]}" ]
attach_fails 2 'cannot be verified' "${CHECKED[@]}" --command "${STRANGER[@]}" -s
attach_fails 2 'cannot be verified' "${CHECKED[@]}" --vsock 1 10809
attach_fails 1 'tls-hostname|certificate|verif' "${CHECKED[@]}" --tls-hostname localhost \
	--unix "$SOCK"
attach_fails 1 'tls-hostname|certificate|verif' \
	"nbds+unix:///?socket=$SOCK&tls-certificates=$PKI/client&tls-hostname=localhost"
attach "${CHECKED[@]}" --no-tls-verify --unix "$SOCK"
detach
unserve

tcp_server file "$IMG"
attach_fails 1 'TLS' "$CERTIFIED"
note "no TLS there: $ERR"
tcp_server --tls=require --tls-certificates="$PKI/right" file "$IMG"
attach_fails 1 'TLS|policy|[Ee]ncrypt' nbd://localhost
note "TLS is wanted there: $ERR"

note "shared keys"
psktool -u alice -p "$PKI/keys.psk" >/dev/null
psktool -u alice -p "$PKI/wrong.psk" >/dev/null
tcp_server --tls=require --tls-psk="$PKI/keys.psk" file "$IMG"
attach --tls-psk-file "$PKI/keys.psk" --tls-username alice nbds://localhost
same_bytes
detach
attach "nbds://alice@localhost/?tls-psk-file=$PKI/keys.psk"
detach
attach_fails 1 'cannot connect' --tls-psk-file "$PKI/wrong.psk" \
	--tls-username alice nbds://localhost
note "a wrong key: $ERR"
! grep -q "$(cut -d : -f 2 "$PKI/keys.psk")" "$TEST_DIR"/attach.* || fail "a key was printed"
unserve
