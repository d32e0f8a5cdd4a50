# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# A fault proxy (tests/tools/nbdproxy.c, where its rules are explained) between the device and
# qemu-nbd: nbdkit 1.32 aborts when a connection ends within a request while others are in flight.
# Each rule is awaited twice: until it is armed, and until the fault has really happened.

# shellcheck source=tests/guest/lib-nbd.bash
. "$(dirname "${BASH_SOURCE[0]}")/lib-nbd.bash"
require fio jq qemu-nbd

PROXY_SOCK=$TEST_DIR/proxy.sock
# shellcheck disable=SC2034 # for the tests
PROXY_URI="nbd+unix:///?socket=$PROXY_SOCK"
PROXY_LOG=$TEST_DIR/proxy.log
PROXY_FIFO=$TEST_DIR/proxy.fifo
LOAD='' IN_FLIGHT=0 RULE=0

# serve_image ARGUMENTS…: qemu-nbd on $SOCK
serve_image() {
	rm -f "$SOCK"
	qemu-nbd -e 16 -t -k "$SOCK" -f raw --cache=writeback --discard=unmap "$@" "$IMG" \
		2>>"$NBD_LOG" &
	SERVER=$!
	await 10 test -S "$SOCK"
}

# shellcheck disable=SC2120
# proxy [RULE…]: starts it before the server
proxy() {
	find_tool nbdproxy
	RULE=0
	: >"$PROXY_LOG"
	"$TOOL" --listen "unix:$PROXY_SOCK" --server "unix:$SOCK" --control "$PROXY_FIFO" \
		--log "$PROXY_LOG" "$@" &
	PROXY=$!
	await 10 proxy_said 'listening*'
}

unproxy() {
	kill "$PROXY"
	await 10 gone "$PROXY"
}

# proxy_said GLOB: a line of its log is like this. Reads it without a process: it is asked often.
proxy_said() {
	local line
	while read -r line; do
		# shellcheck disable=SC2053 # a pattern is meant
		[[ $line != $1 ]] || return 0
	done <"$PROXY_LOG"
	return 1
}

# proxy_tell LINE GLOB: and waits for the answer
proxy_tell() {
	echo "$1" >"$PROXY_FIFO"
	await 10 proxy_said "$2"
}

# arm RULE…: sets RULE, its number
arm() {
	RULE=$((RULE + 1))
	echo "$*" >"$PROXY_FIFO"
	await 10 proxy_said "armed $RULE: *" ||
		fail "the proxy knows no rule \"$*\": $(tail -n 1 "$PROXY_LOG")"
}

# shellcheck disable=SC2120 # its own argument may be left out
# fired [RULE-NUMBER]: the fault happened
fired() { proxy_said "fired ${1:-$RULE}: *"; }

clear_rules() {
	: >"$PROXY_LOG"
	proxy_tell clear 'cleared*'
}

# --- load -----------------------------------------------------------------------------------------

# load COUNT: so many requests are kept in flight, every block is checked with its checksum
load() {
	IN_FLIGHT=$1
	rm -f "$TEST_DIR/load.json"
	fio --name=load --filename="$DEV" --rw=randwrite --bsrange=4k-64k --blockalign=4k \
		--direct=1 --ioengine=libaio \
		--iodepth="$1" --size="${LOAD_SIZE:-16M}" --verify=crc32c --verify_fatal=1 \
		--verify_backlog=32 \
		--time_based --runtime=600 --randrepeat=0 --output-format=json \
		--output="$TEST_DIR/load.json" \
		>"$TEST_DIR/load.err" 2>&1 &
	LOAD=$!
	await 30 more_done 100
}

# more_done COUNT: the device has answered more I/Os than that
more_done() {
	local stat
	read -ra stat <"/sys/block/${DEV#/dev/}/stat"
	[ $((stat[0] + stat[4])) -gt "$1" ] || ! process_alive "$LOAD"
}

# shellcheck disable=SC2120 # its limit may be left out
# load_goes_on [SECONDS]: all that was in flight, and more, is answered
load_goes_on() {
	local stat
	read -ra stat <"/sys/block/${DEV#/dev/}/stat"
	wait_for "${1:-15}" more_done $((stat[0] + stat[4] + 2 * IN_FLIGHT)) &&
		process_alive "$LOAD"
}

# unload: it ends, and had neither an error nor wrong data
unload() {
	kill -INT "$LOAD"
	await 30 gone "$LOAD"
	wait "$LOAD" || true
	# it says first that it was interrupted
	sed -n '/^{/,$p' "$TEST_DIR/load.json" | jq -e '[.jobs[].error] | add == 0' >/dev/null ||
		fail "the load had an error: $(cat "$TEST_DIR/load.err" "$TEST_DIR/load.json" |
			grep -E 'verify|error|err=' | head)"
	LOAD=''
}

# survives RULE…: the fault happens under load, and the application sees nothing of it
survives() {
	[ -n "$LOAD" ] || fail "there is no load"
	arm "$@"
	wait_for 15 fired || fail "\"$*\" did not happen: $(tail -n 2 "$PROXY_LOG")"
	load_goes_on || broken "$@"
}

# survives_anew RULE…: one that is met by the connection that comes after a lost one
survives_anew() {
	arm "$*" new
	arm cut now all
	wait_for 15 fired $((RULE - 1)) || fail "\"$*\" did not happen: $(tail -n 2 "$PROXY_LOG")"
	load_goes_on || broken "$@"
}

# broken RULE…: it did not go on
broken() {
	fail "after \"$*\": health $(health); fio: $(head -n 3 "$TEST_DIR/load.err"); $(tail \
		-n 4 "$ATTACH_ERR"); $(tail -n 3 "$PROXY_LOG")"
}

# read_block NUMBER: 4 KiB of the device, past the page cache, to nowhere
read_block() { dd if="$DEV" of=/dev/null bs=4k count=1 skip="$1" iflag=direct status=none; }

# how_often REGEX: the keeper said it
how_often() { grep -cE "$1" "$ATTACH_ERR" || true; }

# nr_connections: that the proxy has seen come
nr_connections() { grep -cE '^connection [0-9]+$' "$PROXY_LOG" || true; }

# another_connection COUNT: there were more than that
another_connection() { [ "$(nr_connections)" -gt "$1" ]; }
