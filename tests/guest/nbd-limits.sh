#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What the server says of its export becomes the device's limits, and what cannot be made up for is
# refused with its reason.
# kernels: 6.12 7
# push: 7
# timeout: 120
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq

# device ARGUMENTS…: a device of this nbdkit
device() {
	serve "$@"
	attach "$URI"
}
away() {
	detach
	unserve
}
attr() { cat "/sys/block/ublkb$ID/queue/$1"; }

make_image 32M
device --filter=blocksize-policy file "$IMG" blocksize-minimum=4096 blocksize-preferred=64k \
	blocksize-maximum=256k \
	blocksize-error-policy=error
assert_eq "$(attr logical_block_size)" 4096 "logical block"
assert_eq "$(attr physical_block_size)" 4096 "physical block"
assert_eq "$(attr optimal_io_size)" 65536 "optimal I/O"
assert_le "$(attr max_hw_sectors_kb)" 256 "largest I/O"
fio_verify blocks --rw=randwrite --bsrange=4k-1M --blockalign=4k --iodepth=8 --ioengine=libaio \
	--direct=1
blkdiscard -z -o 1M -l 8M "$DEV"
same_bytes
away
serve --filter=blocksize-policy file "$IMG" blocksize-minimum=8192 blocksize-preferred=8192 \
	blocksize-error-policy=error
attach_fails 1 'minimum block is 8192 bytes.*--filter=blocksize' "$URI"
unserve
serve --filter=blocksize-policy file "$IMG" blocksize-minimum=4096 blocksize-preferred=4096 \
	blocksize-error-policy=error
attach_fails 1 'finer than the server' --block-size 512 "$URI"
unserve

note "read only, and said so"
device -r file "$IMG"
assert_eq "$(blockdev --getro "$DEV")" 1 "read only"
away
serve file "$IMG"
attach --read-only "$URI"
assert_eq "$(blockdev --getro "$DEV")" 1 "read only"
away

note "a size that is no multiple of the block"
truncate -s $((1048576 + 300)) "$TEST_DIR/odd.img"
serve --filter=blocksize-policy file "$TEST_DIR/odd.img" blocksize-minimum=1 \
	blocksize-preferred=4096
attach "$URI"
assert_eq "$(size_of "$DEV")" 1048576 "size"
said 'last 300 bytes are beyond the device' || fail "nobody said it: $(cat "$ATTACH_ERR")"
away
truncate -s 300 "$TEST_DIR/odd.img"
serve file "$TEST_DIR/odd.img"
attach_fails 1 'not one block of 512' "$URI"
unserve

note "no flush, no FUA, no zeroes, no trim: the core makes up for them"
serve sh - <<END
case \$1 in
get_size) echo 4M ;;
pread) dd if=$IMG iflag=skip_bytes,count_bytes skip=\$4 count=\$3 status=none ;;
pwrite) dd of=$IMG oflag=seek_bytes seek=\$4 conv=notrunc status=none ;;
can_write) exit 0 ;;
*) exit 2 ;;
esac
END
attach "$URI"
said 'no flush command' || fail "no warning: $(cat "$ATTACH_ERR")"
assert_eq "$(attr write_cache)" "write back" "write cache"
dd if=/dev/urandom of="$DEV" bs=64k count=4 conv=fsync,notrunc status=none
assert_eq "$(attr discard_max_bytes)" 0 "what can be discarded"
blkdiscard -z -o 64k -l 64k "$DEV"
cmp -n 4194304 "$DEV" "$IMG" || fail "the bytes differ"
away

note "one connection where several are not safe"
serve --filter=multi-conn file "$IMG" multi-conn-mode=disable
attach -C 4 "$URI"
said 'one connection is used, not 4: .*multi-conn' || fail "nobody said it: $(cat "$ATTACH_ERR")"
assert_eq "$(find "/sys/block/ublkb$ID/mq" -mindepth 1 -maxdepth 1 | wc -l)" 1 "queues"
away
device --filter=multi-conn file "$IMG" multi-conn-mode=auto
away

note "the server's errors arrive"
serve --filter=error --filter=nozero file "$IMG" error-pwrite=ENOSPC error-pwrite-rate=100%
attach "$URI"
run dd if=/dev/zero of="$DEV" bs=4k count=1 oflag=direct
assert_match "$ERR" 'No space left' "a write to a full server"
dd if="$DEV" of=/dev/null bs=4k count=1 iflag=direct status=none
is_online || fail "an answered error is no outage"
away
