# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Sectors that say what they are (tests/tools/blkstamp.c), under servers that come and go.

# shellcheck source=tests/guest/lib-nbd.bash
. "$(dirname "${BASH_SOURCE[0]}")/lib-nbd.bash"

require jq

JOURNAL=$TEST_DIR/journal
STAMP=''

# start_stamp [OPTIONS]: stamps $DEV in the background, until stop_stamp; returns when it works
start_stamp() {
	find_tool blkstamp
	"$TOOL" --threads 8 --max-io 64 --journal "$JOURNAL" "$@" "$DEV" >"$TEST_DIR/stamp.out" \
		2>&1 &
	STAMP=$!
	await 60 stamp_filled
	stamp_goes_on
}

# stamp_filled: every sector was written, and it has begun to work; or it is over already
stamp_filled() { grep -qx filled "$TEST_DIR/stamp.out" || gone "$STAMP"; }

# stamp_goes_on: it found nothing so far, and its writes are answered; fails the test otherwise
stamp_goes_on() {
	local stat
	read -ra stat <"/sys/block/${DEV#/dev/}/stat"
	await 30 stamp_written $((stat[4] + 10))
	stamp_alive
}

# stamp_written COUNT: the device was written more often, or it is over already
stamp_written() { more_written "$1" || gone "$STAMP"; }

# stamp_alive: fails the test when blkstamp has ended: it found something
stamp_alive() { process_alive "$STAMP" || fail "blkstamp: $(cat "$TEST_DIR/stamp.out")"; }

# said_more REGEX COUNT: the keeper said it more often
said_more() { [ "$(times_said "$1")" -gt "$2" ]; }
times_said() { grep -cE "$1" "$ATTACH_ERR" || true; }

# stop_stamp: it found nothing, neither now nor when all is read once more, and the server's file is
# the same
stop_stamp() {
	local status=0
	kill -TERM "$STAMP" || fail "blkstamp: $(cat "$TEST_DIR/stamp.out")"
	await 60 gone "$STAMP"
	wait "$STAMP" || status=$?
	[ $status = 0 ] || fail "blkstamp: $(cat "$TEST_DIR/stamp.out")"
	note "$(tail -n 1 "$TEST_DIR/stamp.out")"
	find_tool blkstamp
	"$TOOL" --verify --journal "$JOURNAL" "$DEV" >"$TEST_DIR/verify.out" 2>&1 ||
		fail "blkstamp --verify: $(cat "$TEST_DIR/verify.out")"
	[ ! -e "$IMG" ] || same_bytes
}

# restarts ROUNDS ARGUMENTS…: kills the server of these arguments that often, with some time before
# it is back, and waits each time until writes are answered again
restarts() {
	local rounds=$1 i
	shift
	for ((i = 0; i < rounds; i++)); do
		nap 0.$((RANDOM % 8 + 2))
		stamp_alive
		unserve
		nap 0.$((RANDOM % 4))
		serve "$@"
		stamp_goes_on
	done
}

# outages ROUNDS CONNECTIONS: blkstamp under a server that is killed and started again
outages() {
	note "$2 connections, $1 rounds"
	serve file "$IMG"
	attach -C "$2" "$URI"
	start_stamp
	restarts "$1" file "$IMG"
	stamp_goes_on
	stop_stamp
	said 'online again after' || fail "nothing was said: $(cat "$ATTACH_ERR")"
	detach
	unserve
	note "$(times_said 'online again') outages of all connections were told"
}
