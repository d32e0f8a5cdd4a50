#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Filesystems on an NBD device whose server is killed and started again while they are worked on:
# files and structure are whole.
# kernels: 6.12 7
# push: 6.12
# timeout: 200
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq mkfs.ext4 mkfs.xfs

make_image 320M
for fs in ext4 xfs; do
	note "$fs"
	serve file "$IMG"
	attach "$URI"
	wipefs -qa "$DEV"
	"mkfs.$fs" -q "$DEV"
	mkdir -p "$TEST_DIR/mnt"
	mount "$DEV" "$TEST_DIR/mnt"
	(
		for ((i = 0; i < 60; i++)); do
			dd if=/dev/urandom of="$TEST_DIR/mnt/file$i" bs=64k count=8 conv=fsync \
				status=none || exit 1
			sha256sum "$TEST_DIR/mnt/file$i" >>"$TEST_DIR/sums.$fs"
		done
	) &
	worker=$!
	for ((round = 0; round < 4; round++)); do
		nap 0.7
		unserve
		nap 0.5
		serve file "$IMG"
	done
	await 120 gone $worker
	wait $worker || fail "$fs: a write failed"
	echo 3 >/proc/sys/vm/drop_caches
	sha256sum --quiet -c "$TEST_DIR/sums.$fs" || fail "$fs: a file is not what was written"
	umount "$TEST_DIR/mnt"
	if [ $fs = ext4 ]; then
		e2fsck -fn "$DEV" >/dev/null || fail "e2fsck: $(e2fsck -fn "$DEV")"
	else
		xfs_repair -n "$DEV" 2>/dev/null >&2 ||
			fail "xfs_repair: $(xfs_repair -n "$DEV" 2>&1)"
	fi
	detach
	unserve
done
