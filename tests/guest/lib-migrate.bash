# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# A device that moves, and the servers that it moves to. A side is one of these: a number, with an
# image and a socket of its own, and a server that is started, killed and frozen at will.

# shellcheck source=tests/guest/lib-recover.bash
. "$(dirname "${BASH_SOURCE[0]}")/lib-recover.bash"

declare -A SIDES=() # a server's pid
MIGRATE='' MOVED=''
# stop_stamp compares the device with this; here it is sides that are compared
# shellcheck disable=SC2034
IMG=$TEST_DIR/none

side_image() { printf '%s/side%s.img' "$TEST_DIR" "$1"; }
side_socket() { printf '%s/side%s.sock' "$TEST_DIR" "$1"; }
side_uri() { printf 'nbd+unix:///?socket=%s' "$(side_socket "$1")"; }

# make_side N SIZE [garbage]: its image: a hole, or bytes of which none may be left after a move
make_side() {
	rm -f "$(side_image "$1")"
	truncate -s "$2" "$(side_image "$1")"
	[ "${3:-}" != garbage ] ||
		dd if=/dev/urandom of="$(side_image "$1")" bs=1M count="${2%M}" conv=notrunc \
			iflag=fullblock status=none
}

# serve_side N [NBDKIT-ARGUMENTS…]: nbdkit; without arguments it exports the image
serve_side() {
	local n=$1 pid_file=$TEST_DIR/side$1.pid
	shift
	[ $# -gt 0 ] || set -- file "$(side_image "$n")"
	rm -f "$(side_socket "$n")" "$pid_file"
	nbdkit -U "$(side_socket "$n")" -P "$pid_file" "$@" 2>>"$NBD_LOG" ||
		fail "nbdkit $*: $(tail -n 3 "$NBD_LOG")"
	await 10 test -s "$pid_file"
	SIDES[$n]=$(<"$pid_file")
}

# signal_side N SIGNAL
signal_side() { kill "-$2" "${SIDES[$1]}"; }

# kill_side N: its server dies. nbdkit 1.32 may have: it aborts when a connection ends within a
# request
kill_side() {
	signal_side "$1" KILL 2>/dev/null || true
	await 10 gone "${SIDES[$1]}"
}

# thaw_side N: one that was stopped goes on. nbdkit 1.32 may end then: connections that were given
# up meanwhile end in the middle of a request
thaw_side() {
	signal_side "$1" CONT
	nap 0.5
	process_alive "${SIDES[$1]}" || serve_side "$1"
}

# side_sum N: of its image
side_sum() { sha256sum <"$(side_image "$1")"; }

# same_as N: what its server gives to another client is what the device has; nobody writes meanwhile
same_as() {
	sync "$DEV"
	nbdcopy "$(side_uri "$1")" "$TEST_DIR/copy"
	cmp -n "$(size_of "$DEV")" <(dd if="$DEV" bs=1M iflag=direct status=none) "$TEST_DIR/copy" \
		||
		fail "the device and side $1 differ"
	rm "$TEST_DIR/copy"
}

# --- what the keeper says
# ------------------------------------------------------------------------------

# look: STATUS_JSON, of the migration; 1 when nobody answers. Read by the shell alone: it is polled
look() { STATUS_JSON=$("$UB" migrate "$ID" --status --json 2>/dev/null); }
STATUS_JSON=''

# shown KEY: a word or a number of it, from the migration that runs, or from the last one where none
# does
shown() {
	[[ $STATUS_JSON =~ \"$1\":\ \"?([^\",[:space:]}]*) ]] || return 0
	printf '%s' "${BASH_REMATCH[1]}"
}

# phase: of the migration: none when none runs, unknown when nobody answers
phase() {
	local phase
	look || { printf unknown && return; }
	phase=$(shown phase)
	printf '%s' "${phase:-none}"
}
in_phase() { [ "$(phase)" = "$1" ]; }

# backend: what the device is made of
backend() {
	look || return 1
	shown backend
}

# is_moved KIND: no migration runs, and it is made of that
is_moved() { [ "$(phase)" = none ] && [ "$(backend)" = "$1" ]; }

# last_said KEY: of how the last one ended
last_said() { "$UB" info "$ID" --json | jq -r ".last_migration.$1"; }

# --- moves
# ---------------------------------------------------------------------------------------------

# start_move ARGUMENTS…: in the background; sets MIGRATE, and returns when the keeper knows of it
start_move() {
	: >"$TEST_DIR/move.out"
	quick_fence "$@"
	"$UB" migrate "$ID" "${QUICK[@]}" "$@" >"$TEST_DIR/move.out" 2>"$TEST_DIR/move.err" &
	MIGRATE=$!
	await 20 move_began
}
move_began() {
	gone "$MIGRATE" && return
	case $(phase) in none | unknown) return 1 ;; esac
}

# await_copying: so far that something is copied
await_copying() { await 20 has_copied; }
has_copied() { look && [ "$(shown phase)" = copying ] && [ "$(shown copied_bytes)" -gt 0 ]; }

# moved [SECONDS]: the one of start_move ends, and the device has moved; sets MOVED, what it said
moved() {
	local status=0
	await "${1:-60}" gone "$MIGRATE"
	wait "$MIGRATE" || status=$?
	MOVED=$(<"$TEST_DIR/move.out")
	[ $status = 0 ] || fail "migrate ended with $status: $(tail -n 5 "$TEST_DIR/move.err")"
	assert_match "$MOVED" \
		"^$DEV: migrated to .* in [0-9.]+ s, pause [0-9.]+ ms, .* copied, .* $(
		)zeroed, .* mirrored\$"
	printf '%s\n' "$MOVED" >>"$TEST_DIR/moves"
}

# move ARGUMENTS…: from beginning to end
move() {
	start_move "$@"
	moved
}

# not_moved REGEX [SECONDS]: the one of start_move ends with status 1, and says why; the device is
# where it was
not_moved() {
	local status=0
	await "${2:-60}" gone "$MIGRATE"
	wait "$MIGRATE" || status=$?
	[ $status = 1 ] || fail \
		"migrate ended with $status: $(cat "$TEST_DIR/move.out" "$TEST_DIR/move.err")"
	assert_match "$(tail -n 1 "$TEST_DIR/move.err")" "$DEV stays where it is: .*$1"
	assert_eq "$(phase)" none "the phase afterwards"
}

# pauses_of_moves: of the cutovers, in milliseconds: median and maximum
pauses_of_moves() {
	grep -oE 'pause [0-9.]+ ms' "$TEST_DIR/moves" | grep -oE '[0-9.]+' | sort -n |
		awk '{ all[NR] = $1 }
			END { printf "%d moves, pause: median %.1f ms, at most %.1f ms",
			NR, all[int((NR + 1) / 2)], all[NR] }'
}

# longest_pause: of an I/O under the blkstamp that has ended, in ms
longest_pause() { grep -oE 'longest pause [0-9]+' "$TEST_DIR/stamp.out" | grep -oE '[0-9]+'; }

# --- deaths
# --------------------------------------------------------------------------------------------

# die_moving KEYS…: these processes of state.json, during a migration; with the keeper, recover
# follows
die_moving() {
	local one pids=()
	for one in "$@"; do pids+=("$(state_of "$one")"); done
	kill -KILL "${pids[@]}"
	for one in "${pids[@]}"; do await 10 gone "$one"; done
	[[ $* != *keeper_pid* ]] || "$UB" recover "$ID" 2>>recover.err ||
		fail "recover: $(tail -n 3 recover.err)"
}

# crash_rounds ROUNDS: under blkstamp, from memory to a server and back, again and again; in each
# move the server, the keeper or both die at a time that nobody has chosen. The device goes on, and
# is on the other side at the end. (Both not on the way into
# memory: right behind the cutover there is no standby yet, and the memory would go with them.)
crash_rounds() {
	local i who victims=(server_pid keeper_pid keeper_pid server_pid 'keeper_pid server_pid' \
		server_pid
		'keeper_pid server_pid' keeper_pid)
	for ((i = 0; i < $1; i++)); do
		await 40 has_standby
		read -ra who <<<"${victims[i % 8]}"
		note "round $i: ${who[*]}"
		if [ $((i % 2)) = 0 ]; then
			start_move --rate-limit 12M/s --fence-timeout 1s "$(side_uri 1)"
		else
			start_move --rate-limit 12M/s --mem 16M
		fi
		nap $((RANDOM % 2)).$((RANDOM % 10))
		die_moving "${who[@]}"
		# see thaw_side
		nap 0.5
		process_alive "${SIDES[1]}" || serve_side 1
		stamp_goes_on
		# what the verb says does not count when the one who knew how it ended has died
		await 120 gone "$MIGRATE"
		wait "$MIGRATE" || note "migrate: $(tail -n 1 move.err)"
		await 60 is_moved "$([ $((i % 2)) = 0 ] && echo nbd || echo mem)"
		stamp_goes_on
	done
}
