# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# NBD servers for the tests: on a unix socket, killed and started again at will.

# shellcheck source=tests/guest/lib-data.bash
. "$(dirname "${BASH_SOURCE[0]}")/lib-data.bash"

require nbdkit

IMG=$TEST_DIR/disk.img
SOCK=$TEST_DIR/nbd.sock
# shellcheck disable=SC2034 # for the tests
URI="nbd+unix:///?socket=$SOCK"
NBD_LOG=$TEST_DIR/nbdkit.log

# make_image SIZE: the file that is exported, with bytes that are not zeroes
make_image() {
	rm -f "$IMG"
	truncate -s "$1" "$IMG"
	dd if=/dev/urandom of="$IMG" bs=1M count=2 conv=notrunc status=none
}

# serve ARGUMENTS…: nbdkit on $SOCK, in the background; SERVER is its pid
serve() {
	rm -f "$SOCK" "$TEST_DIR/nbd.pid"
	nbdkit -U "$SOCK" -P "$TEST_DIR/nbd.pid" "$@" 2>>"$NBD_LOG" ||
		fail "nbdkit $*: $(tail -n 3 "$NBD_LOG")"
	await 10 test -s "$TEST_DIR/nbd.pid"
	SERVER=$(<"$TEST_DIR/nbd.pid")
}

# unserve [SIGNAL]: the server dies
unserve() {
	kill "-${1:-KILL}" "$SERVER"
	await 10 gone "$SERVER"
}

# health [ID]: what list says of the back end
health() {
	local line ours=no
	# a key a line, read by the shell alone: this is polled, and in an emulated machine a jq
	# takes a quarter second
	while read -r line; do
		case $line in
		"\"device\": \"/dev/ublkb${1:-$ID}\","*) ours=yes ;;
		'"health": '*)
			[[ $ours = no || ! $line =~ :\ \"(.*)\" ]] ||
				printf '%s' "${BASH_REMATCH[1]}"
			ours=no
			;;
		esac
	done < <("$UB" list --json)
}
is_online() { [ "$(health)" = online ]; }
is_offline() { [ "$(health)" = offline ]; }
is_failed() { [ "$(health)" = failed ]; }

# said REGEX: the keeper said it
said() { grep -qE "$1" "$ATTACH_ERR"; }

# same_bytes: what the device has is what the server's file has
same_bytes() {
	sync "$DEV"
	[ "$(checksum "$DEV")" = \
		"$(head -c "$(size_of "$DEV")" "$IMG" | sha256sum | cut -d ' ' -f 1)" ] ||
		fail "the device and the server's file differ"
}

# no_nbdkit: none runs that was started by a test's command
no_nbdkit() { ! pgrep -x nbdkit >/dev/null; }
