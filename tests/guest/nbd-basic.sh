#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An NBD export as a device: bytes go both ways over each data path and each way to name a server,
# and flush, FUA, discard and zeroes are on the wire what they were in the block layer.
# kernels: 6.12 7
# push: 7
# timeout: 150
# sanitize: all
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq qemu-img

# log_has REGEX: the server's own log, of its log filter, has a request like this
log_has() { grep -qE "$1" "$TEST_DIR/requests"; }

make_image 16M
for path in copy get-data user-copy; do
	serve file "$IMG"
	attach --data-path $path "$URI"
	assert_eq "$(size_of "$DEV")" $((16 << 20)) "size"
	assert_eq "$(checksum "$DEV")" "$(sha256sum <"$IMG" | cut -d ' ' -f 1)" \
		"$path: what is read"
	fio_verify "$path" --rw=randwrite --bsrange=512-512k --blockalign=512 --iodepth=16 \
		--ioengine=libaio --direct=1 \
		--size=4M --offset_increment=4M
	same_bytes
	is_online || fail "its health is $(health)"
	detach
	unserve
done

note "what reaches the server"
serve --filter=log file "$IMG" logfile="$TEST_DIR/requests"
attach "$URI"
: >"$TEST_DIR/requests"
dd if=/dev/zero of="$DEV" bs=4k count=1 seek=8 oflag=direct status=none
log_has 'Write id=.* offset=0x8000 count=0x1000 fua=0' ||
	fail "a write: $(tail -n 3 "$TEST_DIR/requests")"
dd if=/dev/zero of="$DEV" bs=4k count=1 seek=9 oflag=direct,dsync status=none
log_has 'Write id=.* offset=0x9000 count=0x1000 fua=1' || log_has 'Flush id=' ||
	fail "a synchronous write: $(tail -n 3 "$TEST_DIR/requests")"
: >"$TEST_DIR/requests"
blockdev --flushbufs "$DEV"
dd if=/dev/zero of="$DEV" bs=4k count=1 conv=fsync,notrunc status=none
log_has 'Flush id=' || fail "fsync: $(tail -n 3 "$TEST_DIR/requests")"
blkdiscard -o 1M -l 64k "$DEV"
log_has 'Trim id=.* offset=0x100000 count=0x10000' ||
	fail "discard: $(tail -n 3 "$TEST_DIR/requests")"
blkdiscard -z -o 2M -l 64k "$DEV"
log_has 'Zero id=.* offset=0x200000 count=0x10000 trim=0' ||
	fail "zeroes: $(tail -n 3 "$TEST_DIR/requests")"
fallocate -p -o 3M -l 64k "$DEV"
log_has 'Zero id=.* offset=0x300000 count=0x10000 trim=1' ||
	fail "punched hole: $(tail -n 3 "$TEST_DIR/requests")"
detach
unserve

note "ways to name a server"
nbdkit --exit-with-parent -p 10809 -i ::1 -e one file "$IMG" &
nbdkit --exit-with-parent -p 10810 -i 127.0.0.1 file "$IMG" &
serve file "$IMG"
for port in 10809 10810; do
	await 10 bash -c "ss -tln | grep -q :$port"
done
while read -r -a how; do
	attach "${how[@]}"
	assert_eq "$(checksum "$DEV")" "$(sha256sum <"$IMG" | cut -d ' ' -f 1)" "${how[*]}"
	# the smallest there is would be a write's own bytes, a few at a time
	[[ ! ${how[*]} =~ 10810 ]] || [[ $(ss -tmn dst 127.0.0.1:10810) =~ ,tb([0-9]+) &&
		${BASH_REMATCH[1]} -ge 65536 ]] ||
		fail "the connection's send buffer: $(ss -tmn dst 127.0.0.1:10810)"
	detach
done <<END
--unix $SOCK
nbd://127.0.0.1:10810
nbd://localhost:10810/
nbd://[::1]:10809/one
--tcp ::1 10809 --export one
--tcp 127.0.0.1 10810
END
exec {fd}<>/dev/tcp/127.0.0.1/10810
attach --fd "$fd"
same_bytes
detach
exec {fd}>&-
jobs -p | xargs -r kill
unserve
wait
