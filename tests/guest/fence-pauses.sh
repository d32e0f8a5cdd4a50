#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# How long I/O stands still: the longest latency that fio sees of 32 random 4k writes in flight, and
# of one 8k block that is rewritten and flushed each time, while the NBD server is killed and comes
# back after a second, while our server is killed, and by an upgrade. It measures and prints; it
# fails only when I/O fails. The servers are direct, and behind qemu-nbd. ROUNDS: how often each
# (3).
# kernels: 6.12 7
# push: 7
# tier: all
# timeout: 1500
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require fio jq qemu-nbd
ROUNDS=${ROUNDS:-3}

# start_server nbdkit|qemu: on $SOCK, of the image
start_server() {
	if [ "$1" = nbdkit ]; then
		serve file "$IMG"
	else
		rm -f "$SOCK"
		qemu-nbd -e 16 -t -k "$SOCK" -f raw --cache=writeback "$IMG" 2>>"$NBD_LOG" &
		SERVER=$!
		await 10 test -S "$SOCK"
		disown "$SERVER" # its end is nobody's news
	fi
}

# load random|block: sets FIO; its result is in fio.json
load() {
	local options=(--rw=randwrite --bs=4k --iodepth=32 --size=16M)
	[ "$1" = random ] || options=(--rw=write --bs=8k --iodepth=1 --size=8k --fsync=1)
	fio --name=load --filename="$DEV" --direct=1 --ioengine=libaio "${options[@]}" \
		--time_based --runtime=600 --allow_file_create=0 --output-format=json \
		--output=fio.json >/dev/null 2>&1 </dev/null &
	FIO=$!
	await 60 more_written 100
}

# longest: the longest latency of the load that has ended, in ms
longest() {
	kill -TERM "$FIO"
	await 60 gone "$FIO"
	wait "$FIO" || true
	sed -n '/^{/,$p' fio.json | jq -e '[.jobs[].error] | add == 0' >/dev/null ||
		fail "the load failed: $(cat fio.json)"
	sed -n '/^{/,$p' fio.json |
		jq '[.jobs[] | .write.lat_ns.max, .sync.lat_ns.max // 0] | max / 1e6 | floor'
}

# happens EVENT SERVER
happens() {
	local pid
	case $1 in
	nothing) nap 3 ;;
	outage)
		unserve
		nap 1
		start_server "$2"
		await 60 is_online
		;;
	killed)
		await 30 has_standby
		pid=$(state_of server_pid)
		kill -KILL "$pid"
		await 60 other_server "$pid"
		;;
	upgrade)
		await 30 has_standby
		"$UB" upgrade "$ID" >/dev/null 2>>upgrade.err ||
			note "upgrade ended with $?: $(tail -n 1 upgrade.err)"
		;;
	esac
	nap 2
}

for server in nbdkit qemu; do
	for load in random block; do
		for event in nothing outage killed upgrade; do
			all=()
			for ((i = 0; i < ROUNDS; i++)); do
				make_image 16M
				start_server $server
				attach "$URI"
				load $load
				happens $event $server
				all+=("$(longest)")
				"$UB" detach "$ID" 2>/dev/null || fail "detach ended with $?"
				await 10 no_device "$ID"
				unserve
			done
			note "$server, $load, $event: longest pause ${all[*]} ms"
		done
	done
done
no_d_state
