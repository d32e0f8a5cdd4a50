#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Keeper killed, server killed, both killed, run directory lost: what is left is told by list,
# serves while it can, and goes by detach. A keeper whose server died takes the device away itself.
# kernels: 6.12 7
# push: 7
# timeout: 90
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require jq

remedy() { "$UB" list --json | jq -r '.[0].remedy'; }

# the keeper: the server serves on
attach --mem 8M --name orphan
server=$(child_of "$KEEPER")
printf 'kept' | dd of="$DEV" bs=4k conv=sync oflag=direct status=none
kill -KILL "$KEEPER"
ends_with 137
assert_eq "$(remedy)" 'its keeper is gone: recover it' "the remedy"
assert_eq "$(dd if="$DEV" bs=4k count=1 iflag=direct status=none | head -c 4)" kept "its content"
# its name is not free for another while it lives, whatever the lock says
run "$UB" --daemon --mem 1M --name orphan
[ "$STATUS" = 3 ] || fail \
	"a second device took the name of a live one (status $STATUS): $("$UB" list)"
assert_match "$ERR" "the name 'orphan' is taken" "the message"
"$UB" detach orphan
assert_nothing_left "detach without a keeper"
gone "$server" || fail "the server is left"

# the same while it is mounted: busy, then not
if modprobe -q ext4 && command -v mkfs.ext4 >/dev/null; then
	mkdir here
	attach --mem 32M
	mkfs.ext4 -q "$DEV"
	mount "$DEV" here
	kill -KILL "$KEEPER"
	ends_with 137
	assert_fails 3 "busy: mounted on" "$UB" detach 0
	umount here
	"$UB" detach 0
	assert_nothing_left "detach of a busy device without a keeper"
fi

# the server, without recovery: the keeper says so, takes the device away and ends with 1
attach --no-recovery --mem 8M
kill -KILL "$(child_of "$KEEPER")"
ends_with 1
assert_match "$(cat "$ATTACH_ERR")" \
	'/dev/ublkb0: the server was killed by signal 9 .*: the device is taken away'
assert_nothing_left "a server that died"

# both, the keeper first; then both, the server first
attach --no-recovery --mem 8M --name orphan
server=$(child_of "$KEEPER")
kill -KILL "$KEEPER"
kill -KILL "$server"
ends_with 137
await 40 eval '[ "$(device_state 0)" = dead ]'
assert_eq "$(remedy)" 'nobody serves it: detach it' "the remedy"
[ ! -e "$DEV" ] || fail "the node of a dead device is there"
"$UB" detach orphan
assert_nothing_left "detach of a dead device"

attach --no-recovery --mem 8M
kill -STOP "$KEEPER"
kill -KILL "$(child_of "$KEEPER")"
kill -KILL "$KEEPER"
ends_with 137
await 40 eval '[ "$(device_state 0)" = dead ]'
"$UB" detach /dev/ublkb0
assert_nothing_left "detach of a device whose server and keeper died"

# the run directory is lost while it is served, and the keeper too
attach --mem 8M
server=$(child_of "$KEEPER")
rm -r "$UBLK_BRIDGE_RUNDIR"
"$UB" detach 0
ends_with 0
gone "$server" || fail "the server is left"
attach --mem 8M
server=$(child_of "$KEEPER")
kill -KILL "$KEEPER"
ends_with 137
rm -r "$UBLK_BRIDGE_RUNDIR"
dd if=/dev/zero of="$DEV" bs=64k count=16 status=none
"$UB" detach 0
await 10 gone "$server"
assert_nothing_left "detach without a run directory"
# and by force, when the server cannot be asked to fail its I/O
attach --mem 8M
server=$(child_of "$KEEPER")
kill -KILL "$KEEPER"
ends_with 137
rm -r "$UBLK_BRIDGE_RUNDIR"
exec 5<"$DEV"
assert_fails 3 "opened by" "$UB" detach 0
"$UB" detach 0 --force
exec 5<&-
await 10 gone "$server"
await 10 no_device 0
assert_nothing_left "detach --force without a run directory"
