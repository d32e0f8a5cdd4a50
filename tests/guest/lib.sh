# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Helpers of the guest tests; each test sources this first. The runner (tests/guest/runner) sets
# UB and UBT (the binaries: as installed, and with the test back end), TEST_DIR (a tmpfs folder of
# the test's own, the working directory at its start) and UBLK_BRIDGE_RUNDIR.
# A test exits 0, or by "fail" or "skip"; with set -e, any command that fails ends it.
# SLOW is how many times longer things take in this build (sanitizers); limits here know it.
set -euo pipefail
# errors of commands in the test are told with their line
trap 'echo "${BASH_SOURCE[0]##*/}:$LINENO: \"$BASH_COMMAND\" ended with $?" >&2' ERR
set -o errtrace

: "${UB:?run tests by ./dev check}" "${UBT:=$UB}" "${TEST_DIR:?}" "${SLOW:=1}"
# which of the two binaries "attach" starts; a test may set it to $UBT
BRIDGE=$UB
ATTACH_COUNT=0
DEV='' ID='' KEEPER='' STATUS=0

# note MESSAGE…: seen when the test fails
note() { printf '# %s\n' "$*" >&2; }

# fail MESSAGE…: ends the test as failed, naming the caller's line
fail() {
	printf 'FAIL: %s (%s)\n' "$*" "$(where)" >&2
	trap - ERR
	exit 1
}

# skip MESSAGE…: ends the test as skipped; MESSAGE says what is missing
skip() {
	printf 'skip: %s\n' "$*"
	exit 77
}

# where: file:line of the test's own code that called
where() {
	local depth
	for ((depth = 1; depth < ${#BASH_SOURCE[@]}; depth++)); do
		if [ "${BASH_SOURCE[depth]##*/}" != lib.sh ]; then
			printf '%s:%s' "${BASH_SOURCE[depth]##*/}" "${BASH_LINENO[depth - 1]}"
			return
		fi
	done
}

# require COMMAND…: skips unless all are there
require() {
	local command
	for command; do
		command -v "$command" >/dev/null || skip "no $command on this machine"
	done
}

# require_module NAME…: skips unless the kernel has or can load them
require_module() {
	local module
	for module; do
		modprobe -q "$module" || [ -d "/sys/module/${module//-/_}" ] ||
			skip "no kernel module $module"
	done
}

# kernel_at_least 6.16: whether this kernel is that new
kernel_at_least() { printf '%s\n%s\n' "$1" "$(uname -r)" | sort -VC; }

# expect_kernel_log REGEX: a line of the kernel's log that would fail the test but is meant here
expect_kernel_log() { printf '%s\n' "$1" >>"$TEST_DIR/.expected-log"; }

# assert_eq GOT WANTED [WHAT]
assert_eq() { [ "$1" = "$2" ] || fail "${3:-value} is \"$1\", not \"$2\""; }

# assert_match TEXT REGEX [WHAT]: extended regular expression
assert_match() { [[ $1 =~ $2 ]] || fail "${3:-text} \"$1\" does not match \"$2\""; }

# assert_le NUMBER LIMIT [WHAT]: integers
assert_le() { [ "$1" -le "$2" ] || fail "${3:-value} $1 is more than $2"; }

# nap SECONDS: sleeps without starting a process (for polls)
nap() {
	[ -n "${NAP_FD:-}" ] || exec {NAP_FD}<> <(:)
	read -rt "$1" -u "$NAP_FD" || true
}

# wait_for SECONDS COMMAND…: polls until COMMAND succeeds; 1 when time is over
wait_for() {
	local end=$((SECONDS + $1 * SLOW + 1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		nap 0.05
	done
}

# await SECONDS COMMAND…: wait_for, or the test fails
await() { wait_for "$@" || fail "waited $1 s in vain for: ${*:2}"; }

# run COMMAND…: sets STATUS, OUT and ERR of a command that may fail, at most 60 s; never exits
# shellcheck disable=SC2034 # for the tests
run() {
	STATUS=0
	timeout -k 2 $((60 * SLOW)) "$@" >"$TEST_DIR/.out" 2>"$TEST_DIR/.err" </dev/null ||
		STATUS=$?
	OUT=$(<"$TEST_DIR/.out") ERR=$(<"$TEST_DIR/.err")
}

# assert_fails STATUS REGEX COMMAND…: it ends with STATUS and its stderr matches
assert_fails() {
	local status=$1 regex=$2
	shift 2
	run "$@"
	[ "$STATUS" = "$status" ] || fail "\"$*\" ended with $STATUS, not $status: $ERR"
	[[ $ERR =~ $regex ]] || fail "\"$*\" says \"$ERR\", which does not match \"$regex\""
}

# attach ARGUMENTS…: serves in the background; sets DEV (/dev/ublkb0), ID (0), KEEPER (its pid),
# ATTACH_ERR (the file with its messages)
attach() {
	try_attach "$@" || fail "attach $*: $(cat "$ATTACH_ERR")"
}

# quick_fence ARGUMENTS…: sets QUICK, the options of a short fence for an NBD device. By default
# what overlaps a change of a dead connection waits for half a minute, and detach with it: that is
# for the tests of the fence
quick_fence() {
	QUICK=()
	[[ " $* " != *' --fence'* ]] || return 0
	[[ " $* " != *' nbd'*:* && " $* " != *' [ '* && " $* " != *' --unix '* &&
		" $* " != *' --tcp '* ]] ||
		QUICK=(--fence-timeout 2s)
}

# try_attach ARGUMENTS…: as attach, but returns 1 when no device comes
try_attach() {
	local out
	ATTACH_COUNT=$((ATTACH_COUNT + 1))
	out=$TEST_DIR/attach.$BASHPID.$ATTACH_COUNT.out
	ATTACH_ERR=${out%.out}.err
	: >"$out"
	quick_fence "$@"
	"$BRIDGE" attach "${QUICK[@]}" "$@" >"$out" 2>"$ATTACH_ERR" </dev/null &
	KEEPER=$!
	wait_for 30 line_or_death "$out" "$KEEPER" || return 1
	DEV=$(grep -m 1 '^/dev/ublkb[0-9]' "$out") || return 1
	ID=${DEV#/dev/ublkb}
}

# line_or_death FILE PID: FILE has a whole line, or PID is gone
line_or_death() { [ "$(wc -l <"$1")" -gt 0 ] || ! process_alive "$2"; }

# process_alive PID: it runs (a zombie does not)
process_alive() {
	local stat
	{ stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
	[[ ${stat##*) } != [ZX]* ]]
}

# attach_fails STATUS REGEX ARGUMENTS…: attach ends with STATUS, says REGEX, leaves no device
attach_fails() { assert_fails "$1" "$2" "$BRIDGE" attach "${@:3}"; }

# detach [DEVICE]: by SIGTERM to the keeper that attach started, or by the verb; waits for the end
detach() {
	local status=0
	if [ $# -gt 0 ]; then
		"$UB" detach "$@"
		return
	fi
	kill -TERM "$KEEPER"
	await 30 gone "$KEEPER"
	wait "$KEEPER" || status=$?
	assert_eq "$status" 0 "the keeper's exit status"
	[ ! -e "$DEV" ] || fail "$DEV is still there"
}

# gone PID: it ended
gone() { ! process_alive "$1"; }

# no_device ID: neither node is there
no_device() { [ ! -e "/dev/ublkb$1" ] && [ ! -e "/dev/ublkc$1" ]; }

# server_pid [ID]: the process that holds /dev/ublkcID open
server_pid() {
	local link want=/dev/ublkc${1:-$ID}
	for link in /proc/[0-9]*/fd/*; do
		[ "$(readlink "$link" 2>/dev/null)" = "$want" ] || continue
		link=${link#/proc/}
		printf '%s\n' "${link%%/*}"
		return 0
	done
	return 1
}

# test_pids: every process of this test, its daemons too
test_pids() {
	if [ -n "${TEST_CGROUP:-}" ]; then
		cat "$TEST_CGROUP/cgroup.procs"
	else
		pgrep -s 0
		pgrep -f "$UB|$UBT" || true
	fi
}

# state_of KEY: a number in the run directory's state.json
state_of() {
	[[ $(<"$UBLK_BRIDGE_RUNDIR/ublk$ID/state.json") =~ \"$1\":\ *([0-9]+) ]] &&
		echo "${BASH_REMATCH[1]}"
}

# other_server PID: the device has another server by now
other_server() { [ "$(state_of server_pid)" != "$1" ]; }

# has_standby: one stands by
has_standby() { [[ $(<"$UBLK_BRIDGE_RUNDIR/ublk$ID/state.json") =~ \"standby_pid\":\ *[1-9] ]]; }

# no_d_state: fails when a process of the test stays in uninterruptible sleep for 5 s
no_d_state() { wait_for 5 none_in_d_state || fail "in D state: $(list_d_state)"; }

none_in_d_state() { [ -z "$(list_d_state)" ]; }

list_d_state() {
	local pid
	for pid in $(test_pids); do
		grep -l ') D ' "/proc/$pid"/task/*/stat 2>/dev/null || true
	done | while IFS=/ read -r _ _ pid _ tid _; do
		printf '%s/%s (%s) ' "$pid" "$tid" "$(cat "/proc/$pid/task/$tid/comm" 2>/dev/null)"
	done
}

# queue_attr NAME [DEVICE]: a value of /sys/block/…/queue
queue_attr() {
	local device=${2:-$DEV}
	cat "/sys/block/${device#/dev/}/queue/$1"
}

# size_of DEVICE: bytes
size_of() { blockdev --getsize64 "$1"; }

# rss_kib PID: resident memory
rss_kib() { awk '/^VmRSS:/ { print $2 }' "/proc/$1/status"; }

# checksum FILE: of all its content, not from the page cache
checksum() { dd if="$1" iflag=direct bs=1M status=none | sha256sum | cut -d ' ' -f 1; }
