#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# list: the table, and the same as JSON with keys that scripts rely on; devices in the order of their
# numbers, with who serves them and what can be done about one that nobody looks after.
# kernels: 6.12 7
# push: 7
# timeout: 60
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require jq

keys='backend data_path depth device health health_why id keeper_pid max_io_bytes name ours queues read_only remedy server_pid size_bytes state'

# field ID KEY: of list --json
field() { jq -r ".[] | select(.id == $1).$2" json; }
take_list() { "$UB" list --json >json; }

take_list
assert_eq "$(jq -c . json)" '[]' "the list of no devices"
assert_eq "$("$UB" list)" "" "the table of no devices"

attach --mem 3M --id 12 --name twelve --depth 7 --read-only --data-path copy
twelve=$KEEPER
attach --backend null:1G --id 3 --queues 2 --data-path user-copy --max-io 64K
three=$KEEPER
attach --mem 1M --id 100 --data-path get-data
hundred=$KEEPER

take_list
assert_eq "$(jq -c '[.[].id]' json)" '[3,12,100]' "the order"
assert_eq "$(jq -r '[.[] | keys[]] | unique | join(" ")' json)" "$keys" "the keys"
assert_eq "$(jq '[.[] | length] | unique | .[]' json)" 17 "the number of keys of each"
for expect in 'device /dev/ublkb12' 'name twelve' 'state live' 'size_bytes 3145728' 'read_only true' \
	'queues 1' 'depth 7' 'data_path copy' "keeper_pid $twelve" 'ours true' 'backend mem' 'remedy null' \
	"server_pid $(child_of "$twelve")"; do
	assert_eq "$(field 12 "${expect% *}")" "${expect#* }" "${expect% *} of 12"
done
for expect in 'name ublk3' 'size_bytes 1073741824' 'read_only false' 'queues 2' 'data_path user-copy' \
	'backend null' 'max_io_bytes 65536'; do
	assert_eq "$(field 3 "${expect% *}")" "${expect#* }" "${expect% *} of 3"
done
assert_eq "$(field 100 data_path)" get-data "the data path of 100"

"$UB" list >table
assert_eq "$(awk '{ print $1 }' table | tr '\n' ' ')" 'DEVICE /dev/ublkb3 /dev/ublkb12 /dev/ublkb100 ' "the table"
assert_match "$(grep twelve table)" \
	"^/dev/ublkb12 +twelve +live +3 MiB +1 +7 +copy +$(field 12 server_pid) mem\$" "the line of 12"

# a keeper that is gone: still live, and how to end it
kill -KILL "$hundred"
ends_with 137 "$hundred"
take_list
assert_eq "$(field 100 state) $(field 100 keeper_pid)" 'live null' "the device without a keeper"
assert_eq "$(field 100 remedy)" 'its keeper is gone: it is served until it is detached' "its remedy"
assert_match "$("$UB" list)" $'\n  its keeper is gone: .* \(ublk-bridge detach 100\)'

# the run directory of another is lost: ours by the mark in the driver, its name unknown
mv "$UBLK_BRIDGE_RUNDIR/ublk3" lost
take_list
assert_eq "$(field 3 ours) $(field 3 name) $(field 3 state)" 'true null live' "the device without a directory"
assert_match "$("$UB" list | grep ublkb3)" '\(run directory lost\)$'
mv lost "$UBLK_BRIDGE_RUNDIR/ublk3"

# state files that are broken or of another time are not believed
mkdir "$UBLK_BRIDGE_RUNDIR/broken" "$UBLK_BRIDGE_RUNDIR/empty" "$UBLK_BRIDGE_RUNDIR/old"
echo '{"version": 1, "name"' >"$UBLK_BRIDGE_RUNDIR/broken/state.json"
: >"$UBLK_BRIDGE_RUNDIR/empty/state.json"
sed 's/"cookie": "[^"]*"/"cookie": "7562000000000000"/; s/"name": "[^"]*"/"name": "old"/' \
	"$UBLK_BRIDGE_RUNDIR/twelve/state.json" >"$UBLK_BRIDGE_RUNDIR/old/state.json"
take_list
assert_eq "$(field 12 name)" twelve "the name of 12"
rm -r "$UBLK_BRIDGE_RUNDIR"/{broken,empty,old}

"$UB" detach 100
KEEPER=$three DEV=/dev/ublkb3 detach
KEEPER=$twelve DEV=/dev/ublkb12 detach
assert_nothing_left
