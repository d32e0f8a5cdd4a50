#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The server of an NBD device needs no new page: all that it executes is locked, each thread is an
# I/O flusher, and neither I/O nor an outage makes a thread of it fault, under TLS either.
# kernels: 6.12 7
# push: 7
# timeout: 150
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq psktool

# faults: FAULTS, the page faults so far of each thread that I/O or a reconnect passes through
faults() {
	local task stat
	FAULTS=''
	for task in "/proc/$BRIDGE_SERVER/task"/*; do
		read -r stat <"$task/stat"
		# shellcheck disable=SC2086 # words
		set -- ${stat##*) }
		case $(<"$task/comm") in
		ublk-q* | ublk-connector) FAULTS+="$(<"$task/comm"):${8}+${10} " ;;
		esac
	done
}

# unlocked: what the server has in memory and not locked: but the device's and the statistics'
# shared pages, the kernel's own, and the Unicode tables
unlocked() {
	awk '/^[0-9a-f]+-[0-9a-f]+ / { perms = $2; name = $6 }
		/^Pss:/ { pss = $2 } # what Locked counts by
		/^Locked:/ && pss > $2 && perms ~ /p$/ && name !~ /icudata|^\[v/ {
			print name, perms, pss, $2 }' \
		"/proc/$BRIDGE_SERVER/smaps"
}

all_flushers() {
	local task stat nr=0
	for task in "/proc/$BRIDGE_SERVER/task"/*; do
		read -r stat <"$task/stat"
		# shellcheck disable=SC2086 # words
		set -- ${stat##*) }
		[ $(($7 & 0x180000)) = $((0x180000)) ] ||
			fail "$(<"$task/comm") is no I/O flusher: $7"
		nr=$((nr + 1))
	done
	[ $nr -ge 3 ] || fail "only $nr threads"
}

work() {
	fio --name=w --filename="$DEV" --rw=randrw --bsrange=4k-256k --ioengine=libaio \
		--iodepth=32 --direct=1 \
		--fsync=16 --size=16M --io_size=24M --norandommap >fio.out 2>&1 ||
		fail "fio: $(tail -n 5 fio.out)"
}

make_image 32M
psktool -u alice -p "$TEST_DIR/keys.psk" >/dev/null
for how in plain tls; do
	note "$how"
	options=() uri=$URI
	if [ $how = tls ]; then
		options=(--tls=require --tls-psk="$TEST_DIR/keys.psk")
		uri="nbds+unix://alice@/?socket=$SOCK&tls-psk-file=$TEST_DIR/keys.psk"
	fi
	serve "${options[@]}" file "$IMG"
	attach --connections 2 "$uri"
	BRIDGE_SERVER=$(server_pid)
	all_flushers
	[ -z "$(unlocked)" ] || fail "not locked: $(unlocked)"
	faults
	before=$FAULTS
	work
	faults
	assert_eq "$FAULTS" "$before" "$how: the faults of each thread after I/O"
	for ((round = 0; round < 3; round++)); do
		written=$(awk '{ print $5 }' "/sys/block/${DEV#/dev/}/stat")
		work &
		worker=$!
		await 20 more_written "$written"
		unserve
		await 10 is_offline
		serve "${options[@]}" file "$IMG"
		await 60 gone $worker
		wait $worker || fail "I/O failed"
	done
	await 10 is_online
	faults
	assert_eq "$FAULTS" "$before" "$how: the faults of each thread after three outages"
	same_bytes
	detach
	unserve
done
