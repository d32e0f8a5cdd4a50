#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What the machine resolves, a device resolves, and what it connects to later it finds: host names
# by way of files that are bind-mounted, before and after the attach; sockets and certificates on
# filesystems that were mounted after it; in a container as well. And no mount is kept busy by that.
# kernels: 6.12 7
# push: 7
# timeout: 180
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
. "$(dirname "$0")/lib-recover.bash"
require jq unshare psktool

[ -n "${UB_IN_GUEST:-}" ] || skip "/etc/hosts is not this test's to change"
while umount /etc/hosts 2>/dev/null; do :; done
trap 'umount -l /etc/hosts late 2>/dev/null || true' EXIT

# hosts LINE: a file is bound over /etc/hosts, as container engines do
hosts() {
	while umount /etc/hosts 2>/dev/null; do :; done
	{ cat /etc/hosts && echo "$1"; } >"$TEST_DIR/hosts.${2:-1}"
	mount --bind "$TEST_DIR/hosts.${2:-1}" /etc/hosts
}
serve_tcp() {
	rm -f "$TEST_DIR/nbd.pid"
	nbdkit -i 127.0.0.1 -p 10809 -P "$TEST_DIR/nbd.pid" "$@" file "$IMG" 2>>"$NBD_LOG" ||
		fail "nbdkit: $(tail -n 3 "$NBD_LOG")"
	await 10 test -s "$TEST_DIR/nbd.pid"
	SERVER=$(<"$TEST_DIR/nbd.pid")
}
read_one() { dd if="$DEV" of=/dev/null bs=4k count=1 skip=$((RANDOM % 100)) iflag=direct \
	status=none; }
# comes_back: the server dies and is started again, and the device is online after it
comes_back() {
	unserve
	await 10 is_offline
	serve_tcp "$@"
	await 30 is_online
	read_one || fail "a read failed"
}

make_image 16M

note "a name in a bound /etc/hosts"
hosts '127.0.0.1 storage.test'
serve_tcp
attach nbd://storage.test/
comes_back
note "it is bound anew while the device is in use"
umount /etc/hosts
unserve
await 10 is_offline
hosts '127.0.0.1 storage.test' 2
serve_tcp
await 30 is_online
note "also for the next server process, and when there is no keeper"
kill_server
await 20 is_online
kill -KILL "$KEEPER"
await 10 gone "$KEEPER"
unserve
serve_tcp
read_one || fail "a read failed without a keeper"
"$UB" recover "$ID"
umount /etc/hosts || fail "somebody holds the file over /etc/hosts"
detach "$ID"
unserve

note "in a container"
hosts '127.0.0.1 outside.test'
serve_tcp
# shellcheck disable=SC2016 # the inner shell's
run unshare -m --propagation private bash -c '
	sed "s/outside/inside/" /etc/hosts >hosts.inside &&
		mount --bind hosts.inside /etc/hosts && exec "$@"' \
	- "$BRIDGE" attach -d --name inside nbd://inside.test/
assert_eq "$STATUS" 0 "the attach: $ERR"
DEV=$OUT ID=${OUT#/dev/ublkb}
comes_back
"$UB" detach inside
umount /etc/hosts
unserve

note "a socket and a key on a filesystem that was mounted after the device was made"
attach --mem 16M
mkdir -p late
mount -t tmpfs none late
psktool -u alice -p "$TEST_DIR/late/keys.psk" >/dev/null 2>&1
SOCK=$TEST_DIR/late/nbd.sock
URI="nbds+unix://alice@/?socket=$SOCK&tls-psk-file=$TEST_DIR/late/keys.psk"
serve_late() { serve --tls=require --tls-psk="$TEST_DIR/late/keys.psk" file "$IMG"; }
serve_late
"$UB" migrate "$ID" "$URI" >/dev/null 2>move.err || fail "migrate: $(cat move.err)"
if kernel_at_least 6.16; then
	"$UB" resize "$ID" >/dev/null 2>resize.err || fail "resize: $(cat resize.err)"
	truncate -s 24M "$IMG"
	"$UB" resize "$ID" 24M >/dev/null 2>resize.err || fail "resize: $(cat resize.err)"
	assert_eq "$(size_of "$DEV")" 25165824 "the size"
fi
unserve
await 10 is_offline
serve_late
await 30 is_online
kill_server
await 20 is_online
read_one || fail "a read failed"
detach
unserve
umount late || fail "somebody holds the filesystem of the socket"
no_d_state
