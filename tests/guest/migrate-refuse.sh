#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What migrate refuses and why; --cancel and a signal in each phase that lasts; --wait-for-cutover,
# --complete, --status and --rate-limit. Whatever ends a migration before its cutover leaves the
# device and its bytes where they are.
# kernels: 6.12 7
# push: 6.12
# timeout: 240
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-migrate.bash"
require nbdcopy jq

# untouched: the device is in memory, with its bytes, and no migration runs
untouched() {
	assert_eq "$(phase) $(backend)" "none mem" "phase and back end"
	assert_eq "$(checksum "$DEV")" "$SUM" "the device's bytes"
}

# refused REGEX ARGUMENTS…: it fails, says why, and so does the keeper afterwards
refused() {
	local regex=$1
	shift
	assert_fails 1 "$regex" "$UB" migrate "$ID" "$@"
	untouched
}

usage() { assert_fails 2 "$1" "$UB" migrate "${@:2}"; }

note "wrong usage"
usage 'migrate which device'
usage 'migrate which device' nbd://host
usage '0 where to\?' 0
usage "'x' is no destination" 0 x
usage 'two destinations' 0 --mem 1M nbd://host
usage 'two destinations' 0 nbd://host [ nbdkit null ]
usage "--mem: 'many'" 0 --mem many
usage '--fd is no destination' 0 --fd 0
usage '--command is no destination' 0 --command nbdkit -s null
usage 'exclude each other' 0 --cancel --complete
usage 'take no destination' 0 --cancel --mem 1M
usage 'do not go with' 0 --complete --rate-limit 1M
usage 'do not go with' 0 --complete --wait-for-cutover
usage 'wants a destination' 0 --wait-for-cutover --rate-limit 1M
usage '--json goes with --status' 0 --json
usage '--rate-limit: .fast' 0 --mem 1M --rate-limit fast
usage '--mirror-timeout: 99ms is out of range' 0 --mem 1M --mirror-timeout 99ms
usage '--mirror-timeout: 61m is out of range' 0 --mem 1M --mirror-timeout 61m
usage "--tls needs an NBD server" 0 --mem 1M --tls require
usage 'a path in it' 0 'nbd+unix:///?socket=here'
usage 'the device comes before its destination: ublk-bridge migrate 0 nbd://host' nbd://host 0
usage "without a '\]'" 0 [ nbdkit null
assert_fails 1 'no device' "$UB" migrate 99 --mem 1M

attach --mem 16M
dd if=/dev/urandom of="$DEV" bs=1M count=16 oflag=direct iflag=fullblock status=none
SUM=$(checksum "$DEV")
make_side 1 16M

note "there is none to be completed, cancelled or slowed down"
for action in --complete --cancel '--rate-limit 1M'; do
	# shellcheck disable=SC2086 # two words
	run "$UB" migrate "$ID" $action
	assert_eq "$STATUS" 1 "the status of $action"
	[ -n "$ERR" ] || fail "$action says nothing"
done
assert_eq "$("$UB" migrate "$ID" --status)" "$DEV: no migration" "the status"
assert_eq "$("$UB" migrate "$ID" --status --json |
	jq -c '[.name, .device, .backend, .migration, .last_migration]')" \
	"[\"ublk$ID\",\"$DEV\",\"mem\",null,null]" "the status in JSON"

note "destinations that will not do"
refused 'cannot connect|No such file' "$(side_uri 1)"
assert_eq "$(last_said result)" failed "how it ended"
assert_match "$(last_said why)" 'cannot connect|No such file' "why"
assert_match "$("$UB" migrate "$ID" --status)" \
	"^$DEV: no migration; the last one failed after .*: " "the status"
refused 'nonesuch|127' [ nonesuch ]
make_side 2 8M
serve_side 2
refused '8388608' "$(side_uri 2)"
refused '8 MiB of memory is smaller than the device, which has 16 MiB' --mem 8M
kill_side 2
serve_side 1 -r file "$(side_image 1)"
refused 'read.only|not writable' "$(side_uri 1)"
kill_side 1
serve_side 1 --filter=blocksize-policy file "$(side_image 1)" blocksize-minimum=4096 \
	blocksize-preferred=4096 \
	blocksize-error-policy=error
refused 'block' "$(side_uri 1)"
kill_side 1

note "cancelled while it connects: a server that never says anything"
serve_side 1
signal_side 1 STOP
start_move "$(side_uri 1)"
assert_eq "$(phase)" connecting "the phase"
"$UB" migrate "$ID" --cancel || fail "--cancel ended with $?"
not_moved cancelled
untouched
assert_eq "$(last_said result)" cancelled "how it ended"
thaw_side 1

note "cancelled while it copies; busy meanwhile"
start_move --rate-limit 1M/s "$(side_uri 1)"
await_copying
assert_fails 3 '' "$UB" migrate "$ID" --mem 16M
assert_fails 3 '' "$UB" detach "$ID"
[ -e "$DEV" ] || fail "it was detached"
run "$UB" resize "$ID" 32M --force
[ "$STATUS" != 0 ] || fail "it was resized during a migration"
assert_eq "$(size_of "$DEV")" $((16 << 20)) "the size"
assert_match "$("$UB" migrate "$ID" --status)" \
	"^$DEV: to nbd.*: copying: [0-9]+ %, .* dirty, .* mirrored" "the status"
"$UB" info "$ID" >table
grep -q '^  migration phase *copying$' table ||
	fail "the table of info has no migration: $(cat table)"
"$UB" stats "$ID" >table
grep -q '^migration to nbd.*: copying: ' table ||
	fail "the table of stats has no migration: $(cat table)"
"$UB" migrate "$ID" --cancel || fail "--cancel ended with $?"
not_moved cancelled
untouched

note "by a signal"
for signal in INT TERM; do
	start_move --rate-limit 1M/s "$(side_uri 1)"
	await_copying
	kill "-$signal" "$MIGRATE"
	not_moved 'cancelled.*signal'
	untouched
done

note "cancelled in a pause"
start_move --rate-limit 1M/s "$(side_uri 1)"
await_copying
kill_side 1
await 20 in_phase paused
[ -n "$("$UB" info "$ID" --json | jq -r '.migration.why // empty')" ] ||
	fail "it does not say why it pauses"
"$UB" migrate "$ID" --cancel || fail "--cancel ended with $?"
not_moved cancelled
untouched
serve_side 1

note "the limit is lifted"
start_move --rate-limit 1M "$(side_uri 1)"
await_copying
"$UB" migrate "$ID" --rate-limit 0
look
assert_eq "$(shown rate_bytes)" 0 "the limit"
moved 20
move --mem 16M
untouched

note "in step: held, mirrored, cancelled, completed"
"$UB" migrate "$ID" --wait-for-cutover --fence-timeout 2s "$(side_uri 1)" >out 2>err ||
	fail "--wait-for-cutover ended with $?: $(cat err)"
assert_match "$(<out)" "^$DEV: both sides agree: .*--complete" "what it says"
assert_match "$(<err)" 'in-step' "the lines of its progress"
assert_eq "$(phase)" in-step "the phase"
dd if=/dev/urandom of="$DEV" bs=256k count=4 seek=3 oflag=direct status=none
SUM=$(checksum "$DEV")
same_as 1
look
[ "$(shown mirrored_bytes)" -ge $((1 << 20)) ] || fail "$(shown mirrored_bytes) bytes were mirrored"
assert_eq "$(backend)" mem "the back end"
"$UB" migrate "$ID" --cancel || fail "--cancel ended with $?"
untouched
"$UB" migrate "$ID" --wait-for-cutover --fence-timeout 2s "$(side_uri 1)" >out 2>err ||
	fail "--wait-for-cutover ended with $?: $(cat err)"
assert_fails 3 '' "$UB" migrate "$ID" --mem 16M
run "$UB" migrate "$ID" --complete
assert_eq "$STATUS" 0 "the status of --complete"
assert_match "$OUT" "^$DEV: migrated to nbd.*pause [0-9.]+ ms" "what --complete says"
assert_eq "$(phase) $(backend)" "none nbd" "phase and back end"
assert_eq "$(checksum "$DEV")" "$SUM" "the device's bytes"
same_as 1
assert_match "$("$UB" migrate "$ID" --status)" "^$DEV: no migration; the last one migrated to nbd" \
	"the status"

note "detach --force ends it"
start_move --rate-limit 1M/s --mem 16M
await_copying
"$UB" detach --force "$ID"
await 20 no_device "$ID"
await 20 gone "$MIGRATE"
! wait "$MIGRATE" || fail "the migration of a device that has gone says that it is done"
kill_side 1
no_d_state
