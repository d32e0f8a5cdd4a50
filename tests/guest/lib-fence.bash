# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Writes that land late: a slow disk (lib-slowdisk) behind the servers that people use, what may
# become of a connection with a write in it, and the question of all these tests: is the newest
# acknowledged write what is there at the end?
#
# A *cell* is one such story, in a subshell, with a device, servers and a folder ($CELL) of its own,
# so that many run at once: most of it is waiting.

# shellcheck source=tests/guest/lib-nbd.bash
. "$(dirname "${BASH_SOURCE[0]}")/lib-nbd.bash"
require fio jq qemu-nbd psktool certtool

# wait_for, has_standby: as in lib.sh. Many cells poll at once: more rarely, and without a process
wait_for() {
	local end=$((SECONDS + $1 * SLOW + 1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		nap 0.2
	done
}
has_standby() {
	local text
	read -rd '' text <"$UBLK_BRIDGE_RUNDIR/ublk$ID/state.json" || true
	[[ $text =~ \"standby_pid\":\ *[1-9] ]]
}

SLOWDISK=$TEST_DIR/slowdisk
cp "${BASH_SOURCE[0]%/*}/lib-slowdisk" "$SLOWDISK"
PSK=$TEST_DIR/keys.psk
psktool -u alice -p "$PSK" >/dev/null 2>&1
# without this file qemu-nbd looks for a prime of its own at each start
certtool --get-dh-params --outfile "$TEST_DIR/dh-params.pem" 2>/dev/null
CELL=$TEST_DIR DISK=$TEST_DIR/disk.img
# which block the stories are about: nobody who looks for partitions reads it
BLOCK=5
WRITER=''

# --- the disk -------------------------------------------------------------------------------------

# make_disk SIZE
make_disk() {
	DISK=$CELL/disk.img
	rm -f "$DISK"
	truncate -s "$1" "$DISK"
}

# serve_disk NAME NBDKIT-ARGUMENTS…: a server with the disk; what it was told to hold is its own
# affair. Sets DISK_PID. SLOW_… of the environment as lib-slowdisk says.
serve_disk() {
	local dir=$CELL/$1
	mkdir -p "$dir"
	rm -f "$dir/pid"
	: >"$dir/lock"
	SLOW_DIR=$dir SLOW_DISK=$DISK nbdkit -P "$dir/pid" "${@:2}" sh "$SLOWDISK" 2>>"$NBD_LOG" ||
		fail "nbdkit ${*:2}: $(tail -n 3 "$NBD_LOG")"
	await 20 test -s "$dir/pid"
	DISK_PID=$(<"$dir/pid")
	echo "$DISK_PID" >>"$CELL/pids"
}

declare -A LOCKS=()

# hold NAME MARK [TIMES]: that server's next write that begins with MARK is held until let_land
hold() {
	local i fd
	if [ -z "${LOCKS[$1]:-}" ]; then
		exec {fd}<"$CELL/$1/lock"
		flock "$fd"
		LOCKS[$1]=$fd
	fi
	for ((i = 0; i < ${3:-1}; i++)); do : >"$CELL/$1/hold.$2.$BASHPID.$RANDOM.$i"; done
}

# let_land NAME: what is held there has its effect now
let_land() {
	local fd=${LOCKS[$1]:-}
	[ -n "$fd" ] || return 0
	flock -u "$fd"
	exec {fd}<&-
	unset "LOCKS[$1]"
}

# disk_did NAME GLOB: sets COUNT, the lines of its log that are like this. Without a process, as it
# is polled
disk_did() {
	local line
	COUNT=0
	[ -e "$CELL/$1/log" ] || return 0
	while read -r line; do
		# shellcheck disable=SC2053 # a pattern is meant
		[[ $line != $2 ]] || COUNT=$((COUNT + 1))
	done <"$CELL/$1/log"
}
COUNT=0

# disk_has NAME GLOB [TIMES]: it did so, so often at least
disk_has() {
	disk_did "$1" "$2"
	[ $COUNT -ge "${3:-1}" ]
}
is_held() { disk_has "$1" "held $2"; }

# all_landed NAME MARK: of each write that began there the end has come
all_landed() {
	local begun
	disk_did "$1" "begin $2 *"
	begun=$COUNT
	disk_did "$1" "land $2 *"
	[ $COUNT = "$begun" ]
}

# steady_load KIND: fio's --rw, 60 blocks a second, in the background; sets LOAD
# shellcheck disable=SC2034 # for the tests
steady_load() {
	fio --name=load --filename="$DEV" --rw="$1" --bs=4k --iodepth=4 --direct=1 \
		--ioengine=libaio --rate_iops=60 --time_based --runtime=300 --allow_file_create=0 \
		--output="$CELL/fio.out" >/dev/null 2>&1 </dev/null &
	LOAD=$!
	echo "$LOAD" >>"$CELL/pids"
}

# --- bytes ----------------------------------------------------------------------------------------

# stamp BYTE [BLOCK [DD-OPTIONS…]]: a block full of it, past the page cache
stamp() {
	head -c 4096 /dev/zero | tr '\0' "$1" |
		dd of="$DEV" bs=4k count=1 seek="${2:-$BLOCK}" \
			oflag=direct iflag=fullblock "${@:3}" status=none
}

# stamp_behind BYTE [BLOCK [DD-OPTIONS…]]: in the background; WRITER is who does it
stamp_behind() {
	stamp "$@" 2>>"$CELL/stamp.err" &
	WRITER=$!
}

# acknowledged PID: of stamp_behind, without an error
acknowledged() {
	wait "$1" || fail "a write failed: $(cat "$CELL/stamp.err")"
}

# on_disk [BLOCK], seen [BLOCK]: the block's first byte, in the server's file; through the device
on_disk() { byte_at "$DISK" "${1:-$BLOCK}"; }
seen() {
	dd if="$DEV" bs=4k count=1 skip="${1:-$BLOCK}" \
		iflag=direct status=none | head -c 1 | tr '\0' 0
}
byte_at() { dd if="$1" bs=1 count=1 skip=$(($2 * 4096)) status=none | tr '\0' 0; }

# assert_newest BYTE: it is what is there, on the disk and through the device
assert_newest() {
	local disk device
	disk=$(on_disk) device=$(seen)
	[ "$disk$device" = "$1$1" ] ||
		fail "STALE: acknowledged last: $1; on the disk: $disk; through the device: $device"
}

# --- servers, each a front that we connect to, at an address that stays ---------------------------

# address SERVER unix|tcp plain|tls PORT: sets where nbdkit and qemu-nbd listen, and TARGET,
# attach's arguments
address() {
	local s=''
	[ "$3" = plain ] || s=s
	FRONT_SOCKET=$CELL/front.sock FRONT_TLS=$3
	FRONT_NBDKIT=(-U "$FRONT_SOCKET") FRONT_QEMU=(-k "$FRONT_SOCKET")
	TARGET=()
	[ "$3" = plain ] || TARGET=(--tls-psk-file "$PSK" --tls-username alice)
	if [ "$2" = tcp ]; then
		TARGET+=("nbd$s://127.0.0.1:$4")
		FRONT_NBDKIT=(-i 127.0.0.1 -p "$4") FRONT_QEMU=(-b 127.0.0.1 -p "$4")
	elif [ "$1" = proxy ]; then
		TARGET+=("nbd$s+unix:///?socket=$CELL/proxy.sock")
	else
		TARGET+=("nbd$s+unix:///?socket=$FRONT_SOCKET")
	fi
	[ "$1" != proxy ] || FRONT_NBDKIT=(-U "$FRONT_SOCKET")
}

# front SERVER NAME: a server of the disk, with a NAME for what it holds, at the address; one whose
# path it takes lives on. Sets FRONT, its pid. SERVER: nbdkit; qemu (qemu-nbd in front of nbdkit,
# PLACES for clients, 16); proxy (one that lies, in front of nbdkit)
front() {
	local tls=()
	if [ "$1" = qemu ]; then
		serve_disk "$2" -U "$CELL/$2/sock"
		front_qemu "$2"
		return
	fi
	[ "$FRONT_TLS" = plain ] || tls=(--tls=require --tls-psk="$PSK")
	rm -f "$FRONT_SOCKET"
	serve_disk "$2" "${FRONT_NBDKIT[@]}" "${tls[@]}"
	FRONT=$DISK_PID
}

# front_qemu NAME: qemu-nbd in front of that disk's server
front_qemu() {
	local tls=()
	[ "$FRONT_TLS" = plain ] ||
		tls=(--object "tls-creds-psk,id=tls,dir=$TEST_DIR,endpoint=server" --tls-creds tls)
	rm -f "$FRONT_SOCKET"
	qemu-nbd -f raw -t -e "${PLACES:-16}" "${FRONT_QEMU[@]}" "${tls[@]}" \
		"nbd+unix:///?socket=$CELL/$1/sock" 2>>"$NBD_LOG" </dev/null &
	FRONT=$!
	echo "$FRONT" >>"$CELL/pids"
	wait_for 20 listens || fail "qemu-nbd: $(cat "$NBD_LOG")"
}
# listens: qemu-nbd does
listens() {
	if [ "${FRONT_QEMU[0]}" = -k ]; then
		test -S "$FRONT_SOCKET"
	else
		listens_at "${FRONT_QEMU[3]}"
	fi
}

# listens_at PORT: somebody does. Read without a process: it is polled, by many at once
listens_at() {
	local hex where state
	printf -v hex '%04X' "$1"
	while read -r _ where _ state _; do
		[[ $where != *:"$hex" || $state != 0A ]] || return 0
	done </proc/net/tcp
	return 1
}

# lying_proxy unix|tcp PORT: at the address, in front of what is at the front's socket
lying_proxy() {
	find_tool nbdproxy
	local where=unix:$CELL/proxy.sock
	[ "$1" = unix ] || where=tcp:$2
	PROXY_FIFO=$CELL/proxy.fifo
	"$TOOL" --lie --listen "$where" --server "unix:$FRONT_SOCKET" \
		--control "$PROXY_FIFO" --log "$CELL/proxy.log" </dev/null &
	echo $! >>"$CELL/pids"
	await 20 grep -q listening "$CELL/proxy.log"
}

# --- what happens ---------------------------------------------------------------------------------

# our_server_dies, our_keeper_dies, both_die: with kill -9. What comes then is not waited for, but
# for a keeper that has to come while a server lives
our_server_dies() {
	is_recovered
	KILLED=$(state_of server_pid)
	kill -KILL "$KILLED"
}
KILLED=''
# is_recovered: from the death before, and there is a standby
is_recovered() {
	[ -z "$KILLED" ] || await 40 other_server "$KILLED"
	await 20 has_standby
}
our_keeper_dies() {
	local pid
	is_recovered
	pid=$(state_of keeper_pid)
	kill -KILL "$pid"
	await 20 gone "$pid"
	"$UB" recover "$ID" 2>>"$CELL/recover.err" ||
		fail "recover: $(tail -n 3 "$CELL/recover.err")"
}
both_die() {
	local pid keeper
	await 20 has_standby
	pid=$(state_of server_pid) keeper=$(state_of keeper_pid)
	kill -KILL "$pid" "$keeper"
	await 20 gone "$pid"
	await 20 gone "$keeper"
	"$UB" recover "$ID" >/dev/null 2>>"$CELL/recover.err" &
}

# until_then PID TIME: it ends before $SECONDS is that much
until_then() {
	until gone "$1"; do
		[ $SECONDS -lt "$2" ] || return 1
		nap 0.2
	done
}

# --- cells ----------------------------------------------------------------------------------------

# cell SERVER TRANSPORT TLS EVENT: A is written and held by the disk; EVENT; A is acknowledged, when
# another copy of it was answered; B is written to the same block. DELAY seconds after the event, or
# PATIENCE seconds after B was written, or when B is acknowledged, if that is earlier, the first A
# lands. B must be what is there then. With SHORTEN what is left of the fence's time (FENCE) is not
# waited for, now that it has been right to wait.
#
#   kill         our server is killed
#   twice        and its successor, too
#   kill-keeper  our server, and the keeper when A is acknowledged
#   both         our server and keeper are killed
#   upgrade      another version takes the device over
#   stall        no answer for the stall timeout
#   frozen       the server stands still with A unread, and another is in its place; then it goes on
#   drop         the proxy ends the connection
#   front        the server in front of the disk's server is killed
cell() {
	local server=$1 transport=$2 tls=$3 event=$4 delay=${DELAY:-40} fence=${FENCE:-60} end began
	local options=(--wait 60s --fence-timeout "${fence}s" -C "${CONNECTIONS:-1}")
	[[ $event != stall && $event != frozen ]] || options+=(--stall-timeout 1s)
	make_disk 1M
	address "$server" "$transport" "$tls" "$PORT"
	front "$server" old
	[ "$server" != proxy ] || lying_proxy "$transport" "$PORT"
	attach "${options[@]}" "${TARGET[@]}"
	await 30 has_standby
	hold old A "$([ "$event" = twice ] && echo 2 || echo 1)"
	OLD_FRONT=$FRONT
	[ "$event" != frozen ] || kill -STOP "$OLD_FRONT"
	stamp_behind A
	FIRST=$WRITER
	if [ "$event" = frozen ]; then nap 1; else await 30 is_held old A; fi

	end=$((SECONDS + delay))
	began=$SECONDS
	cell_event "$event" "$server"
	write_newer "$end"
	[ -n "$SECOND" ] || [ "$UPGRADED" = 3 ] ||
		LATE="A is not sent again while its first copy may still land"
	[ "$event" != kill-keeper ] || [ -z "$SECOND" ] || our_keeper_dies
	[ -z "${PATIENCE:-}" ] || end=$((SECONDS + PATIENCE))
	until_then "${SECOND:-$FIRST}" "$end" || true
	if [ "$event" = frozen ]; then
		kill -CONT "$OLD_FRONT"
		# qemu-nbd gives A to the disk when it has read it
		wait_for 5 is_held old A || note "the thawed server has no A"
		write_newer $((SECONDS + 4))
		[ -z "$SECOND" ] || until_then "$SECOND" $((SECONDS + 3)) || true
	fi
	[ -z "$SECOND" ] || ! gone "$SECOND" || EVENTS+=" B is acknowledged,"
	EVENTS+=" A lands at $((SECONDS - began)) s,"
	let_land old
	await 20 all_landed old A
	shorten
	write_newer $((SECONDS + fence + 30))
	[ -n "$SECOND" ] || fail "LATE: A is not acknowledged"
	until_then "$SECOND" $((SECONDS + fence + 30)) ||
		fail "LATE: B waits longer than the fence's time"
	acknowledged "$SECOND"
	note "after the event:$EVENTS end at $((SECONDS - began)) s"
	if [ "$fence" -gt "$delay" ]; then
		assert_newest B
	else
		said 'may land on newer data' || fail "SILENT: no warning: $(cat "$ATTACH_ERR")"
	fi
	[ "$event" != upgrade ] ||
		assert_eq "$UPGRADED" 3 "the status of an upgrade with a slow request in flight"
	[ -z "$LATE" ] || fail "LATE: $LATE"
	"$UB" detach "$ID" || fail "detach ended with $?"
	await 20 no_device "$ID"
}

# shorten: see cell
shorten() {
	[ "${SHORTEN:-no}" = no ] || "$UB" set "$ID" --fence-timeout 1s ||
		note "the fence's time stays"
}

# write_newer TIME: when A is acknowledged, by then, B is written; and some other block, which has
# nothing to wait for
write_newer() {
	local other
	[ -z "$SECOND" ] || return 0
	until_then "$FIRST" "$1" || return 0
	acknowledged "$FIRST"
	EVENTS+=" A is acknowledged at $((SECONDS - ${began:-0})) s,"
	stamp_behind X 100
	other=$WRITER
	stamp_behind B
	SECOND=$WRITER
	until_then "$other" $((SECONDS + 15)) || LATE="a write of another block waits, too"
}

FIRST='' SECOND='' LATE='' EVENTS='' UPGRADED=''
cell_event() {
	case $1 in
	kill) our_server_dies ;;
	kill-keeper) our_server_dies ;;
	both) both_die ;;
	twice)
		our_server_dies
		await 30 disk_has old 'held A' 2
		our_server_dies
		;;
	upgrade)
		run "$UB" upgrade "$ID"
		UPGRADED=$STATUS
		note "upgrade ended with $STATUS: $ERR"
		;;
	stall) ;;
	frozen) front "$2" new ;;
	drop) echo 'cut now all' >"$PROXY_FIFO" ;;
	front)
		kill -KILL "$FRONT"
		await 10 gone "$FRONT"
		front_qemu old
		;;
	*) fail "no such event: $1" ;;
	esac
}

# let_all_go: nothing of a cell that has failed is left waiting
let_all_go() {
	local name
	[ -z "${OLD_FRONT:-}" ] || kill -CONT "$OLD_FRONT" 2>/dev/null || true
	for name in "${!LOCKS[@]}"; do let_land "$name"; done
}

# makes_sense SERVER TRANSPORT EVENT: not all can happen everywhere
makes_sense() {
	case $3 in
	drop) [ "$1" = proxy ] ;;
	front) [ "$1" = qemu ] ;;
	# another server can only come into the place of a path
	frozen) [ "$1" = proxy ] || [ "$2" = unix ] ;;
	*) true ;;
	esac
}

FAILED_CELLS=() CELL_NR=0

# run_cells NUMBER: cells from stdin, a line each ("[NAME=VALUE…] SERVER TRANSPORT TLS EVENT"), so
# many at once
run_cells() { run_stories "$1" cell; }

# run_stories NUMBER [FUNCTION]: likewise, with any function: the line's first word, if it is not
# said
run_stories() {
	local line pids=() names=() words i status
	while read -r line; do
		read -ra words <<<"$line"
		start_story "${2:-}" "${words[@]}"
		pids+=($!)
		names+=("$line")
		[ ${#pids[@]} -ge "$1" ] || continue
		end_cells
	done
	end_cells
	[ ${#FAILED_CELLS[@]} = 0 ] ||
		fail "${#FAILED_CELLS[@]} of $CELL_NR: $(printf '%s; ' "${FAILED_CELLS[@]}")"
}

# start_story FUNCTION [NAME=VALUE…] ARGUMENTS…: in a subshell
start_story() {
	CELL_NR=$((CELL_NR + 1))
	story "$@" >"$TEST_DIR/cell$CELL_NR.out" 2>&1 &
}
story() {
	local function=$1
	CELL=$TEST_DIR/cell$CELL_NR PORT=$((20000 + CELL_NR))
	mkdir "$CELL"
	NBD_LOG=$CELL/nbd.log
	# many of them share the CPUs
	SLOW=$((SLOW * 2))
	shift
	while [[ $1 == *=* ]]; do
		export "${1?}"
		shift
	done
	trap 'let_all_go' EXIT
	$function "$@"
}

# end_cells: those that run_cells has begun; says what became of each
end_cells() {
	local first=$((CELL_NR - ${#pids[@]} + 1)) out
	for i in "${!pids[@]}"; do
		status=0
		wait "${pids[i]}" || status=$?
		out=$TEST_DIR/cell$((first + i)).out
		if [ $status = 0 ]; then
			note "${names[i]}: ok: $(tail -n 1 "$out")"
			continue
		fi
		note "${names[i]}: FAILED: $(grep -m 1 '^FAIL:' "$out" || tail -n 1 "$out")"
		FAILED_CELLS+=("${names[i]}")
		sed 's/^/#     /' "$out" >&2
	done
	pids=() names=()
	clear_cells
}

# clear_cells: devices and servers of cells that have failed; the next ones need their CPU time
clear_cells() {
	local dir pid
	for dir in "$UBLK_BRIDGE_RUNDIR"/*/; do
		[ ! -d "$dir" ] || "$UB" detach --force "$(basename "$dir")" >/dev/null 2>&1 || true
	done
	for pid in $(cat "$TEST_DIR"/cell*/pids 2>/dev/null || true); do
		kill -KILL "$pid" 2>/dev/null || true
	done
	rm -f "$TEST_DIR"/cell*/pids
}
