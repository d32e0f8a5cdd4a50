#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A mounted device under load moves from memory to a server, to another server, and back into
# memory: no error, every byte is there, nothing of what the destination held before is left, and
# the old side is left alone.
# kernels: 6.12 7
# push: 7
# timeout: 180
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-migrate.bash"
require fio jq nbdcopy mkfs.ext4 e2fsck

# load_lives: fio has found nothing so far
load_lives() { process_alive "$FIO" || fail "fio: $(tail -n 5 fio.out)"; }

# left_alone N: nothing is written there any more, though there is a load; nobody misses its server
left_alone() {
	local sum
	sum=$(side_sum "$1")
	nap 1
	load_lives
	[ "$(side_sum "$1")" = "$sum" ] || fail "side $1 is still written"
	kill_side "$1"
	nap 0.5
	load_lives
	assert_eq "$(health)" online "the health without side $1"
}

make_side 1 32M garbage
make_side 2 32M
serve_side 1
serve_side 2
attach --mem 32M --queues 2
assert_eq "$(phase)" none "the phase of no migration"
mkfs.ext4 -q "$DEV"
mount_at "$DEV"
fill_tree mnt
fio --name=w --directory=mnt --rw=randwrite --bsrange=1k-64k --size=2M --numjobs=2 \
	--ioengine=psync --fallocate=none \
	--fsync=16 --verify=crc32c --verify_fatal=1 --do_verify=1 --serialize_overlap=1 \
	--loops=1000 --output=fio.out \
	>/dev/null 2>&1 &
FIO=$!
await 20 more_written 100

note "memory to NBD"
move "$(side_uri 1)"
assert_match "$MOVED" "migrated to nbd\\+unix:.*side1" "what migrate says"
assert_eq "$(backend)" nbd "the back end"
assert_eq "$("$UB" info "$ID" --json | jq -r '.migration, .last_migration.result' | tr '\n' ' ')" \
	"null moved " "what info says"
[ "$(jq -r .backend "$UBLK_BRIDGE_RUNDIR/ublk$ID/state.json")" = nbd ] ||
	fail "state.json has the old back end"
load_lives

note "NBD to NBD"
move "$(side_uri 2)"
assert_eq "$(backend)" nbd "the back end"
left_alone 1

note "NBD to memory"
move --mem 32M
assert_eq "$(backend)" mem "the back end"
left_alone 2
check_tree mnt

note "the load ends, and all is compared"
kill -TERM "$FIO"
await 60 gone "$FIO"
! grep -qE 'verify:|error=' fio.out || fail "fio: $(tail -n 5 fio.out)"
umount mnt
e2fsck -fn "$DEV" >fsck.out 2>&1 || fail "e2fsck: $(cat fsck.out)"
sum=$(checksum "$DEV")
serve_side 1
move "$(side_uri 1)"
same_as 1
assert_eq "$(checksum "$DEV")" "$sum" "the bytes after the move"
mount_at "$DEV"
check_tree mnt
umount mnt
same_as 1
note "$(pauses_of_moves)"
sum=$(checksum "$DEV")
detach
assert_eq "$(head -c 32M "$(side_image 1)" | sha256sum | cut -d ' ' -f 1)" "$sum" \
	"the image after the end"
kill_side 1
no_d_state
