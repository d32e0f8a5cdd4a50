#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Servers that lose what they had not flushed: a write that was not yet acknowledged as durable is
# durable when it is, though a part of it was answered before the loss; and what was acknowledged
# and not flushed, which only the application could send again, is not lost in silence.
# kernels: 6.12 7
# push: 7
# timeout: 180
# The stories run at once, each a line for run_stories at the end.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-fence.bash"
require qemu-img

# volatile_disk [MAX]: serves a disk with a volatile cache and without FUA, for requests of at most
# MAX bytes
volatile_disk() {
	[ -e "$CELL/volatile.img" ] || cp "$DISK" "$CELL/volatile.img"
	rm -f "$CELL/sock" "$CELL/old/dead"
	SLOW_VOLATILE=$CELL/volatile.img SLOW_MAX=${1:-} serve_disk old -U "$CELL/sock"
}

# power_fails: what was not flushed is gone, and so is what it was doing
power_fails() {
	: >"$CELL/old/dead"
	kill -KILL "$DISK_PID"
	let_land old
	await 10 gone "$DISK_PID"
	rm -f "$CELL"/old/hold.*
	cp "$DISK" "$CELL/volatile.img"
}

# durable MARK: an O_DSYNC write of one block, and the power fails between its WRITE and its FLUSH
durable() {
	make_disk 1M
	volatile_disk
	attach "nbd+unix:///?socket=$CELL/sock"
	hold old flush
	stamp_behind A "$BLOCK" oflag=direct,dsync
	FIRST=$WRITER
	await 20 is_held old flush
	disk_has old 'land A *' || fail "the WRITE has not come before the FLUSH"
	power_fails
	volatile_disk
	until_then "$FIRST" $((SECONDS + 60)) || fail "LATE: the write is not acknowledged"
	acknowledged "$FIRST"
	assert_eq "$(on_disk)" A "LOST: acknowledged as durable: A; on the disk"
	detach
}

# parts: an O_DSYNC write that is sent in two parts, as the server takes less than when the device
# was made; the power fails between them
parts() {
	make_disk 1M
	volatile_disk 131072
	attach --fence-timeout 2s "nbd+unix:///?socket=$CELL/sock"
	power_fails
	volatile_disk 65536
	await 30 is_online
	# the second part, which begins with another byte
	hold old B
	{
		head -c 65536 /dev/zero | tr '\0' A
		head -c 65536 /dev/zero | tr '\0' B
	} >"$CELL/128k"
	dd if="$CELL/128k" of="$DEV" bs=128k count=1 seek=2 oflag=direct,dsync status=none \
		2>"$CELL/stamp.err" &
	FIRST=$!
	await 20 is_held old B
	wait_for 5 disk_has old 'land A *' || note "the first part was not answered before"
	power_fails
	volatile_disk 65536
	until_then "$FIRST" $((SECONDS + 60)) || fail "LATE: the write is not acknowledged"
	acknowledged "$FIRST"
	assert_eq "$(on_disk 64)$(on_disk 80)" AB "LOST: acknowledged as durable: AB; on the disk"
	detach
}

# loud SERVER: 16 blocks are acknowledged and not flushed, the server is killed, and the next fsync
# succeeds: that is said, and counted
loud() {
	local i
	make_disk 4M
	[ "$1" != qcow2 ] || qemu-img create -q -f qcow2 "$CELL/disk.qcow2" 4M
	serve_loser "$1"
	attach "nbd+unix:///?socket=$CELL/sock"
	sync "$DEV"
	for ((i = 0; i < 16; i++)); do stamp A $((BLOCK + i)); done
	kill -KILL "$LOSER"
	await 10 gone "$LOSER"
	serve_loser "$1"
	await 30 is_online
	sync "$DEV" || fail "the fsync failed"
	note "after the fsync, block $BLOCK has \"$(seen | tr -d '\0')\""
	said 'not flushed' || fail "SILENT: the log says: $(cat "$ATTACH_ERR")"
	"$UB" info "$ID" --json >"$CELL/info"
	jq -e '.losses | .count > 0 and .bytes >= 65536 and .last_unix' "$CELL/info" >/dev/null ||
		fail "SILENT: info --json says: $(jq -c .losses "$CELL/info")"
	note "the losses: $(jq -c .losses "$CELL/info")"
	jq -e '.unflushed_bytes == 0' "$CELL/info" >/dev/null ||
		fail "after a flush there are unflushed bytes: $(jq .unflushed_bytes "$CELL/info")"
	stamp B "$BLOCK"
	"$UB" info "$ID" --json | jq -e '.unflushed_bytes >= 4096' >/dev/null ||
		fail "a write is not counted as unflushed"
	detach
}

serve_loser() {
	rm -f "$CELL/sock" "$CELL/loser.pid"
	if [ "$1" = qcow2 ]; then
		qemu-nbd -f qcow2 -t -k "$CELL/sock" --cache=writeback "$CELL/disk.qcow2" \
			2>>"$NBD_LOG" </dev/null &
		LOSER=$!
	else
		nbdkit -U "$CELL/sock" -P "$CELL/loser.pid" --filter=cache file "$DISK" \
			2>>"$NBD_LOG"
		await 20 test -s "$CELL/loser.pid"
		LOSER=$(<"$CELL/loser.pid")
	fi
	echo "$LOSER" >>"$CELL/pids"
	await 20 test -S "$CELL/sock"
}

run_stories 4 <<END
${STORIES:-durable
parts
loud nbdkit
loud qcow2}
END
no_d_state
