#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# info and status: what a device is made of, how it is and who uses it, in units that people read;
# an outage is the first thing that they say, and status says it by its exit status.
# kernels: 6.12 7
# push: 7
# timeout: 120
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-nbd.bash"
require jq

# line KEY: its value in the file table
line() { sed -nE "s/^  $1 +//p" table; }
show() { "$UB" info "$1" >table; }
member() { "$UB" info "$1" --json | jq -c "$2"; }

# --- memory: how much of it is taken, who uses it, since when
attach --mem 64M --id 5 --name five
five=$KEEPER
show five
assert_eq "$(head -n 1 table)" '/dev/ublkb5 (five): online' "the first line"
assert_eq "$(line source)" '64 MiB of memory' "the source"
assert_eq "$(line size)" '64 MiB (67108864 bytes)' "the size"
assert_eq "$(line 'read only'), $(line 'used by')" 'no, none' "how it is used"
assert_match "$(line uptime)" '^[0-9]+(\.[0-9])? (s|ms)$' "the time"
assert_eq "$(line 'log level')" notice "the rest"
[[ $(<table) != *_bytes* && $(<table) != *$'\033'* ]] || fail "for machines: $(cat table)"
dd if=/dev/urandom of=/dev/ublkb5 bs=1M count=4 oflag=direct status=none
assert_le $((4 << 20)) "$(member five .memory_bytes)" "the memory that is taken"
assert_eq "$(member five '[.status, .connections, .connections_asked, .used_by]')" \
	'["online",null,null,null]' "members"
mkfs.ext4 -q /dev/ublkb5
mkdir mnt
mount /dev/ublkb5 mnt
show 5
assert_match "$(line 'used by')" "^mounted on .*/mnt\$" "who uses it"
assert_eq "$("$UB" list -o STATE five | tail -n 1)" online "the state in list"
umount mnt

# --- ps says which device a process is for, and its comm stays what programs look for
# args PID: as ps shows them
args() { tr '\0' ' ' <"/proc/$1/cmdline" | sed 's/ *$//'; }
stands_by() { [ "$(member five .standby_pid)" != null ]; }
await 20 stands_by
server=$(member five .server_pid) standby=$(member five .standby_pid)
assert_eq "$(args "$server")" 'ublk-bridge: server of /dev/ublkb5' "the server's line in ps"
assert_eq "$(args "$standby")" 'ublk-bridge: standby of /dev/ublkb5' "the standby's line"
assert_eq "$(<"/proc/$server/comm") $(<"/proc/$standby/comm")" 'ublk-server ublk-server' "comm"
kill -KILL "$server"
served_by() { [ "$(member five .server_pid)" = "$1" ]; }
await 20 served_by "$standby"
assert_eq "$(args "$standby")" 'ublk-bridge: server of /dev/ublkb5' "the next server's line"

# --- an NBD export: its connections
serve --filter=multi-conn memory 16M multi-conn-mode=disable
attach -C 4 --unix "$SOCK" --id 6 --name six
show six
assert_eq "$(line source)" "nbd+unix:///?socket=$SOCK" "the source"
assert_eq "$(line connections)" '1 of 1 (4 were asked for)' "the connections"
assert_eq "$(line 'outage limit'), $(line 'stall timeout')" 'none, 30 s' "the settings"
assert_eq "$(member six '[.status, .connections, .connections_online, .connections_asked]')" \
	'["online",1,1,4]' "members"
run "$UB" status six
assert_eq "$STATUS" 0 "the exit status of status"
assert_eq "$OUT" "/dev/ublkb6 (six): online, 16 MiB, nbd+unix:///?socket=$SOCK" "the status"

# --- an outage
unserve
await 10 is_offline
show six
assert_eq "$(head -n 1 table)" '/dev/ublkb6 (six): offline' "the first line in an outage"
assert_match "$(sed -n 2p table)" '^  nbd\+unix:.*: offline: the server closed the connection' "why"
assert_eq "$(line connections)" '0 of 1 (4 were asked for)' "the connections"
assert_eq "$(member six '[.status, .health, .connections_online]')" '["offline","offline",0]' \
	"members in an outage"
run "$UB" status six
assert_eq "$STATUS" 4 "the exit status in an outage"
assert_match "$OUT" $'^/dev/ublkb6 \\(six\\): offline, .*\n  nbd\\+unix:.*: offline: ' "the status"
run "$UB" status --all
assert_eq "$STATUS $(grep -c '^/dev/ublkb' <<<"$OUT")" '4 2' "the status of all"
run "$UB" status --quiet five
assert_eq "$STATUS$OUT$ERR" 0 "the quiet status of the healthy one"
assert_match "$("$UB" list)" $'\n/dev/ublkb6 +six +offline ' "the state in list"

"$UB" detach six --force
ends_with 0

# --- a keeper that is dead: who is asked says so, and what helps
standby=$(member five .standby_pid)
wait_for 20 stands_by && standby=$(member five .standby_pid)
server=$(member five .server_pid)
kill -KILL "$five"
ends_with 137 "$five"
assert_fails 1 "'five' has no keeper: that process is dead\. 'ublk-bridge recover five' starts" \
	"$UB" stats five
run "$UB" status five
assert_eq "$STATUS" 4 "the exit status without a keeper"
assert_match "$OUT" \
	$'orphan, .*\n  its keeper is gone: recover it \\(ublk-bridge recover five\\)$' \
	"how it is"

# --- all of its processes are dead, and with them its memory: no advice that cannot help
kill -KILL "$standby" "$server"
await 10 gone "$server"
dead() { [ "$("$UB" list -o STATE five | tail -n 1)" = dead ]; }
await 60 dead
run "$UB" status five
assert_eq "$STATUS" 4 "the exit status of what is dead"
assert_match "$OUT" \
	'  all its processes are dead, and its memory is lost: detach it .*detach five\)$' \
	"how it is"
run "$UB" detach five
assert_eq "$STATUS/$OUT/$ERR" 0// "detach of what is dead"
assert_nothing_left
