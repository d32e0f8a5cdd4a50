#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Other programs and our devices, we and theirs: their devices are listed and detached as well as
# ours, served, dead or never served; a STOP or DEL of theirs to a device of ours ends its keeper
# with 0, which then leaves alone whoever has that number by now.
# kernels: 6.12 7
# push: 6.12
# timeout: 90
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require jq

other() { "$UBT" --ctrl "$@"; }

# serve_other: another program's live device 5; sets OTHER, DEV
serve_other() {
	: >other.out
	"$UBT" --ctrl serve 5 >other.out &
	OTHER=$!
	await 30 test -s other.out
	DEV=/dev/ublkb5
}

serve_other
assert_eq "$("$UB" list --json |
	jq -r '.[0] | "\(.id) \(.state) \(.ours) \(.name) \(.keeper_pid)"')" \
	"5 live false null null" "what list says"
"$UB" list | grep -q "^/dev/ublkb5 .*(another program's)" || fail "the table says $("$UB" list)"
exec 5<"$DEV"
assert_fails 3 "opened by [^ ]+ \(pid $$\)" "$UB" detach 5
exec 5<&-
"$UB" detach 5
await 10 gone "$OTHER"
assert_nothing_left "another program's device"

# by force while it is open
serve_other
exec 5<"$DEV"
"$UB" detach --force 5
exec 5<&-
await 10 gone "$OTHER"
await 10 no_device 5
assert_nothing_left "another program's device, by force"

# its server killed and its parent gone: dead
serve_other
server=$(child_of "$OTHER")
kill -KILL "$OTHER" "$server"
await 40 eval '[ "$(device_state 5)" = dead ]'
assert_eq "$("$UB" list --json | jq -r '.[0].remedy')" 'nobody serves it: detach it' "the remedy"
"$UB" detach 5
assert_nothing_left "another program's dead device"

# never served
other add 6
assert_eq "$(device_state 6)" dead "the state of a device that was only made"
"$UB" detach 6
other add 6
"$UB" detach --force 6
assert_nothing_left "another program's device that was never served"

# they stop ours, or delete it, or delete it and take its number
for verb in stop del; do
	attach --mem 4M --id 5
	other $verb 5
	ends_with 0
	assert_match "$(cat "$ATTACH_ERR")" '/dev/ublkb5 was stopped by somebody else' \
		"what the keeper says"
	assert_nothing_left "$verb by somebody else"
done
attach --mem 4M --id 5
kill -STOP "$KEEPER"
other del 5
other add 5
kill -CONT "$KEEPER"
ends_with 0
assert_eq "$(device_state 5)" dead "the state of their device"
"$UB" detach 5
assert_nothing_left "the number of a deleted device"
