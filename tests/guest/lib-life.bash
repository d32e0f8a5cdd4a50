# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Helpers of the cli-, life-, fault- and param- tests, sourced after lib.sh.
# shellcheck disable=SC2120

# run COMMAND…: as in lib.sh, but without a process for the time limit (an exec is dear in an
# emulated guest, and these tests start hundreds): the test's own time limit ends what hangs
# shellcheck disable=SC2034 # for the tests
run() {
	STATUS=0
	"$@" >"$TEST_DIR/.out" 2>"$TEST_DIR/.err" </dev/null || STATUS=$?
	read -rd '' OUT <"$TEST_DIR/.out" || true
	read -rd '' ERR <"$TEST_DIR/.err" || true
}

# process_alive PID: it runs (a zombie does not)
process_alive() {
	local stat=
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
	[[ ${stat##*) } != [ZX]* ]]
}

# no_ublk: no ublk device at all
no_ublk() { ! compgen -G '/dev/ublk[bc]*' >/dev/null; }

# no_rundir: nothing in the run directory
no_rundir() { ! compgen -G "$UBLK_BRIDGE_RUNDIR/*" >/dev/null; }

# no_bridge: no process of ours in this test's group but those that are named
no_bridge() {
	local pid comm
	while read -r pid; do
		{ read -r comm <"/proc/$pid/comm"; } 2>/dev/null || continue
		[[ $comm != ublk-* ]] || ! process_alive "$pid" || return 1
	done <"${TEST_CGROUP:?}/cgroup.procs"
}

# assert_nothing_left [WHAT]: no device, process or run directory, within a second or two
assert_nothing_left() {
	wait_for 2 no_ublk || fail "${1:-it} leaves $(compgen -G '/dev/ublk[bc]*' | tr '\n' ' ')"
	wait_for 2 no_rundir || fail "${1:-it} leaves $(ls "$UBLK_BRIDGE_RUNDIR")"
	wait_for 2 no_bridge || fail "${1:-it} leaves processes"
}

# device_state ID: live, dead, quiesced …, or nothing
device_state() { "$UB" list --json | jq -r ".[] | select(.id == $1).state"; }

# server_of NAME, keeper_of NAME: the pids as state.json says
server_of() { state_number "$1" server_pid; }
keeper_of() { state_number "$1" keeper_pid; }
state_number() {
	[[ $(<"$UBLK_BRIDGE_RUNDIR/$1/state.json") =~ \"$2\":\ *([0-9]+) ]] &&
		echo "${BASH_REMATCH[1]}"
}

# child_of PID: the first child of a process
child_of() {
	local children
	read -r children _ <"/proc/$1/task/$1/children" || [ -n "$children" ] &&
		printf '%s\n' "$children"
}

# says FILE REGEX: FILE has a line that matches
says() { grep -Eq -- "$2" "$1"; }

# ends_with STATUS [PID]: waits for a child of the test (KEEPER) and looks at its exit status
ends_with() {
	local status=0 pid=${2:-$KEEPER}
	# Linux 6.12 may notice a server's death only after 30 s, and the keeper waits for that
	wait_for 90 gone "$pid" || fail "process $pid does not end; it says: $(cat err)"
	wait "$pid" || status=$?
	assert_eq "$status" "$1" "the exit status of process $pid"
}

# --- the steps of a device's life (tests/tools/steps.c) -----------------------------------------

# those that the keeper takes, in their order; those of the server; those on the way down
KEEPER_STEPS='features store command spawn add-dev added set-params rundir serve start-dev started'
KEEPER_STEPS+=' settle'
SERVER_STEPS='server-hello backend-open device-arena queue-thread queue-ring device-open queue-fetch
	server-fetching server-live'
DOWN_STEPS='stop-dev end-server del-dev remove-rundir'
# when a server has died, and when a keeper has
# shellcheck disable=SC2034 # for the tests
RECOVERY_STEPS='start-recovery take end-recovery recovered' ADOPT_STEPS='adopt'
# when a device gets another version, and another size
# shellcheck disable=SC2034 # for the tests
UPGRADE_STEPS='handover upgrade' \
	RESIZE_STEPS='resize server-resize server-resized size-updated update-size'
# when it is moved: the keeper's, and the server's
# shellcheck disable=SC2034 # for the tests
MIGRATE_STEPS='migrate migrate-ready migrate-moved' \
	MIGRATE_SERVER_STEPS='migrate-open migrate-cutover migrate-cut'
# of a fence
FENCE_STEPS='fence-command'
# shellcheck disable=SC2034 # for the tests
DETACH_STEPS='detach detach-stopped'

# is_stopped PID: by SIGSTOP
is_stopped() {
	local stat=
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
	[[ ${stat##*) } == [Tt]* ]]
}

# server_is_stopped: the child of KEEPER
server_is_stopped() { is_stopped "$(child_of "$KEEPER")"; }

# start_with STEP=ACTION ARGUMENTS…: attach in the background; sets KEEPER
start_with() {
	# its messages are looked at: those of an earlier one must not be taken for them
	rm -f out err
	UB_STEP=$1 "$UBT" attach "${@:2}" >out 2>err </dev/null &
	KEEPER=$!
}

# detach_all WHAT: what is left goes by detach, by force if need be, and nothing stays
detach_all() {
	local node
	for node in /dev/ublkc[0-9]*; do
		[ -e "$node" ] || continue
		run "$UB" detach "${node#/dev/ublkc}"
		# what a standby still holds is not given up unasked
		[[ ! $ERR =~ "has no server" ]] || run "$UB" detach --force "${node#/dev/ublkc}"
		# the keeper or another may have been faster
		[ "$STATUS" = 0 ] || [ ! -e "$node" ] || fail "$1: detach ended with $STATUS: $ERR"
	done
	assert_sweep "$1"
}

# assert_sweep WHAT: as assert_nothing_left, less a run directory that nobody holds: that of a
# keeper that was killed before it had a device or after it lost it; the next of that name takes it
# over
assert_sweep() {
	local dir
	wait_for 10 no_ublk || fail "$1: $(compgen -G '/dev/ublk[bc]*' | tr '\n' ' ') stay"
	wait_for 10 no_bridge || fail "$1: processes stay"
	no_d_state
	for dir in "$UBLK_BRIDGE_RUNDIR"/*; do
		[ ! -e "$dir" ] || flock -n "$dir/lock" true || fail "$1: the lock of $dir is held"
	done
	rm -rf "${UBLK_BRIDGE_RUNDIR:?}"
}

# --- I/O that is under way -----------------------------------------------------------------------

# in_flight N: the kernel counts at least N requests that the device has not answered
in_flight() {
	local reads writes
	read -r reads writes <"/sys/block/${DEV#/dev/}/inflight"
	[ $((reads + writes)) -ge "$1" ]
}

# requests_done: reads and writes that the device has answered
requests_done() {
	local f
	read -ra f <"/sys/block/${DEV#/dev/}/stat"
	printf '%s\n' $((f[0] + f[4]))
}

# served_more_than N: requests
served_more_than() { [ "$(requests_done)" -gt "$1" ]; }

# attach_hanging ARGUMENTS…: a faulty device whose READs and WRITEs hang from now on
attach_hanging() {
	local size=$1
	shift
	BRIDGE=$UBT
	: >/run/ub-faulty-go
	attach --backend "faulty:$size:hang" "$@"
	rm /run/ub-faulty-go
}

# start_fio ARGUMENTS…: random mixed I/O on DEV in the background; sets FIO
# shellcheck disable=SC2034 # for the tests
start_fio() {
	fio --name=io --filename="$DEV" --direct=1 --ioengine=libaio --rw=randrw --bs=4k \
		--iodepth=16 \
		--time_based --runtime=300 --allow_file_create=0 --output=fio.out "$@" >/dev/null \
		2>&1 </dev/null &
	FIO=$!
	await 60 served_more_than $(($(requests_done) + 50))
}

# start_readers N: N processes that read a block each, past the cache; sets READERS
start_readers() {
	local i
	READERS=()
	for ((i = 0; i < $1; i++)); do
		dd if="$DEV" of=/dev/null bs=4k count=1 skip=$i iflag=direct status=none \
			2>/dev/null </dev/null &
		READERS+=($!)
	done
	await 20 in_flight "$1"
}

# readers_fail WITHIN-SECONDS: each of them ends with an error
readers_fail() {
	local pid end=$((SECONDS + $1 * SLOW))
	for pid in "${READERS[@]}"; do
		await $((end > SECONDS ? end - SECONDS : 1)) gone "$pid"
		! wait "$pid" || fail "a read that nobody answered succeeded"
	done
}
