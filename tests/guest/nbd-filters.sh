#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Servers of many manners: without extents or zeroes, with FUA made up or missing, slow, with fewer
# connections than were asked for, errors for some requests, and one that ends with its last
# connection.
# kernels: 6.12 7
# tier: all
# timeout: 180
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq

make_image 32M

# exercise NAME: every kind of I/O, and the server's bytes are the device's
exercise() {
	fio_verify "$1" --rw=randwrite --bsrange=4k-128k --size=4M --offset_increment=4M \
		--iodepth=16 \
		--ioengine=libaio --direct=1
	dd if=/dev/urandom of="$DEV" bs=4k count=4 seek=100 oflag=direct,dsync conv=notrunc \
		status=none
	blkdiscard -z -o 16M -l 1M "$DEV"
	blkdiscard -o 20M -l 1M "$DEV"
	same_bytes
	is_online || fail "$1: its health is $(health)"
}

while read -r -a how; do
	note "${how[*]}"
	serve "${how[@]}"
	attach -C 2 "$URI"
	exercise "${how[0]#--filter=}"
	detach
	unserve
done <<END
--filter=noextents file $IMG
--filter=nozero file $IMG
--filter=nozero file $IMG zeromode=notrim
--filter=fua file $IMG
--filter=fua file $IMG fuamode=emulate
--filter=fua file $IMG fuamode=force
--filter=noparallel file $IMG serialize=all-requests
--filter=rate file $IMG rate=80M connection-rate=40M
--filter=delay file $IMG rdelay=5ms wdelay=5ms
END

note "fewer connections than were asked for"
serve --filter=limit file "$IMG" limit=2
attach -C 4 --queues 2 "$URI"
said 'connection 3 of 4: ' || fail "nobody said it: $(cat "$ATTACH_ERR")"
exercise limit
detach
unserve

note "errors for some requests: each is somebody's, and the rest goes on"
serve --filter=error file "$IMG" error=EIO error-pread-rate=20% error-pwrite-rate=20%
attach -C 2 "$URI"
errors=0
for ((i = 0; i < 60; i++)); do
	dd if="$DEV" of=/dev/null bs=4k count=1 skip=$i iflag=direct status=none 2>/dev/null ||
		errors=$((errors + 1))
done
assert_match "$errors" '^([1-9]|[1-5][0-9])$' "of 60 reads, how many failed"
is_online || fail "an answered error is no outage"
detach
unserve

note "a server that ends with its last connection, and its command that is started again"
attach --restart-command [ nbdkit --filter=exitlast file "$IMG" ]
for _ in 1 2; do
	pkill -KILL -x nbdkit
	dd if=/dev/urandom of="$DEV" bs=64k count=4 oflag=direct status=none
done
await 10 is_online
exercise exitlast
detach
await 5 no_nbdkit
