#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An outage of minutes under a mounted filesystem and a writer: both wait, and go on.
# kernels: 6.12 7
# tier: all
# timeout: 420
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq mkfs.ext4 e2fsck
OUTAGE=${OUTAGE:-180} # seconds

# write_files: numbered ones with their checksums, until it is told to stop
write_files() {
	local i
	for ((i = 0; ; i++)); do
		[ ! -e "$TEST_DIR/enough" ] || break
		dd if=/dev/urandom of="$TEST_DIR/mnt/file$((i % 40))" bs=64k count=8 conv=fsync \
			status=none || exit 1
		sha256sum "$TEST_DIR/mnt/file$((i % 40))" >"$TEST_DIR/sum.$((i % 40))" || exit 1
		echo $i >"$TEST_DIR/written.new"
		mv "$TEST_DIR/written.new" "$TEST_DIR/written"
	done
}
written() { [ "$(<"$TEST_DIR/written")" -gt "$1" ]; }

make_image 128M
serve file "$IMG"
attach "$URI"
mkfs.ext4 -q "$DEV"
mount_at -o errors=remount-ro "$DEV"
echo 0 >"$TEST_DIR/written"
write_files &
writer=$!
await 20 written 5
unserve
await 10 is_offline
before=$(<"$TEST_DIR/written")
note "offline, after $before files"
echo 0 >/proc/sys/kernel/hung_task_timeout_secs # they are to wait
end=$((SECONDS + OUTAGE))
while [ $SECONDS -lt $end ]; do
	nap 5
	process_alive $writer || fail "the writer has ended"
	is_offline || fail "it is online without a server"
	assert_le "$(<"$TEST_DIR/written")" $((before + 1)) "files written without a server"
done
serve file "$IMG"
await 30 is_online
await 60 written $((before + 5))
echo 60 >/proc/sys/kernel/hung_task_timeout_secs
: >"$TEST_DIR/enough"
await 60 gone $writer
wait $writer || fail "a write failed"
note "$(<"$TEST_DIR/written") files; $(grep 'online again' "$ATTACH_ERR")"
echo 3 >/proc/sys/vm/drop_caches
cat "$TEST_DIR"/sum.* | sha256sum --quiet -c || fail "a file is not what was written"
umount "$TEST_DIR/mnt"
e2fsck -fn "$DEV" >fsck.out 2>&1 || fail "e2fsck: $(cat fsck.out)"
same_bytes
detach
unserve
