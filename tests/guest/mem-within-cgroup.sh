#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A daemon in a control group with a limit of memory: the store ends with ENOSPC before the limit
# does harm, nobody is killed, and after a discard there is room.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"

[ -e /sys/fs/cgroup/cgroup.controllers ] || skip "no control groups of version 2"
grep -qw memory /sys/fs/cgroup/cgroup.controllers || skip "no memory controller"
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
GROUP=/sys/fs/cgroup/ub-limited.$$
mkdir "$GROUP"
# shellcheck disable=SC2317 # at the end
leave() {
	echo 1 >"$GROUP/cgroup.kill"
	wait_for 5 rmdir "$GROUP" || note "$GROUP stays"
}
trap leave EXIT
echo 256M >"$GROUP/memory.max"
echo 0 >"$GROUP/memory.swap.max" 2>/dev/null || true
cat >limited <<END
#!/bin/bash
echo \$\$ >$GROUP/cgroup.procs
exec $UB "\$@"
END
chmod +x limited
BRIDGE=$TEST_DIR/limited

nobody_killed() {
	process_alive "$KEEPER" || fail "the keeper died"
	process_alive "$SERVER" || fail "the server died"
	grep -qx 'oom_kill 0' "$GROUP/memory.events" ||
		fail "killed: $(tr '\n' ' ' <"$GROUP/memory.events")"
}

for path in copy user-copy; do
	note "$path"
	attach --mem 2G --data-path "$path"
	SERVER=$(server_pid)
	grep -qx "$SERVER" "$GROUP/cgroup.procs" || fail "the server is not in the group"
	shmem=$(meminfo Shmem)
	run dd if=/dev/zero of="$DEV" bs=1M oflag=direct conv=notrunc
	assert_eq "$STATUS" 1 "the writer's status"
	assert_match "$ERR" 'No space left on device' "what the writer is told"
	nobody_killed
	stored=$(($(meminfo Shmem) - shmem))
	[ $stored -gt $((160 * 1024)) ] || fail "it gave up with $stored KiB of 256 MiB"
	dd if="$DEV" of=/dev/null bs=1M iflag=direct status=none count=512

	note "$path: after a discard there is room"
	blkdiscard "$DEV"
	dd if=/dev/zero of="$DEV" bs=1M count=128 oflag=direct conv=notrunc status=none
	nobody_killed

	note "$path: small writes all over"
	blkdiscard "$DEV"
	run fio --name=small --filename="$DEV" --rw=randwrite --bs=4k --direct=1 --ioengine=libaio \
		--iodepth=16 --size=2G --io_size=300M
	[ "$STATUS" != 0 ] || fail "300 MiB were stored in 256"
	nobody_killed
	blkdiscard "$DEV"
	detach
done
