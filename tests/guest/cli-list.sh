#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# list: the table, and the same as JSON with keys that scripts rely on; devices in the order of
# their numbers, with who serves them and what can be done about one that nobody looks after.
# kernels: 6.12 7
# push: 7
# timeout: 60
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require jq

keys='backend data_path depth device fence health health_why id keeper_pid losses max_io_bytes'
keys+=' name ours queues read_only'
keys+=' remedy server_pid size_bytes source state status unflushed_bytes'

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
assert_eq "$(jq '[.[] | length] | unique | .[]' json)" 22 "the number of keys of each"
for expect in 'device /dev/ublkb12' 'name twelve' 'state live' 'size_bytes 3145728' \
	'read_only true' \
	'queues 1' 'depth 7' 'data_path copy' "keeper_pid $twelve" 'ours true' 'backend mem' \
	'remedy null' 'status online' \
	"server_pid $(child_of "$twelve")"; do
	assert_eq "$(field 12 "${expect% *}")" "${expect#* }" "${expect% *} of 12"
done
for expect in 'name ublk3' 'size_bytes 1073741824' 'read_only false' 'queues 2' \
	'data_path user-copy' \
	'backend null' 'max_io_bytes 65536'; do
	assert_eq "$(field 3 "${expect% *}")" "${expect#* }" "${expect% *} of 3"
done
assert_eq "$(field 100 data_path)" get-data "the data path of 100"

assert_eq "$(field 12 source), $(field 3 source), $(field 100 source)" \
	'3 MiB of memory, null, 1 MiB of memory' "the sources"
assert_eq "$("$UB" info 12 --json | jq -r '.source + ", " + .health')" '3 MiB of memory, online' \
	"what info says"

"$UB" list >table
assert_eq "$(awk '!/^ / { print $1 }' table | tr '\n' ' ')" \
	'DEVICE /dev/ublkb3 /dev/ublkb12 /dev/ublkb100 ' "the table"
assert_match "$(head -n 1 table)" '^DEVICE +NAME +STATE +SIZE +RO SOURCE$' "its head"
assert_match "$(grep twelve table)" \
	"^/dev/ublkb12 +twelve +online +3 MiB +1 +3 MiB of memory\$" "the line of 12"
assert_match "$(grep ublkb3 table)" '^/dev/ublkb3 +ublk3 +online +1 GiB +0 +null$' "the line of 3"
assert_le "$(wc -L <table)" 80 "the width of the table"
[[ $(<table) != *$'\033'* ]] || fail "there are colours where there is no terminal"
"$UB" list --wide >wide
assert_match "$(grep twelve wide)" "^/dev/ublkb12 +twelve +online +3 MiB +1 +mem +1 +7 +copy $(
	) +$twelve +$(field 12 server_pid) +live +3 MiB of memory\$" "the wide line of 12"
assert_eq "$("$UB" list -o name,ro,Queues twelve 3 | sed 's/  */ /g')" \
	$'NAME RO QUEUES\nublk3 0 2\ntwelve 1 1' "chosen columns of chosen devices"
assert_eq "$("$UB" list --json twelve | jq -c '[.[].id]')" '[12]' "one device as JSON"
assert_fails 1 "no device is named 'thirteen'" "$UB" list thirteen
assert_fails 1 'there is no device 13' "$UB" list 13
assert_fails 2 "no column 'namee'\. Did you mean NAME" "$UB" list -o namee

# on a terminal: no line is wider, and what counts is coloured, unless NO_COLOR is there
# on_terminal COLUMNS COMMAND
on_terminal() {
	TERM=xterm script -qec "stty cols $1; $2" /dev/null | tr -d '\r'
}
if command -v script >/dev/null; then
	for columns in 40 60 80 200; do
		on_terminal $columns "NO_COLOR=1 '$UB' list --wide" >terminal
		[[ $(<terminal) != *$'\033'* ]] || fail "NO_COLOR has colours"
		[ $columns -lt 200 ] || assert_le "$(wc -L <terminal)" $columns "the width"
	done
	on_terminal 50 "NO_COLOR=1 '$UB' list" >terminal
	assert_match "$(grep twelve terminal)" '1 .*\.\.\.$' "a source that is cut"
	assert_le "$(wc -L <terminal)" 56 "the width"
	assert_match "$(on_terminal 80 "'$UB' list twelve")" $'\033\\[32monline\033\\[0m' "a colour"
	[[ $(TERM=dumb on_terminal 80 "TERM=dumb '$UB' list twelve") != *$'\033'* ]] ||
		fail "a dumb terminal has colours"
fi

# status: in words, as JSON, by its exit status alone
run "$UB" status twelve
assert_eq "$STATUS $OUT" "0 /dev/ublkb12 (twelve): online, 3 MiB, read only, 3 MiB of memory" \
	"the status of 12"
run "$UB" status --all
assert_eq "$STATUS $(wc -l <<<"$OUT")" '0 3' "the status of all"
run "$UB" status -q 3 twelve
assert_eq "$STATUS $OUT" '0 ' "the quiet status"
assert_eq "$("$UB" status --json 3 | jq -c '[.[] | .id, .status]')" '[3,"online"]' "as JSON"
assert_fails 1 'there is no device 13' "$UB" status 13
assert_fails 2 'status of which device\?' "$UB" status
assert_fails 2 'status of which device\?' "$UB" status --all 3

# a keeper that is gone: still live, and how to end it
kill -KILL "$hundred"
ends_with 137 "$hundred"
take_list
assert_eq "$(field 100 state) $(field 100 keeper_pid)" 'live null' "the device without a keeper"
assert_eq "$(field 100 remedy)" 'its keeper is gone: recover it' "its remedy"
assert_match "$("$UB" list)" $'\n  its keeper is gone: .* \(ublk-bridge recover ublk100\)'
run "$UB" status 100
assert_eq "$STATUS" 4 "the exit status for a device without a keeper"
assert_match "$OUT" '^/dev/ublkb100 \(ublk100\): orphan, ' "the device without a keeper"
run "$UB" status -q --all
assert_eq "$STATUS" 4 "the exit status where one of three is not as it should be"

# the run directory of another is lost: ours by the mark in the driver, its name unknown
mv "$UBLK_BRIDGE_RUNDIR/ublk3" lost
take_list
assert_eq "$(field 3 ours) $(field 3 name) $(field 3 state)" 'true null live' \
	"the device without a directory"
assert_match "$("$UB" list | grep ublkb3)" '\(run directory lost\)$'
mv lost "$UBLK_BRIDGE_RUNDIR/ublk3"

# state files that are broken or of another time are not believed
mkdir "$UBLK_BRIDGE_RUNDIR/broken" "$UBLK_BRIDGE_RUNDIR/empty" "$UBLK_BRIDGE_RUNDIR/old"
echo '{"version": 1, "name"' >"$UBLK_BRIDGE_RUNDIR/broken/state.json"
: >"$UBLK_BRIDGE_RUNDIR/empty/state.json"
sed 's/"cookie": "[^"]*"/"cookie": "7562000000000000"/; s/"name": "[^"]*"/"name": "old"/' \
	"$UBLK_BRIDGE_RUNDIR/twelve/state.json" >"$UBLK_BRIDGE_RUNDIR/old/state.json"
sed 's/"version": 1/"version": 2/' "$UBLK_BRIDGE_RUNDIR/twelve/state.json" \
	>"$UBLK_BRIDGE_RUNDIR/empty/state.json"
take_list
assert_eq "$(field 12 name)" twelve "the name of 12"

# they are in the list all the same, behind the devices, with what removes them
stale() { jq -r ".[] | select(.name == \"$1\").$2" json; }
assert_eq "$(jq -c '[.[].id]' json)" '[3,12,100,null,null,null]' "the devices, and what has none"
assert_eq "$(jq '[.[] | length] | unique | .[]' json)" 22 "the number of keys of each"
for name in broken empty old; do
	assert_eq "$(stale $name 'device') $(stale $name state) $(stale $name ours)" \
		'null stale true' "the directory $name"
	assert_match "$(stale $name remedy)" '^detach it by its name, or attach'
	assert_match "$("$UB" list)" \
		$'\n'"- +$name +stale .*"$'\n'"  its .*\(ublk-bridge detach $name\)"
done
assert_eq "$(stale old health_why)" 'its device is gone' "what is wrong with old"
assert_eq "$(stale broken health_why)" 'its state.json cannot be understood' \
	"what is wrong with broken"
assert_eq "$(stale empty health_why)" 'its state.json cannot be understood' \
	"what is wrong with one of another version"
for name in broken old; do
	run "$UB" detach $name
	assert_eq "$STATUS" 0 "the status of detach $name"
	assert_match "$ERR" "'$name' has no device that is known: its run directory is removed"
done
assert_fails 1 "no device is named 'broken'" "$UB" detach broken
# what is not ours in it is not removed, and said
mkdir "$UBLK_BRIDGE_RUNDIR/empty/foreign"
assert_fails 1 \
	"'empty' has no device, and its run directory cannot be removed: Directory not empty" \
	"$UB" detach empty
rmdir "$UBLK_BRIDGE_RUNDIR/empty/foreign"
# a new device takes the name over
attach --mem 1M --id 50 --name empty
take_list
assert_eq "$(jq -c '[.[].id]' json)" '[3,12,50,100]' "the devices when the directory was taken over"
detach
[ ! -e "$UBLK_BRIDGE_RUNDIR/empty" ] || fail "the directory that was taken over stays"
DEV=/dev/ublkb100

# info of the one without a keeper: what is known without it
run "$UB" info 100 --json
assert_eq "$STATUS" 0 "the status of info of an orphan"
assert_eq "$(jq -c '[.name, .state, .keeper_pid, .size_bytes, .data_path, .backend, .health,
	.logical_block_bytes]' <<<"$OUT")" \
	'["ublk100","orphan",null,1048576,"get-data","mem","online",512]' "info of an orphan"
assert_eq "$(jq .server_pid <<<"$OUT")" "$(field 100 server_pid)" "its server"
assert_match "$("$UB" info 100)" 'state +orphan'
assert_fails 1 'there is no device 99' "$UB" info 99

"$UB" detach 100
KEEPER=$three DEV=/dev/ublkb3 detach
KEEPER=$twelve DEV=/dev/ublkb12 detach
assert_nothing_left
