#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Destinations of a migration that lose what they had not flushed while they are silent, and that
# execute a mirrored write when the device has long moved: all that was acknowledged is there. And a
# destination's fence that lasts much longer than the mirror's patience makes the migration late,
# and not endless. And a source that a lost connection may still write to is nobody's yet.
# kernels: 6.12 7
# push: 7
# timeout: 300
# The stories run at once, each a line for run_stories at the end.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-fence.bash"

# phase_now: of the migration that runs
phase_now() {
	local json
	json=$("$UB" migrate "$ID" --status --json 2>/dev/null) || return 0
	[[ $json =~ \"phase\":\ \"([a-z-]+)\" ]] && printf '%s' "${BASH_REMATCH[1]}"
}

# move_behind ARGUMENTS…: migrate in the background; MOVER is who does it
move_behind() {
	"$UB" migrate "$ID" "$@" >"$CELL/move.out" 2>"$CELL/move.err" </dev/null &
	MOVER=$!
}
MOVER=''

# has_moved SECONDS: the one of move_behind ends, and well
has_moved() {
	until_then "$MOVER" $((SECONDS + $1)) ||
		fail "LATE: the migration does not end: $(phase_now)"
	wait "$MOVER" || fail "migrate ended with $?: $(cat "$CELL/move.out" "$CELL/move.err")"
}

# silent: the destination has a cache that it loses: it stands still, another is in its place, and
# what it had not flushed is gone with it
silent() {
	local old
	make_disk 4M
	attach --mem 4M
	dd if=/dev/urandom of="$DEV" bs=1M count=4 iflag=fullblock oflag=direct status=none
	nbdkit -U "$CELL/sock" -P "$CELL/pid.old" --filter=cache file "$DISK" 2>>"$NBD_LOG"
	await 20 test -s "$CELL/pid.old"
	old=$(<"$CELL/pid.old")
	echo "$old" >>"$CELL/pids"
	"$UB" migrate "$ID" --wait-for-cutover --fence-timeout 5s \
		"nbd+unix:///?socket=$CELL/sock" >"$CELL/move.out" \
		2>"$CELL/move.err" ||
		fail "migrate: $(cat "$CELL/move.err")"
	kill -STOP "$old"
	rm "$CELL/sock"
	nbdkit -U "$CELL/sock" -P "$CELL/pid.new" file "$DISK" 2>>"$NBD_LOG"
	await 20 test -s "$CELL/pid.new"
	cat "$CELL/pid.new" >>"$CELL/pids"
	stamp A
	dd if="$DEV" of="$CELL/before" bs=1M iflag=direct status=none
	move_behind --complete
	# what lies in the frozen one's queue it would read when it thaws: no time ends that
	until_then "$MOVER" $((SECONDS + 12)) &&
		fail "STALE: moved, while the old server has a write unread"
	kill -KILL "$old"
	has_moved 60
	dd if="$DEV" of="$CELL/after" bs=1M iflag=direct status=none
	cmp -s "$CELL/before" "$CELL/after" ||
		fail "LOST: $( (cmp -l "$CELL"/{before,after} || true) | wc -l) bytes by the move"
	detach
}

# mirrored: a mirrored write is slow at the destination when our server dies; then the keeper dies
mirrored() {
	local fence=${FENCE:-45} delay=${DELAY:-25} first end
	make_disk 1M
	serve_disk old -U "$CELL/sock"
	attach --mem 1M
	await 30 has_standby
	"$UB" migrate "$ID" --wait-for-cutover --mirror-timeout 60s --fence-timeout "${fence}s" \
		"nbd+unix:///?socket=$CELL/sock" >"$CELL/move.out" 2>"$CELL/move.err" ||
		fail "migrate: $(cat "$CELL/move.err")"
	hold old A
	stamp_behind A
	first=$WRITER
	await 20 is_held old A
	end=$((SECONDS + delay))
	our_server_dies
	until_then "$first" "$end" || fail "LATE: A waits, though the source has it"
	acknowledged "$first"
	[ "${KEEPER_TOO:-yes}" = no ] || our_keeper_dies
	stamp B
	move_behind --complete
	until_then "$MOVER" "$end" || true
	let_land old
	has_moved $((fence + 60))
	await 20 all_landed old A
	assert_newest B
	"$UB" detach "$ID"
	await 20 no_device "$ID"
}

# livelock: the destination's connection is lost in the middle of a copy under load, with writes in
# it, and its proxy tells no server: the fence is many times as long as the mirror waits
livelock() {
	local fence=${FENCE:-15} started
	make_disk 8M
	address proxy unix plain 0
	nbdkit -U "$FRONT_SOCKET" -P "$CELL/pid" file "$DISK" 2>>"$NBD_LOG"
	await 20 test -s "$CELL/pid"
	cat "$CELL/pid" >>"$CELL/pids"
	lying_proxy unix 0
	attach --mem 8M
	dd if=/dev/urandom of="$DEV" bs=1M count=8 iflag=fullblock oflag=direct status=none
	steady_load randwrite
	move_behind --rate-limit 1M/s --mirror-timeout 500ms --fence-timeout "${fence}s" \
		"${TARGET[@]}"
	await 20 copies
	[ "$(phase_now)" = copying ] || fail "it is too fast: $(cat "$CELL/move.out")"
	nap 1
	started=$SECONDS
	# answers that get lost: what was written is unanswered
	echo 'stall now all dead' >"$PROXY_FIFO"
	nap 0.3
	echo 'cut now all' >"$PROXY_FIFO"
	has_moved $((fence + 60))
	note "moved $((SECONDS - started)) s after the destination was lost; its fence: $fence s"
	process_alive "$LOAD" || fail "the load had an error: $(cat "$CELL/fio.out")"
	kill -TERM "$LOAD"
	wait_for 20 gone "$LOAD" ||
		fail "the load hangs, in flight $(<"/sys/block/${DEV#/dev/}/inflight")"
	dd if="$DEV" of="$CELL/after" bs=1M iflag=direct status=none
	sync "$DEV"
	cmp "$CELL/after" "$DISK" || fail "the device and the destination differ"
	detach
}
copies() { [ "$(phase_now)" = copying ] || gone "$MOVER"; }

# source_with_range: a device whose server process died with A in flight; A was sent again and
# acknowledged, and the old copy may land for 20 s
source_with_range() {
	make_disk 1M
	serve_disk old -U "$CELL/sock"
	attach --fence-timeout 20s "nbd+unix:///?socket=$CELL/sock"
	await 30 has_standby
	hold old A
	stamp_behind A
	FIRST=$WRITER
	await 30 is_held old A
	our_server_dies
	until_then "$FIRST" $((SECONDS + 30)) || fail "LATE: A is not sent again"
	acknowledged "$FIRST"
	is_recovered
}

# left HOW: a lost connection may still write to the source of a migration. Who is told that the
# device has moved, or that it is gone, may use the source
left() {
	local began
	source_with_range
	began=$SECONDS
	move_behind --mem 1M
	await 20 grep -q 'migrated from.*may still be written.*waiting' "$CELL/move.err"
	grep -q ': migrated to ' "$CELL/move.out" || fail "LATE: the move waits for it, too"
	if [ "$1" = detach ]; then
		kill -INT "$MOVER"
		await 10 gone "$MOVER"
		gone "$KEEPER" && fail "the device went with the verb"
		"$UB" detach "$ID" 2>"$CELL/detach.err" ||
			fail "detach ended with $?: $(cat "$CELL/detach.err")"
		grep -q 'that is waited for' "$CELL/detach.err" ||
			fail "detach says: $(cat "$CELL/detach.err")"
	else
		has_moved 60
	fi
	[ $((SECONDS - began)) -ge 12 ] || fail \
		"STALE: told after $((SECONDS - began)) s that the source is free"
	[ "$1" = detach ] || detach
	let_land old
}

# turned: our server dies in a cutover, right behind the fact. What a lost connection may still
# write at the source is remembered as the source's: the move back to it does not end before that is
# over
turned() {
	local pid began
	export UB_STEP=migrate-cut=kill UB_STEP_WHEN=$CELL/now
	BRIDGE=$UBT source_with_range
	unset UB_STEP UB_STEP_WHEN
	began=$SECONDS
	pid=$(state_of server_pid)
	: >"$CELL/now"
	move_behind --mem 1M
	await 30 other_server "$pid"
	[ ! -e "$CELL/now" ] || fail "it did not come to the step"
	await 30 grep -q ': migrated to ' "$CELL/move.out"
	kill -INT "$MOVER" 2>/dev/null || true
	await 10 gone "$MOVER"
	await 30 has_standby
	stamp B
	move_behind --fence-timeout 20s "nbd+unix:///?socket=$CELL/sock"
	has_moved 60
	[ $((SECONDS - began)) -ge 15 ] || fail \
		"STALE: it is back after $((SECONDS - began)) s, and A may still land"
	let_land old
	detach
}

run_stories 4 <<END
${STORIES:-silent
mirrored
KEEPER_TOO=no mirrored
left migrate
left detach
turned
livelock}
END
no_d_state
