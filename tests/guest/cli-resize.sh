#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# resize of memory: growing and shrinking under load, what is refused, a filesystem that follows,
# servers and keepers that die meanwhile.
# kernels: 6.12 7
# push: 7
# timeout: 300
# sanitize: all
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-recover.bash"
. "$(dirname "$0")/lib-control.bash"
require mkfs.ext4 e2fsck resize2fs

M=$((1 << 20))

# known_size [NAME]: what the keeper says
known_size() { "$UB" info "${1:-$ID}" --json | jq .size_bytes; }

# is_size BYTES: all agree: the kernel, the keeper, and what is written down for the next one
is_size() {
	assert_eq "$(size_of "$DEV")" "$1" "the kernel's size"
	assert_eq "$(known_size)" "$1" "the keeper's size"
	assert_eq "$(jq '[.. | .size_bytes? // empty] | unique | join(" ") ' \
		"$UBLK_BRIDGE_RUNDIR/ublk$ID/state.json" -r)" "$1" \
		"the sizes in state.json"
}

# fill FROM-MIB COUNT-MIB BYTE, has FROM-MIB COUNT-MIB BYTE: whole MiB of one byte (octal), past the
# cache
bytes() { head -c $(($1 * M)) /dev/zero | tr '\0' "\\$2"; }
fill() { bytes "$2" "$3" | dd of="$DEV" bs=1M seek="$1" oflag=direct iflag=fullblock status=none; }
has() {
	dd if="$DEV" bs=1M skip="$1" count="$2" iflag=direct status=none |
		cmp -s - <(bytes "$2" "$3") ||
		fail "the $2 MiB from MiB $1 on are not all $3"
}

# no_holder: udev and the like have looked at it
no_holder() { ! compgen -G "/proc/[0-9]*/fd/*" | xargs -r readlink 2>/dev/null | grep -qx "$DEV"; }

# settled: it is live, with a server that has not been killed
settled() { [ "$("$UB" info "$ID" --json | jq -r .state)" = live ]; }

if ! kernel_at_least 6.16; then
	attach --mem 16M
	assert_fails 1 \
		'this kernel \(6\.12.*\) cannot change .* of a device: Linux 6\.16 or later can' \
		"$UB" resize "$ID" 32M
	assert_eq "$(ask "ublk$ID" resize '"size_bytes":33554432' | jq -r .errno)" EOPNOTSUPP \
		"the errno"
	is_size $((16 * M))
	detach
	exit 0
fi

note "what is refused"
attach --mem 16M --block-size 4096
assert_fails 2 'resize which device' "$UB" resize
assert_fails 2 "SIZE: .*'many'" "$UB" resize "$ID" many
assert_fails 2 'exclude each other' "$UB" resize "$ID" 32M --to-export
assert_fails 2 'not also' "$UB" resize "$ID" 32M 64M
assert_fails 1 'give the size: only an NBD device has one' "$UB" resize "$ID"
assert_fails 1 'is not a multiple of the block size 4096' "$UB" resize "$ID" 33555456
assert_fails 1 'address space' "$UB" resize "$ID" 1P
assert_fails 2 'a size is above 0' "$UB" resize "$ID" 0
assert_eq "$(ask "ublk$ID" resize '"size_bytes":0' | jq -r .errno)" ERANGE "a size of nothing"
assert_eq "$(ask "ublk$ID" resize '"size_bytes":"4M"' | jq -r .errno)" EINVAL \
	"a size that is no number"
is_size $((16 * M))
run "$UB" resize "$ID" 16M
assert_eq "$STATUS" 0 "the status of nothing to do"
assert_match "$ERR" '/dev/ublkb0 has 16 MiB already$'

note "growing keeps what is there, and adds zeroes"
fill 0 16 141
"$UB" resize "$ID" 48M
is_size $((48 * M))
has 0 16 141
has 16 32 0
fill 47 1 172
has 47 1 172

note "shrinking: who holds it"
exec {held}<"$DEV"
assert_fails 3 \
	"is in use: .*opened by [^ ]+ \(pid $$\).* Shrinking it to 8 MiB destroys .*--force" \
	"$UB" resize "$ID" 8M
is_size $((48 * M))
"$UB" resize "$ID" 8M --force
is_size $((8 * M))
exec {held}<&-
has 0 8 141
note "and growing again: zeroes"
"$UB" resize "$ID" 48M
has 0 8 141
has 8 40 0

note "memory that is given back"
fill 8 40 141
before=$(awk '/^Shmem:/ { print $2 }' /proc/meminfo)
await 10 no_holder
assert_fails 3 'has data behind 4 MiB. Shrinking it destroys .*--force' "$UB" resize "$ID" 4M
is_size $((48 * M))
blkdiscard -f -o 40M "$DEV"
"$UB" resize "$ID" 40M
"$UB" resize "$ID" 4M --force
after=$(awk '/^Shmem:/ { print $2 }' /proc/meminfo)
assert_le $((30 << 10)) $((before - after)) "30 MiB in KiB, of what was given back,"
detach

note "null has a size, too"
attach --backend null:1G
"$UB" resize "$ID" 8G
is_size $((8192 * M))
detach

note "under load"
attach --mem 16M --queues 2
start_stamp
for size in 20M 64M 63M 128M 1T; do
	"$UB" resize "$ID" $size --force
	stamp_goes_on
done
note "a server that dies right after it"
for size in 32M 16M 64M; do
	"$UB" resize "$ID" $size --force
	pid=$(state_of server_pid)
	kill -KILL "$pid"
	await 40 other_server "$pid"
	stamp_goes_on
	is_size $((${size%M} * M))
done
fill 60 4 141
has 60 4 141
"$UB" resize "$ID" 16M --force
stop_stamp
detach

note "a filesystem that follows"
attach --mem 64M
mkfs.ext4 -q "$DEV"
mkdir -p mnt
mount "$DEV" mnt
head -c 20M /dev/urandom >mnt/file
sum=$(sha256sum <mnt/file)
"$UB" resize "$ID" 192M
resize2fs "$DEV" >resize.out 2>&1 || fail "resize2fs: $(cat resize.out)"
[ "$(($(stat -fc '%b * %S' mnt)))" -gt $((150 * M)) ] || fail "the filesystem has not grown"
head -c 100M /dev/zero >mnt/more
sync
assert_fails 3 'mounted on .*mnt' "$UB" resize "$ID" 64M
is_size $((192 * M))
assert_eq "$(sha256sum <mnt/file)" "$sum" "the file's checksum"
umount mnt
e2fsck -fn "$DEV" >fsck.out 2>&1 || fail "e2fsck: $(cat fsck.out)"
detach

# interrupted STEP=ACTION SIZE: a keeper with this step; the resize may fail or not
interrupted() {
	UB_STEP=$1 attach --mem 8M
	fill 0 8 141
	await 20 has_standby
	await 10 no_holder
	run "$UB" resize "$ID" "$2" --force
}

note "UPDATE_SIZE fails: the server settles for the old size"
BRIDGE=$UBT
interrupted update-size=5 16M
assert_eq "$STATUS" 1 "the status"
is_size $((8 * M))
has 0 8 141
detach

for action in server-resize=5 server-resize=kill server-resized=kill; do
	note "growing: $action"
	interrupted $action 16M
	assert_eq "$STATUS" 1 "the status"
	await 40 settled
	is_size $((8 * M))
	has 0 8 141
	detach
done

for size in 16M 4M; do
	for step in resize update-size size-updated; do
		note "the keeper dies at $step to $size"
		interrupted $step=kill $size
		assert_eq "$STATUS" 1 "the status"
		"$UB" recover "$ID"
		now=$(size_of "$DEV")
		[ "$now" = $((8 * M)) ] || { [ $step = size-updated ] &&
			[ "$now" = $((${size%M} * M)) ]; } ||
			fail "the size is $now"
		await 20 has_standby
		is_size "$now"
		pid=$(state_of server_pid)
		kill -KILL "$pid"
		await 40 other_server "$pid"
		is_size "$now"
		has 0 $((now < 8 * M ? 4 : 8)) 141
		"$UB" resize "$ID" 24M
		is_size $((24 * M))
		has $((now < 8 * M ? 4 : 8)) 16 0
		"$UB" detach "$ID"
		await 10 no_device "$ID"
	done
done

note "the keeper and the server die when the kernel has the new size"
interrupted size-updated=kill 16M
kill -KILL "$(state_of server_pid)"
"$UB" recover "$ID"
is_size $((16 * M))
has 0 8 141
has 8 8 0
"$UB" detach "$ID"
await 10 no_device "$ID"
assert_nothing_left
rm -f /tmp/ub-run
no_d_state
