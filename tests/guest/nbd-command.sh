#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An NBD server that the keeper starts itself: with a listening socket or over its stdin and stdout,
# started again when asked for, ended after the last flush, and nothing of it left behind.
# kernels: 6.12 7
# push: 6.12
# timeout: 120
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq
RUN=${UBLK_BRIDGE_RUNDIR:-/run/ublk-bridge}

nothing_left() {
	wait_for 5 no_nbdkit || fail "$1: it still runs: $(pgrep -a nbdkit)"
	[ -z "$(find "$RUN" -name '.nbd-*' 2>/dev/null)" ] || fail "$1: its socket is left"
}

make_image 32M
note "[ COMMAND ]"
attach [ nbdkit file "$IMG" ]
assert_eq "$(<"/proc/$(pgrep -x nbdkit)/oom_score_adj")" "$(<"/proc/$$/oom_score_adj")" \
	"its OOM score"
[ "$(ps -o sid= -p "$(pgrep -x nbdkit)")" != "$(ps -o sid= -p $$)" ] || fail "it is in our session"
dd if=/dev/urandom of="$DEV" bs=1M count=4 status=none
sum=$(checksum "$DEV")
detach
nothing_left "[ COMMAND ]"
assert_eq "$(sha256sum <"$IMG" | cut -d ' ' -f 1)" "$sum" "the file, after the end"

note "--command, and a file that is named as one names it here"
cd "$TEST_DIR" || fail "no directory"
attach --command nbdkit -s file "${IMG##*/}"
assert_eq "$(checksum "$DEV")" "$sum" "over stdin and stdout"
detach
nothing_left "--command"

note "--restart-command"
for how in '[' '--command'; do
	if [ "$how" = '[' ]; then
		attach --restart-command [ nbdkit file "$IMG" ]
	else
		attach --restart-command --command nbdkit -s file "$IMG"
	fi
	for round in 1 2 3; do
		old=$(pgrep -x nbdkit)
		kill -KILL "$old"
		dd if=/dev/urandom of="$DEV" bs=64k count=4 seek=$round oflag=direct status=none
		[ "$(pgrep -x nbdkit)" != "$old" ] || fail "$how: the same process"
	done
	await 10 is_online
	same_bytes
	detach
	nothing_left "$how again"
done

note "it dies, and is not started again"
attach [ nbdkit file "$IMG" ]
pkill -KILL -x nbdkit
await 10 is_offline
said 'killed by signal 9.*not started again' || fail "nobody said it: $(cat "$ATTACH_ERR")"
"$UB" detach --force "$ID"
nothing_left "it died"
attach --command nbdkit -s file "$IMG"
pkill -KILL -x nbdkit
await 10 is_failed
run dd if="$DEV" of=/dev/null count=1 iflag=direct
assert_eq "$STATUS" 1 "a read when the connection is gone for good"
"$UB" detach --force "$ID"

note "a daemon says what its command had to say, and offers no remedy that cannot help"
# failed REGEX COMMAND…
failed() {
	attach_fails 1 "$1" -d [ "${@:2}" ]
	[[ $ERR != *restart-command* ]] || fail "a remedy that cannot help: $ERR"
}
failed 'nbdkit: error: .*nosuch.img' nbdkit file nosuch.img
failed 'nonesuch cannot be started: there is no such program' nonesuch
failed 'sh: the reason.*' sh -c 'printf "the reason" >&2; exit 3'
assert_match "$ERR" 'sh ended with status 3: the device is not made' "how it ended"
nothing_left "a daemon whose command failed"
# and the daemon does not keep the caller's standard error by way of it
out=$(timeout 30 "$BRIDGE" attach -d --fence-timeout 2s --name quiet [ nbdkit -v file "$IMG" ] \
	2>&1) || fail "the attach hangs: $out"
assert_match "$out" '/dev/ublkb' "what is printed"
"$UB" detach quiet
nothing_left "a daemon"

note "it never serves"
attach_fails 1 'nonesuch cannot be started: there is no such program' [ nonesuch ]
[[ $ERR != *$'\n'*nonesuch* ]] || fail "it is said twice: $ERR"
attach_fails 1 'false ended with status 1' [ false ]
attach_fails 1 'true' --command true
attach_fails 2 "without a '\]'" [ nbdkit memory 1M
attach_fails 2 'no command' [ ]
nothing_left "it never served"

note "a command of many words is read back from the run directory"
# shellcheck disable=SC2016 # the inner shell's
attach --restart-command --name long [ sh -c 'exec nbdkit file "$0"' "$IMG" \
	"$(head -c 100000 /dev/zero | tr '\0' x)" ]
"$UB" info long >/dev/null
kill -KILL "$KEEPER"
await 10 gone "$KEEPER"
"$UB" recover long
same_bytes
"$UB" detach long
nothing_left "many words"
