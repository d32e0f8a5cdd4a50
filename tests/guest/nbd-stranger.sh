#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What comes back is compared with what the device was made from: not a byte goes to another export,
# what differs is said, and when the right one is there work goes on.
# kernels: 6.12 7
# push: 6.12
# timeout: 120
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq

make_image 16M
other=$TEST_DIR/other.img
truncate -s 16M "$other"
# the same bytes by a server that can do less
lesser=$TEST_DIR/lesser
cat >"$lesser" <<END
case \$1 in
get_size) echo 16M ;;
can_write) exit 0 ;;
pread) dd if=$other iflag=skip_bytes,count_bytes skip=\$4 count=\$3 status=none ;;
pwrite) dd of=$other oflag=seek_bytes seek=\$4 conv=notrunc status=none ;;
*) exit 2 ;;
esac
END
chmod +x "$lesser"

# refused REGEX ARGUMENTS…: this server instead is not taken, and REGEX is why
refused() {
	local regex=$1
	shift
	unserve
	serve "$@"
	await 20 said "another export answers: .*$regex"
	is_offline || fail "its health is $(health), not offline"
	: >"$ATTACH_ERR"
}

serve --filter=exportname file "$IMG" exportdesc=fixed:right
attach "$URI"
dd if=/dev/zero of="$DEV" bs=4k count=1 oflag=direct status=none &
wait $!
refused 'it has 1 MiB \(1048576 bytes\) and the device 16 MiB' memory 1M
dd if=/dev/urandom of="$DEV" bs=4k count=16 oflag=direct status=none &
writer=$!
refused 'it is read only' -r file "$other"
refused 'its minimum block is 4096' --filter=blocksize-policy file "$other" blocksize-minimum=4096 \
	blocksize-error-policy=error
refused "its description is 'wrong' and was 'right'" --filter=exportname file "$other" \
	exportdesc=fixed:wrong
refused 'it has no flush; it has no FUA; it has no trim' --filter=exportname sh "$lesser" \
	exportdesc=fixed:right
refused 'it has no write-zeroes' --filter=exportname --filter=nozero file "$other" \
	exportdesc=fixed:right
[ "$(sha256sum <"$other")" = "$(head -c 16M /dev/zero | sha256sum)" ] ||
	fail "bytes went to another export"
process_alive $writer || fail "a write came to its end"

note "a finer block, and larger, is no stranger"
unserve
truncate -s 20M "$IMG"
serve --filter=exportname --filter=blocksize-policy file "$IMG" exportdesc=fixed:right \
	blocksize-minimum=1 blocksize-preferred=4096 blocksize-maximum=64k \
	blocksize-error-policy=error
await 20 is_online
wait $writer || fail "the write failed"
said 'has grown from 16777216 to 20971520' ||
	fail "nothing was said of the growth: $(cat "$ATTACH_ERR")"
note "a smaller maximum: requests are split"
dd if=/dev/urandom of="$DEV" bs=1M count=8 oflag=direct status=none
blkdiscard -z -o 8M -l 4M "$DEV"
same_bytes
detach
unserve
