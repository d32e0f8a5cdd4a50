#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The other NBD servers: qemu-nbd with raw and qcow2, qemu-storage-daemon, nbd-server.
# kernels: 6.12 7
# push: 7
# timeout: 120
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq qemu-nbd qemu-img nbd-server

# works NAME START: bytes go and come, and the server is killed once, and started again by START
works() {
	fio_verify "$1" --rw=randwrite --bsrange=4k-128k --iodepth=8 --ioengine=libaio --direct=1
	blkdiscard -o 4M -l 1M "$DEV"
	dd if="$DEV" of=/dev/null bs=4k count=3000 iflag=direct status=none &
	local reader=$!
	kill -KILL "$SERVER"
	await 10 gone "$SERVER"
	rm -f "$SOCK"
	"$2"
	await 30 gone $reader
	wait $reader || fail "$1: a read failed"
	await 10 is_online
}

wait_socket() { await 10 test -S "$SOCK"; }

make_image 32M
note "qemu-nbd, raw"
start_raw() {
	qemu-nbd -t -k "$SOCK" -f raw --cache=writeback --discard=unmap "$IMG" &
	SERVER=$!
	wait_socket
}
start_raw
attach "$URI"
works raw start_raw
same_bytes
detach
kill "$SERVER" 2>/dev/null || true
wait "$SERVER" || true

note "qemu-nbd, qcow2, one connection"
qemu-img create -q -f qcow2 "$TEST_DIR/disk.qcow2" 32M
start_qcow2() {
	qemu-nbd -t -k "$SOCK" -f qcow2 "$TEST_DIR/disk.qcow2" &
	SERVER=$!
	wait_socket
}
rm -f "$SOCK"
start_qcow2
attach -C 4 "$URI"
works qcow2 start_qcow2
sum=$(checksum "$DEV")
detach
kill "$SERVER" 2>/dev/null || true
wait "$SERVER" || true
qemu-img check -q "$TEST_DIR/disk.qcow2" || fail "qemu-img check"
qemu-img convert -f qcow2 -O raw "$TEST_DIR/disk.qcow2" "$TEST_DIR/copy.img"
assert_eq "$(sha256sum <"$TEST_DIR/copy.img" | cut -d ' ' -f 1)" "$sum" "the qcow2 file's bytes"

note "nbd-server"
cat >"$TEST_DIR/nbd-server.conf" <<-END
	[generic]
	unixsock = $SOCK
	listenaddr = 127.0.0.1
	port = 10999
	allowlist = true
	[disk]
	exportname = $IMG
	flush = true
	fua = true
	trim = true
END
rm -f "$SOCK"
nbd-server -d -C "$TEST_DIR/nbd-server.conf" >/dev/null 2>&1 &
SERVER=$!
wait_socket
attach "nbd+unix:///disk?socket=$SOCK"
fio_verify nbd-server --rw=randwrite --bsrange=4k-128k --iodepth=8 --ioengine=libaio --direct=1
same_bytes
detach
kill "$SERVER" 2>/dev/null || true
wait "$SERVER" || true

note "qemu-storage-daemon"
if command -v qemu-storage-daemon >/dev/null; then
	rm -f "$SOCK"
	qemu-storage-daemon --blockdev file,node-name=disk,filename="$IMG" \
		--nbd-server addr.type=unix,addr.path="$SOCK" \
		--export nbd,id=e,node-name=disk,name=disk,writable=on &
	SERVER=$!
	wait_socket
	attach --unix "$SOCK" --export disk
	fio_verify qsd --rw=randwrite --bsrange=4k-128k --iodepth=8 --ioengine=libaio --direct=1
	same_bytes
	detach
	kill "$SERVER" 2>/dev/null || true
	wait "$SERVER" || true
fi
