#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A request within what the device announces in sysfs is carried out: at each limit, one block below
# it and one above, at the first block and at the last, for every back end and data path, and where
# a device has moved to a back end that takes less at once.
# kernels: 6.12 7
# push: 7
# timeout: 300
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
. "$(dirname "$0")/lib-data.bash"
. "$(dirname "$0")/lib-life.bash"
require jq nbdkit blkdiscard fallocate fstrim mkswap

GIB=$((1 << 30))

# mark OFFSET: the block there gets bytes of its own
mark() { printf 'marked %s' "$1" | dd of="$DEV" bs="$BLOCK" seek=$(($1 / BLOCK)) conv=sync \
	oflag=direct status=none; }
is_marked() { [ "$(dd if="$DEV" bs="$BLOCK" skip=$(($1 / BLOCK)) count=1 iflag=direct \
	status=none | tr -d '\0')" = "marked $1" ]; }
block_is_zero() {
	dd if="$DEV" bs="$BLOCK" skip=$(($1 / BLOCK)) count=1 iflag=direct status=none |
		cmp -s -n "$BLOCK" - /dev/zero
}

# range OP OFFSET LENGTH: OP is discard, zero (the blocks stay allocated) or punch. Its first and
# its last block have been written, and so have the blocks beside it, which must stay
range() {
	local op=$1 at=$2 len=$3 block
	local -a inside=("$at" $((at + len - BLOCK))) outside=()
	[ "$at" -lt "$BLOCK" ] || outside+=($((at - BLOCK)))
	[ $((at + len)) -ge "$SIZE" ] || outside+=($((at + len)))
	for block in "${inside[@]}" "${outside[@]}"; do mark "$block"; done
	case $op in
	discard) run blkdiscard -f -o "$at" -l "$len" "$DEV" ;;
	zero) run blkdiscard -f -z -o "$at" -l "$len" "$DEV" ;;
	punch) run fallocate -p -o "$at" -l "$len" "$DEV" ;;
	esac
	[ "$STATUS" = 0 ] || fail "$WHAT: $op of $len bytes at $at: $ERR"
	for block in "${outside[@]}"; do
		is_marked "$block" ||
			fail "$WHAT: $op of $len bytes at $at has changed block $block"
	done
	[ "$op" = discard ] && return
	for block in "${inside[@]}"; do
		block_is_zero "$block" || fail \
			"$WHAT: $op of $len bytes at $at has left block $block as it was"
	done
}

# around LIMIT: the lengths to try: the limit, a block less and a block more, as far as they fit
around() {
	local len
	for len in $(($1 - BLOCK)) "$1" $(($1 + BLOCK)); do
		[ "$len" -lt "$BLOCK" ] || [ "$len" -gt "$SIZE" ] || printf '%s\n' "$len"
	done
}

# transfer OFFSET LENGTH: one write of it, and one read
transfer() {
	head -c "$2" "$TEST_DIR/noise" >"$TEST_DIR/part"
	direct_at "$1" "$2" if="$TEST_DIR/part" of="$DEV" oflag=direct,seek_bytes conv=notrunc
	direct_at "$1" "$2" if="$DEV" of="$TEST_DIR/back" iflag=direct,skip_bytes count=1
	cmp -s "$TEST_DIR/part" "$TEST_DIR/back" ||
		fail "$WHAT: $2 bytes at $1 do not read as they were written"
}
direct_at() {
	local at=$1 len=$2 how=seek
	shift 2
	[[ $* != *skip_bytes* ]] || how=skip
	run dd "$@" bs="$len" $how="$at" status=none
	[ "$STATUS" = 0 ] || fail "$WHAT: $len bytes at $at: $ERR"
}

# walk WHAT OP…: every limit of the device, with these operations for the longest of zeroes
walk() {
	local discard zeroes io opt len op at
	WHAT=$1
	shift
	SIZE=$(size_of "$DEV")
	BLOCK=$(queue_attr logical_block_size)
	discard=$(queue_attr discard_max_bytes)
	zeroes=$(queue_attr write_zeroes_max_bytes)
	opt=$(queue_attr optimal_io_size)
	queue_attr max_hw_sectors_kb >"/sys/block/${DEV#/dev/}/queue/max_sectors_kb"
	io=$(($(queue_attr max_sectors_kb) * 1024))
	note "$WHAT: $SIZE bytes; I/O $io, at best $opt; discard $discard, zeroes $zeroes"
	for len in "$BLOCK" "$opt" $(around "$io"); do
		if [ "$len" = 0 ] || [ "$len" -gt "$SIZE" ]; then continue; fi
		transfer 0 "$len"
		transfer $((SIZE - len)) "$len"
	done
	for op in discard "$@"; do
		case $op in
		discard) at=$discard ;;
		*) at=$zeroes ;;
		esac
		[ "$at" -gt 0 ] || continue
		range "$op" 0 "$BLOCK"
		range "$op" $((SIZE - BLOCK)) "$BLOCK"
		[ "$at" -le "$SIZE" ] || at=$SIZE
		for len in $(around "$at"); do
			range "$op" 0 "$len"
			range "$op" $((SIZE - len)) "$len"
			[ $((len + BLOCK)) -gt "$SIZE" ] || range "$op" "$BLOCK" "$len"
		done
	done
	no_errors
}

# no_errors: neither we nor the kernel count one
no_errors() {
	"$UB" stats "$ID" --json | jq -e '[.operations[].errors] | add == 0' >/dev/null ||
		fail "$WHAT: $("$UB" stats "$ID" --json |
			jq -c '.operations | map_values(.errors)')"
	! dmesg | sed "1,/$MARK/d" | grep -E "(invalid|I/O|critical).* error, dev ${DEV#/dev/}," ||
		fail "$WHAT: the kernel's log has errors"
}

MARK=data-limits-begins-$$
echo "$MARK" >/dev/kmsg
head -c 33M /dev/urandom >"$TEST_DIR/noise"

for path in copy get-data user-copy; do
	attach --mem 200M --max-io 1M --data-path $path
	walk "memory, $path" zero punch
	detach
done
attach --mem 32M --block-size 4096
walk "memory, blocks of 4096" zero punch
detach

# null keeps nothing, and carries out all the same
for path in copy get-data user-copy; do
	attach --backend null:4G --data-path $path
	WHAT="null, $path" BLOCK=512 SIZE=$(size_of "$DEV")
	for at in 0 $BLOCK; do
		for len in $(around "$(queue_attr discard_max_bytes)"); do
			blkdiscard -f -o "$at" -l "$len" "$DEV" ||
				fail "$WHAT: discard of $len bytes at $at"
		done
		for len in $(around "$(queue_attr write_zeroes_max_bytes)"); do
			blkdiscard -f -z -o "$at" -l "$len" "$DEV" ||
				fail "$WHAT: zeroes of $len bytes at $at"
		done
	done
	blkdiscard -f "$DEV"
	blkdiscard -f -z "$DEV"
	no_errors
	detach
done

# The largest requests that there are. In memory, zeroes take no room but where the blocks stay
# allocated.
serve memory size=$((2 * GIB + 4096))
for path in copy get-data user-copy; do
	attach --data-path $path "$URI"
	walk "NBD, $path" zero punch
	detach
done
attach "$URI"
note "moved into memory, with the limits that it had"
"$UB" migrate "$ID" --mem "$SIZE" 2>"$TEST_DIR/move.err" >/dev/null ||
	fail "migrate: $(cat "$TEST_DIR/move.err")"
walk "NBD that moved to memory" punch
note "and back"
"$UB" migrate "$ID" "$URI" 2>"$TEST_DIR/move.err" >/dev/null ||
	fail "migrate: $(cat "$TEST_DIR/move.err")"
walk "memory that moved to NBD" zero punch
detach
unserve
serve --filter=nozero memory size=$((GIB + 8192))
attach "$URI"
walk "NBD without zeroes"
detach
unserve

note "first and last GiB of 8 EiB"
serve memory size=$(((1 << 62) - 512 + (1 << 62)))
attach "$URI"
WHAT="8 EiB" SIZE=$(size_of "$DEV") BLOCK=512
for op in discard zero punch; do
	range $op 0 $GIB
	range $op $((SIZE - GIB)) $GIB
done
no_errors
detach
unserve

for size in 1G 2G 40G; do
	note "$size: the usual tools"
	WHAT=$size
	serve memory size=$size
	attach "$URI"
	SIZE=$(size_of "$DEV") BLOCK=512
	blkdiscard -f "$DEV"
	mark 0 && mark $((SIZE - 512)) && blkdiscard -f -z "$DEV"
	for block in 0 $((SIZE - 512)); do
		block_is_zero "$block" || fail "$size: block $block is not zeroes"
	done
	fallocate -z -l "$SIZE" "$DEV"
	fallocate -p -l "$SIZE" "$DEV"
	mkswap -q "$DEV" 2>/dev/null || mkswap "$DEV" >/dev/null
	swapon --discard "$DEV"
	swapoff "$DEV"
	for fs in ext4 xfs btrfs; do
		type -P mkfs.$fs >/dev/null || continue
		[ $fs = ext4 ] || modprobe -q $fs || continue
		case $fs in
		ext4) mkfs.ext4 -q -F -E discard,lazy_itable_init=1,lazy_journal_init=1 "$DEV" ;;
		*) mkfs.$fs -q -f "$DEV" ;;
		esac
		mkdir -p mnt
		mount "$DEV" mnt
		run fstrim -v mnt
		assert_match "$STATUS $OUT$ERR" '^0 .*trimmed' "$size: fstrim on $fs"
		umount mnt
	done
	no_errors
	detach
	unserve
done
assert_nothing_left
