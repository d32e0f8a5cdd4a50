#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A server that answers wrongly: an error is one request's, and what breaks the protocol ends the
# connection and is sent again; wrong data never gets through, and the device goes on.
# kernels: 6.12 7
# push: 7
# timeout: 300
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-proxy.bash"

# read_fails TEXT RULE…: one of 8 reads fails with this, and the others do not; over the same
# connection
read_fails() {
	local text=$1 i readers=() failed=0 before
	shift
	before=$(nr_connections)
	arm "$@" at=4
	for i in {1..8}; do
		read_block "$i" 2>"$TEST_DIR/read.$i" &
		readers+=($!)
	done
	for i in "${readers[@]}"; do
		wait "$i" || failed=$((failed + 1))
	done
	fired || fail "\"$*\" did not happen"
	assert_eq "$failed" 1 "reads that failed after \"$*\""
	grep -q "$text" "$TEST_DIR"/read.? ||
		fail "no read said \"$text\": $(cat "$TEST_DIR"/read.?)"
	assert_eq "$(nr_connections)" "$before" "connections after \"$*\""
}

# breaks RULE…: it costs the connection, and nothing else
breaks() {
	local before
	before=$(nr_connections)
	survives "$@"
	another_connection "$before" || fail "\"$*\" did not end the connection"
}

make_image 16M
serve_image
for replies in structured simple; do
	proxy
	[ $replies = structured ] || arm refuse opt=8 times=0
	attach "$PROXY_URI"

	note "$replies: errors"
	read_fails 'No space left' error err=28 cmd=read
	if [ $replies = structured ]; then
		read_fails 'Input/output error' error-at err=5
		read_fails 'Input/output error' late-error err=5
	fi
	arm error err=28 cmd=write
	run dd if=/dev/zero of="$DEV" bs=4k count=1 oflag=direct
	assert_match "$ERR" 'No space left' "a write that was answered with an error"
	same_bytes
	! said offline || fail "it was offline: $(cat "$ATTACH_ERR")"

	note "$replies: the server is shutting down"
	load 32
	breaks error err=108 cmd=read flight=8
	breaks error err=108 cmd=write flight=8
	said 'offline: the server is shutting down' || fail "nobody said it: $(cat "$ATTACH_ERR")"

	note "$replies: what is no answer"
	wrong=(unknown 'duplicate cmd=read' 'duplicate cmd=write' 'corrupt reply:3' \
		'corrupt reply:15')
	[ $replies = simple ] || wrong+=(short none outside twice simple \
		'corrupt reply:7 cmd=read' 'corrupt reply:16 cmd=read' \
		'corrupt reply:19 xor=8 cmd=read' 'corrupt data:6 cmd=read')
	for rule in "${wrong[@]}"; do
		breaks "$rule" flight=8
	done
	if [ $replies = structured ]; then
		note "what is wrong in the negotiation"
		for rule in 'corrupt greeting' 'corrupt greeting:12' 'corrupt option-reply:3' \
			'corrupt option-reply:11' \
			'corrupt option-reply:16 opt=7'; do
			survives_anew "$rule"
		done
	fi
	unload
	same_bytes
	await 10 is_online
	detach
	unproxy
done
unserve
