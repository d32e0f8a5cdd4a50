# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# What the tests of data, memory, filesystems and stress share, beside lib.sh.

# process_alive PID: as in lib.sh, without "$(<file)": where the file is gone that ends a shell that
# has "set -e" and "set -o errtrace", whatever stands behind it (bash 5.2)
process_alive() {
	local stat
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
	[[ ${stat##*) } != [ZX]* ]]
}

# server_pid [ID]: as in lib.sh, by one process: the guest's CPUs are busy where this is asked
server_pid() {
	local link
	link=$(find /proc/[0-9]*/fd -lname "/dev/ublkc${1:-$ID}" -print -quit 2>/dev/null || true)
	[ -n "$link" ] || return 1
	link=${link#/proc/}
	printf '%s\n' "${link%%/*}"
}

# work_hard: keeps $DEV busy in the background until it fails; sets WORKER, and returns when it
# writes
work_hard() {
	local stat
	# whoever looked for partitions may have flushed, and that counts as a write
	read -ra stat <"/sys/block/${DEV#/dev/}/stat"
	nice -n 10 fio --name=work --filename="$DEV" --rw=randrw --bs=4k --direct=1 \
		--ioengine=libaio \
		--iodepth=32 --time_based --runtime=300 >fio.out 2>&1 &
	WORKER=$!
	await 20 more_written "${stat[4]}"
}

# more_written COUNT: $DEV was written more often than that
more_written() {
	local stat
	read -ra stat <"/sys/block/${DEV#/dev/}/stat"
	[ "${stat[4]}" -gt "$1" ]
}

# worker_failed: the one of work_hard ends soon, and in error
worker_failed() {
	local status=0
	# Linux 6.12 may notice a server's death only after 30 s, when every tag was in it
	await 40 gone "$WORKER"
	wait "$WORKER" || status=$?
	[ $status != 0 ] || fail "the worker noticed nothing"
}

# blkmodel OPTIONS…: holds $DEV against a model in memory (tests/tools/blkmodel.c); fails the test
# when they differ
blkmodel() {
	find_tool blkmodel
	"$TOOL" "$@" "$DEV" || fail "$DEV is not as the model, with $*"
}

# find_tool NAME: sets TOOL to the program of tests/tools, built already or compiled here
find_tool() {
	local here=${BASH_SOURCE[0]%/*} candidate
	for candidate in "${UB%/*}/$1" "${UB_BUILD_DIR:-/nowhere}/$1" "$here/../../build/$1" \
		"$TEST_DIR/$1"; do
		if [ -x "$candidate" ]; then
			TOOL=$candidate
			return
		fi
	done
	require cc
	TOOL=$TEST_DIR/$1
	cc -O1 -D_GNU_SOURCE -pthread -o "$TOOL" "$here/../tools/$1.c"
}

# fio_verify NAME OPTIONS…: writes $DEV and reads it back with checksums; fails the test when fio
# finds anything wrong. Two jobs, each bound to a CPU (and so to a queue) and a part of the device.
# Overlapping writes wait for each other: in flight together, a server may execute them in any
# order. (Not with its mmap engine: that finds zeroes where it wrote on a loop device just as well.)
fio_verify() {
	local out=$TEST_DIR/fio.out
	fio --name="$1" --filename="$DEV" --rw=randwrite --bsrange=512-1M --blockalign=512 \
		--verify=crc32c --verify_fatal=1 --do_verify=1 --randrepeat=0 --numjobs=2 \
		--cpus_allowed=0-1 \
		--cpus_allowed_policy=split --size=12M --offset_increment=12M --iodepth=8 \
		--serialize_overlap=1 --group_reporting --output-format=terse \
		--output="$out" "${@:2}" >"$TEST_DIR/fio.err" 2>&1 ||
		fail "fio $*: $(cat "$TEST_DIR/fio.err")"
}

# direct_write FROM-FILE OFFSET: its whole content in one write past the page cache
direct_write() {
	dd if="$1" of="$DEV" bs="$(stat -c %s "$1")" seek="$2" oflag=direct,seek_bytes \
		conv=notrunc status=none
}

# direct_read OFFSET LENGTH: to stdout, past the page cache
direct_read() {
	dd if="$DEV" bs=1M skip="$1" count="$2" iflag=direct,skip_bytes,count_bytes status=none
}

# is_zero OFFSET LENGTH: $DEV holds nothing but zeroes there
is_zero() { direct_read "$1" "$2" | cmp -s -n "$2" - /dev/zero; }

# meminfo KEY: KiB
meminfo() { awk -v key="$1:" '$1 == key { print $2 }' /proc/meminfo; }

# shmem_below KIB: memory that only memory files hold (what a store takes counts here)
shmem_below() { [ "$(meminfo Shmem)" -lt "$1" ]; }

# server_dead ID: nobody has /dev/ublkcID open
server_dead() { ! server_pid "$1" >/dev/null; }

# mount_at DEVICE [OPTIONS]: mounts at $TEST_DIR/mnt, which it prints nothing about
mount_at() {
	mkdir -p "$TEST_DIR/mnt"
	mount "$@" "$TEST_DIR/mnt"
}

# fill_tree DIRECTORY: files of many sizes, with their checksums in DIRECTORY/sums
fill_tree() {
	local size
	mkdir -p "$1/d/e/f"
	for size in 0 1 511 512 4095 4096 4097 65536 1048577 4194304; do
		head -c "$size" /dev/urandom >"$1/d/e/$size"
	done
	cp -r "$1/d/e" "$1/d/copy"
	ln "$1/d/e/4097" "$1/d/hard"
	ln -s e/4097 "$1/d/soft"
	(cd "$1" && find d -type f -exec sha256sum {} + >sums)
	sync -f "$1/sums"
}

# check_tree DIRECTORY
check_tree() {
	(cd "$1" && sha256sum --status -c sums) || fail "files in $1 have changed"
	assert_eq "$(readlink "$1/d/soft")" e/4097 "the symbolic link"
}

# fs_round NAME OPTIONS-OF-MOUNT MKFS… -- CHECK…: makes a filesystem on $DEV, fills it, unmounts,
# checks it, finds all again, trims, and checks once more
fs_round() {
	local name=$1 options=$2 mkfs=()
	shift 2
	while [ "$1" != -- ]; do
		mkfs+=("$1")
		shift
	done
	shift
	"${mkfs[@]}" "$DEV" >mkfs.out 2>&1 || fail "${mkfs[*]}: $(cat mkfs.out)"
	mount_at -o "$options" "$DEV"
	fill_tree mnt
	assert_fails 3 "busy.*mnt" "$UB" detach "$ID"
	umount mnt
	"$@" "$DEV" >check.out 2>&1 || fail "$*: $(cat check.out)"
	mount_at "$DEV"
	check_tree mnt
	rm mnt/d/e/4194304
	dd if=/dev/urandom of=mnt/synced bs=4k count=256 conv=fsync status=none
	sha256sum mnt/synced >synced.sum
	fstrim mnt
	# what a fsync promised is on the device, not only in the cache
	sync mnt/synced
	echo 3 >/proc/sys/vm/drop_caches
	sha256sum --status -c synced.sum || fail "a file has changed"
	umount mnt
	"$@" "$DEV" >check.out 2>&1 || fail "$*: $(cat check.out)"
	assert_eq "$(blkid -p -s TYPE -o value "$DEV")" "$name" "what blkid finds"
}
