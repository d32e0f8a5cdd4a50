#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What the processes behind a device are to the machine: safe from the OOM killer, locked in memory,
# deaf to nothing that they need, with no descriptor of whoever started them, in a mount namespace
# of their own that holds no one's mounts; threads on the CPUs of their queues; small; and asleep
# when idle.
# kernels: 6.12 7
# push: 7
# timeout: 90
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

field() { awk -v key="$2:" '$1 == key { print $2; exit }' "/proc/$1/status"; }

# a mount that must not be kept busy, and a descriptor that must not be inherited
mkdir other
mount -t tmpfs other other
trap 'umount -q other' EXIT
exec 7>inherited

cpus=$(nproc)
attach --mem 64M --queues "$cpus" --depth 64 --data-path copy --max-io 64K
server=$(child_of "$KEEPER")
arena=$((cpus * 64 * 64)) # KiB

for pid in $KEEPER $server; do
	assert_eq "$(<"/proc/$pid/oom_score_adj")" -1000 "oom_score_adj of $pid"
	assert_eq "$(readlink "/proc/$pid/cwd")" / "the working directory of $pid"
	[ "$(field "$pid" VmLck)" -gt 1000 ] ||
		fail "process $pid has $(field "$pid" VmLck) KiB locked"
done
# the buffers are locked, the store is not
locked=$(field "$server" VmLck)
[ "$locked" -ge $arena ] || fail "the server has $locked KiB locked, its buffers are $arena"
dd if=/dev/zero of="$DEV" bs=1M count=48 oflag=direct status=none
assert_le $(($(field "$server" VmLck) - locked)) 4096 \
	"the growth of locked memory by writing, in KiB,"
assert_eq "$(field "$server" THP_enabled)" "$(field $$ THP_enabled)" "THP"

# PR_SET_IO_FLUSHER shows as a flag of each task: PF_MEMALLOC_NOIO (0x80000) and PF_LOCAL_THROTTLE
# (0x100000)
nr=0
for task in "/proc/$server/task"/* "/proc/$KEEPER/task/$KEEPER"; do
	read -r stat <"$task/stat"
	# shellcheck disable=SC2086 # words
	set -- ${stat##*) }
	[ $(($7 & 0x180000)) = $((0x180000)) ] || fail "$(cat "$task/comm") is no I/O flusher: $7"
	nr=$((nr + 1))
done
[ $nr -gt "$cpus" ] || fail "only $nr threads"

# threads where the kernel sends their requests
for ((q = 0; q < cpus; q++)); do
	wanted=$(tr -d ' ' <"/sys/block/${DEV#/dev/}/mq/$q/cpu_list")
	found=
	for task in "/proc/$server/task"/*; do
		[ "$(cat "$task/comm")" != ublk-q$q ] ||
			found=$(awk '$1 == "Cpus_allowed_list:" { print $2 }' "$task/status")
	done
	assert_eq "$found" "$wanted" "the CPUs of queue $q"
done

# descriptors: 0-2, the keeper's socket and what the device needs
for link in "/proc/$server/fd"/*; do
	target=$(readlink "$link")
	case $target in
	/dev/null | "$TEST_DIR"/attach.*.err | socket:* | anon_inode:* | /dev/ublkc0 | /memfd:*) ;;
	*) fail "the server holds $target" ;;
	esac
done
[ "$(find "/proc/$server/fd" -type l | wc -l)" -le $((16 + 3 * cpus)) ] ||
	fail "the server holds $(ls -l "/proc/$server/fd")"

# mounts
[ "$(readlink "/proc/$server/ns/mnt")" != "$(readlink /proc/self/ns/mnt)" ] ||
	fail "the server shares the mount namespace"
! grep -q " $TEST_DIR/other " "/proc/$server/mountinfo" || fail "the server holds a mount of others"
umount other
trap - EXIT

# small: without the store (untouched pages of it are mapped, written ones count as shmem) and the
# buffers
rss=0
for pid in $KEEPER $server; do
	own=$(($(field "$pid" RssAnon) + $(field "$pid" RssFile)))
	note "process $pid: $own KiB without shared memory"
	rss=$((rss + own))
done
note "both: $((rss - arena)) KiB beyond buffers of $arena KiB"
assert_le $((rss - arena)) 12288 "the resident memory of both, in KiB,"

# asleep; but for the worker of the keeper's control ring, which Linux 6.12 itself wakes every 5 s
switches() {
	local task
	for task in "/proc/$server/task"/* "/proc/$KEEPER/task"/*; do
		[[ $(<"$task/comm") == iou-wrk-* ]] ||
			awk '/^voluntary_ctxt/ { print $2 }' "$task/status"
	done | awk '{ n += $1 } END { print n }'
}
asleep() {
	local before
	before=$(switches)
	nap 3
	[ "$(switches)" = "$before" ]
}
wait_for 20 asleep || fail "an idle device wakes up within any 3 s"
detach
exec 7>&-
assert_nothing_left
