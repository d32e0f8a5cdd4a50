#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# "Testing a migration" of the man page, line by line: a database that is written all the time moves
# to an NBD server, which is killed on the way, and back into memory in two steps; no insert fails,
# and sqlite finds nothing wrong.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-migrate.bash"
require sqlite3 mkfs.ext4 e2fsck

# insert_all_the_time: until an insert fails
insert_all_the_time() {
	# rows() reads meanwhile
	while sqlite3 -cmd '.timeout 10000' mnt/db 'insert into t (x) values (randomblob(5000))'; \
		do :; done
}
rows() { sqlite3 -cmd '.timeout 10000' mnt/db 'select count(*) from t'; }
more_rows() { [ "$(rows)" -gt "$1" ]; }

# goes_on: no insert has failed, and there are more of them
goes_on() {
	process_alive "$WRITER" || fail "an insert has failed: $(cat insert.err)"
	await 30 more_rows "$(rows)"
}

"$UB" -d --name trial --mem 96M >out 2>attach.err || fail "attach: $(cat attach.err)"
DEV=$(<out) ID=${DEV#/dev/ublkb}
mkfs.ext4 -q "$DEV"
mkdir mnt
mount "$DEV" mnt
head -c 40M /dev/urandom >mnt/filler
sqlite3 mnt/db 'create table t (n integer primary key, x blob)'
insert_all_the_time 2>insert.err &
WRITER=$!
await 20 more_rows 5

note "to a server, which is killed on the way"
truncate -s 96M disk.img
nbdkit -U nbd.sock -P nbd.pid file disk.img
"$UB" migrate trial --rate-limit 1M/s "nbd+unix:///?socket=$PWD/nbd.sock" >move.out 2>move.err &
MIGRATE=$!
await 20 in_phase copying
goes_on
kill -KILL "$(<nbd.pid)"
await 20 in_phase paused
goes_on
rm nbd.sock nbd.pid
nbdkit -U nbd.sock -P nbd.pid file disk.img
"$UB" migrate trial --rate-limit 0
moved
assert_eq "$(backend)" nbd "the back end"
goes_on

note "back into memory, in two steps"
"$UB" migrate trial --wait-for-cutover --mem 96M >out 2>err || fail "--wait-for-cutover: $(cat err)"
assert_match "$(<out)" 'both sides agree'
goes_on
"$UB" migrate trial --complete >out 2>err || fail "--complete: $(cat err)"
assert_match "$(<out)" 'migrated to'
assert_eq "$(backend)" mem "the back end"
goes_on

note "did the database notice?"
process_alive "$WRITER" || fail "an insert has failed: $(cat insert.err)"
kill "$WRITER"
wait "$WRITER" || true
wait_for 10 eval '! pgrep -x sqlite3'
umount mnt
mount "$DEV" mnt
assert_eq "$(sqlite3 mnt/db 'pragma integrity_check')" ok "integrity_check"
note "$(rows) rows"
# the rows are numbered without a gap: none was lost
assert_eq "$(sqlite3 mnt/db 'select max(n) - count(*) from t')" 0 "rows that are missing"
umount mnt
e2fsck -fn "$DEV" >fsck.out 2>&1 || fail "e2fsck: $(cat fsck.out)"
"$UB" detach trial
await 10 no_device "$ID"
kill "$(<nbd.pid)"
no_d_state
