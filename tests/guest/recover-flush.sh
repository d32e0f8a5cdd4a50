#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What was written and not synced is at the NBD server when detach says that it is done, also by
# force, and also when the device's server dies just then. The kernel's own STOP of a device that
# can be recovered drops it, and says that all is well.
# kernels: 6.12 7
# push: 7
# timeout: 90
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"

# dirty KEY: 8 MiB in the page cache alone; somebody holds the device open, for the last close would
# write them back
dirty() {
	exec {HOLD}<>"$DEV"
	openssl enc -aes-128-ctr -K "$1" -iv 0 </dev/zero 2>/dev/null | head -c 8M >data || true
	dd if=data of="$DEV" bs=64k conv=notrunc status=none
	[ "$(awk '/^Dirty:/ { print $2 }' /proc/meminfo)" -gt 6000 ] ||
		fail "nothing is dirty: $(cat /proc/meminfo)"
}
arrived() { cmp -s -n 8388608 data "$IMG"; }

# write-back by itself is out of the way
for knob in dirty_writeback_centisecs dirty_expire_centisecs; do
	echo 30000 >/proc/sys/vm/$knob
done
trap 'echo 500 >/proc/sys/vm/dirty_writeback_centisecs
	echo 3000 >/proc/sys/vm/dirty_expire_centisecs' EXIT

make_image 16M
serve file "$IMG"

note "the measure: STOP alone drops it"
attach "$URI"
await 20 has_standby
dirty 01
"$UBT" --ctrl stop "$ID"
exec {HOLD}>&-
await 20 no_device "$ID"
! arrived || fail "the kernel wrote it back: this test shows nothing"

for how in 'verb' 'verb, its server just killed' 'two signals' \
	'two signals, its server just killed'; do
	note "detach by $how"
	attach "$URI"
	await 20 has_standby
	dirty "0$((RANDOM % 9))$((RANDOM % 9))"
	[[ $how != 'two'*killed ]] || kill -STOP "$KEEPER" # it hears of all at once
	[[ $how != *killed ]] || kill -KILL "$(state_of server_pid)"
	if [[ $how == verb* ]]; then
		assert_fails 3 busy "$UB" detach "$ID"
		"$UB" detach --force "$ID"
	else
		kill -TERM "$KEEPER"
		[[ $how == *killed ]] || nap 0.2
		kill -INT "$KEEPER"
		kill -CONT "$KEEPER"
		await 30 gone "$KEEPER"
	fi
	exec {HOLD}>&-
	await 10 no_device "$ID"
	arrived || fail "what was dirty was dropped: $(cat "$ATTACH_ERR")"
done

note "the server is killed while the last close and detach write back"
attach "$URI"
for round in 1 2 3; do
	await 20 has_standby
	dirty "1$round"
	pid=$(state_of server_pid)
	{ nap 0.0$((round * 2)); exec kill -KILL "$pid"; } &
	exec {HOLD}>&-
	"$UB" detach "$ID"
	arrived || fail "detach said that it was done, and what was dirty was dropped"
	await 10 no_device "$ID"
	attach "$URI"
done
await 20 has_standby
detach
unserve
