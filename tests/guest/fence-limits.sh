#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What bounds the waiting: who ends a fence (the verb, a command, another time), what waits for it
# (detach), and what must not be taken for an outage (a server of ours that is new, one connection
# of two) or for a dead server (a request that takes long).
# kernels: 6.12 7
# push: 7
# timeout: 300
# The stories run at once, each a line for run_stories at the end.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-fence.bash"

# waiting_b SERVER OPTIONS…: a device whose server was killed with A in flight; A is acknowledged,
# the first A is still held, and B waits for it
waiting_b() {
	make_disk 1M
	address "$1" unix plain 0
	front "$1" old
	attach "${@:2}" "${TARGET[@]}"
	hold old A
	stamp_behind A
	FIRST=$WRITER
	await 20 is_held old A
	our_server_dies
	until_then "$FIRST" $((SECONDS + 30)) ||
		fail "LATE: A is not sent again while its first copy may still land"
	acknowledged "$FIRST"
	stamp_behind B
	SECOND=$WRITER
	until_then "$SECOND" $((SECONDS + 3)) && fail "STALE: B does not wait for the first A"
	return 0
}

# b_goes_on SECONDS: B is acknowledged by then; the old server writes no more, as was said
b_goes_on() {
	until_then "$SECOND" $((SECONDS + $1)) || fail "LATE: B still waits"
	acknowledged "$SECOND"
	: >"$CELL/old/dead"
	let_land old
	assert_newest B
	detach
}

# fence KEY: of info
fence() { "$UB" info "$ID" --json | jq -r ".fence.$1"; }

# word: somebody says that the old server writes no more
word() {
	waiting_b qemu --fence-timeout 300s
	assert_eq "$(fence policy)" time "the policy"
	assert_eq "$(fence timeout_ms)" 300000 "the fence's time"
	[ "$(fence ranges)" -ge 1 ] || fail "info has no range, but $(fence ranges)"
	[ "$(fence bytes)" -ge 4096 ] || fail "the range has $(fence bytes) bytes"
	[ "$(fence oldest_ms)" -ge 2000 ] || fail "the oldest is $(fence oldest_ms) ms old"
	"$UB" fenced "$ID" || fail "fenced ended with $?"
	assert_eq "$(fence ranges)" 0 "the ranges that are left"
	b_goes_on 15
}

# command_says STATUS: a command knows. What it is given is told, and not looked at here
command_says() {
	# shellcheck disable=SC2016 # the command's own variables
	printf '#!/bin/sh\n(env; echo "$0 $*") >"%s"\nexit %s\n' "$CELL/env" "$1" >"$CELL/command"
	chmod +x "$CELL/command"
	if [ "$1" = 0 ]; then
		make_disk 1M
		address qemu unix plain 0
		front qemu old
		attach --fence-timeout 300s --fence-command "$CELL/command" "${TARGET[@]}"
		hold old A
		stamp_behind A
		FIRST=$WRITER
		await 20 is_held old A
		our_server_dies
		until_then "$FIRST" $((SECONDS + 30)) || fail "LATE: A is not sent again"
		acknowledged "$FIRST"
		stamp_behind B
		SECOND=$WRITER
		b_goes_on 30
	else
		waiting_b qemu --fence-timeout 300s --fence-command "$CELL/command"
		"$UB" fenced "$ID" || fail "fenced ended with $?"
		b_goes_on 15
	fi
	[ -s "$CELL/env" ] || fail "the command was not run"
	grep -q "$FRONT_SOCKET" "$CELL/env" ||
		fail "the command was not told where the server is: $(cat "$CELL/env")"
}

# another_time: set --fence-timeout, while one runs
another_time() {
	waiting_b qemu --fence-timeout 300s
	"$UB" set "$ID" --fence-timeout 5s || fail "set ended with $?"
	assert_eq "$(fence timeout_ms)" 5000 "the fence's time"
	b_goes_on 30
}

# goes [--force]: detach waits for what may still land; by force it does not, and says so
goes() {
	local detacher force=("$@")
	make_disk 1M
	address qemu unix plain 0
	front qemu old
	attach --fence-timeout 40s "${TARGET[@]}"
	hold old A
	stamp_behind A
	FIRST=$WRITER
	await 20 is_held old A
	our_server_dies
	until_then "$FIRST" $((SECONDS + 20)) || fail "LATE: A is not sent again"
	acknowledged "$FIRST"
	"$UB" detach "${force[@]}" "$ID" >"$CELL/detach.out" 2>&1 &
	detacher=$!
	if [ "${1:-}" = --force ]; then
		until_then $detacher $((SECONDS + 20)) || fail "LATE: detach --force waits"
		wait $detacher || fail "detach --force ended with $?"
		grep -Eq 'may (still )?(land|be written)' "$CELL/detach.out" "$ATTACH_ERR" ||
			fail "SILENT: detach --force says: $(cat "$CELL/detach.out")"
		let_land old
		return
	fi
	until_then $detacher $((SECONDS + 6)) &&
		fail "STALE: the device is gone while an older write may land"
	let_land old
	until_then $detacher $((SECONDS + 60)) || fail "LATE: detach still waits"
	wait $detacher || fail "detach ended with $?: $(cat "$CELL/detach.out")"
	await 10 no_device "$ID"
}

# takes_long: a write that takes six times the stall timeout, each time, on a server that is well
takes_long() {
	make_disk 1M
	serve_disk old -U "$CELL/sock"
	attach --stall-timeout 2s --fence-timeout 2s "nbd+unix:///?socket=$CELL/sock"
	echo 12 >"$CELL/old/always.L"
	stamp_behind L
	FIRST=$WRITER
	if ! until_then "$FIRST" $((SECONDS + 90)); then
		disk_did old 'begin L *'
		rm "$CELL/old/always.L"
		fail "ENDLESS: not complete after 90 s, begun $COUNT times"
	fi
	acknowledged "$FIRST"
	await 20 all_landed old L
	disk_did old 'begin L *'
	note "the write was begun $COUNT times"
	assert_le $COUNT 4 "how often it was executed"
	rm "$CELL/old/always.L"
	assert_newest L
	detach
}

# no_outage: I/O fails at once in an outage, and a new server of ours is none
no_outage() {
	local i pid what
	make_disk 4M
	nbdkit -U "$CELL/sock" -P "$CELL/pid" --filter=delay file "$DISK" rdelay=50ms wdelay=50ms \
		2>>"$NBD_LOG"
	await 20 test -s "$CELL/pid"
	cat "$CELL/pid" >>"$CELL/pids"
	attach --outage-limit 0 "nbd+unix:///?socket=$CELL/sock"
	steady_load randrw
	for i in 1 2 3; do
		await 30 has_standby
		nap 2
		pid=$(state_of server_pid)
		if [ $i = 3 ]; then
			"$UB" upgrade "$ID" 2>"$CELL/upgrade.err" ||
				fail "upgrade: $(cat "$CELL/upgrade.err")"
		else
			our_server_dies
		fi
		await 40 other_server "$pid"
		nap 2
		what="death $i of our server"
		[ $i -lt 3 ] || what="an upgrade"
		process_alive "$LOAD" ||
			fail "EIO: after $what: $(grep -m 1 'err=' "$CELL/fio.out")"
	done
	kill -TERM "$LOAD"
	await 20 gone "$LOAD"
	"$UB" detach "$ID"
	await 20 no_device "$ID"
}

# one_of_two: one connection has long been away when the other one goes, too: the outage begins then
one_of_two() {
	local readers=() reader cpu
	make_disk 1M
	nbdkit -U "$CELL/front.sock" -P "$CELL/pid" file "$DISK" 2>>"$NBD_LOG"
	await 20 test -s "$CELL/pid"
	cat "$CELL/pid" >>"$CELL/pids"
	FRONT_SOCKET=$CELL/front.sock
	lying_proxy unix 0
	attach -C 2 --queues 2 --outage-limit 12s "nbd+unix:///?socket=$CELL/proxy.sock"
	echo 'cut accept new times=0' >"$PROXY_FIFO"
	echo 'cut now conn=2' >"$PROXY_FIFO"
	nap 14
	echo 'cut now all' >"$PROXY_FIFO"
	await 20 is_offline
	for cpu in 0 1; do
		taskset -c $cpu dd if="$DEV" of=/dev/null bs=4k count=1 skip=$((BLOCK + cpu)) \
			iflag=direct status=none &
		readers+=($!)
	done
	nap 1
	echo clear >"$PROXY_FIFO"
	for reader in "${readers[@]}"; do
		until_then "$reader" $((SECONDS + 20)) || fail "a read hangs"
		wait "$reader" ||
			fail "EIO: in the second second of an outage, with a limit of 12 s"
	done
	detach
}

run_stories "${AT_ONCE:-4}" <<END
${STORIES:-word
command_says 0
command_says 1
another_time
goes
goes --force
takes_long
no_outage
one_of_two}
END
no_d_state
