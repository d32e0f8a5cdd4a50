#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# blkstamp on a plain file: it is content with what is right, and finds each kind of wrong that it
# is for.
set -euo pipefail

TOOL=$PWD/blkstamp
# where a flush costs nothing
DIR=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
trap 'rm -rf "$DIR"' EXIT
cd "$DIR"
SIZE=64K SECTORS=128

fail() {
	echo "FAIL: $* (line ${BASH_LINENO[0]})"
	exit 1
}

# stamp ARGUMENTS…: STATUS and OUT
stamp() {
	STATUS=0
	OUT=$("$TOOL" --journal journal --no-direct "$@" disk 2>&1) || STATUS=$?
}
good() {
	stamp "$@"
	[ $STATUS = 0 ] || fail "blkstamp $*: $OUT"
}
# bad REGEX: --verify ends with 1, and says it
bad() {
	stamp --verify
	[ $STATUS = 1 ] || fail "ended with $STATUS, not 1: $OUT"
	grep -qE "$1" <<<"$OUT" || fail "says \"$OUT\", which does not match \"$1\""
}
# some_run: stamps the file from the state before; old is as it was, now as it is
some_run() {
	cp disk old
	good --threads 4 --ops 30
	cp disk now
	good --verify
}
# sector FROM TO NUMBER: one of FROM, put into TO
sector() { dd if="$1" of="$2" bs=512 count=1 skip="$3" seek="$3" conv=notrunc status=none; }
# restore: as it was after some_run
restore() {
	cp now disk
	good --verify
}
# bytes OFFSET: from stdin, into the file at OFFSET
bytes() { dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }
# number COUNT: 32 bits, the lowest first
number() { printf '%b' "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) \
	$(($1 >> 16 & 255)) 0)"; }
# record SECTOR FIELD: acked, submitted, seen and zeroed are 0 to 3
record() { od -An -tu4 -N 4 -j $((4096 + $1 * 16 + $2 * 4)) journal | tr -d ' '; }
set_record() { number "$3" | bytes journal $((4096 + $1 * 16 + $2 * 4)); }

truncate -s $SIZE disk
good --size $SIZE --ops 100 --seed 1
some_run

# a sector that was written since
first=$({ cmp old now || true; } | sed -n 's/.* byte \([0-9]*\),.*/\1/p')
[ -n "$first" ] || fail "nothing was written"
changed=$(((first - 1) / 512))
at=$((changed * 512))

# a write that is lost, a stale sector
sector old disk "$changed"
bad "stale: the sector at $at .*expected write $(record "$changed" 0), found write"
restore
# a run finds it before it writes anything
sector old disk "$changed"
stamp --ops 100
[ $STATUS = 1 ] || fail "a run on a stale sector ended with $STATUS: $OUT"
restore

# one half of it is old
dd if=old bs=1 skip=$at count=256 status=none | bytes disk $at
bad "wrong: the sector at $at .*torn"
restore
# its last bytes are another's
printf 'abc' | bytes disk $((at + 500))
bad "wrong: the sector at $at .*torn"
restore
# another place's sector
dd if=now of=disk bs=512 count=1 skip=$(((changed + 1) % SECTORS)) seek="$changed" conv=notrunc \
	status=none
bad "wrong: the sector at $at .*of offset"
restore
# zeroes, and what was there before
dd if=/dev/zero of=disk bs=512 count=1 seek="$changed" conv=notrunc status=none
bad "wrong: the sector at $at .*found zeroes"
restore
head -c 512 "$TOOL" | bytes disk $at
bad "wrong: the sector at $at .*never written"
restore

# a write that was never acknowledged may be there or not, but reads do not go back in time
newest=$(record "$changed" 0)
set_record "$changed" 0 $((newest - 1))
set_record "$changed" 2 $((newest - 1))
good --verify
[ "$(record "$changed" 2)" = "$newest" ] || fail "what was read is not noted"
before=$(record "$changed" 0)
[ "$before" = $((newest - 1)) ] || fail "the journal is not as it was made"
dd if=/dev/zero of=disk bs=512 count=1 seek="$changed" conv=notrunc status=none
bad "expected write $newest"
restore
# a write from the future: nobody has sent it
set_record "$changed" 0 $((newest - 1))
set_record "$changed" 1 $((newest - 1))
set_record "$changed" 2 $((newest - 1))
bad "expected write $((newest - 1)), found write $newest "
for field in 0 1 2; do
	set_record "$changed" $field "$newest"
done
good --verify

# errors: a file that is shorter, and a device that takes nothing
truncate -s 60K disk
bad 'read of .* bytes at .*expected all of it, found 61440 bytes'
restore
STATUS=0
OUT=$("$TOOL" --journal full --no-direct --size $SIZE --ops 1 /dev/full 2>&1) || STATUS=$?
[ $STATUS = 1 ] || fail "/dev/full: ended with $STATUS: $OUT"
grep -q 'write of .*found error [0-9]*: ' <<<"$OUT" || fail "/dev/full: $OUT"

# old data comes back while it runs
"$TOOL" --journal journal --no-direct --threads 4 --seconds 60 disk >run.out 2>&1 &
pid=$!
while kill -0 $pid 2>/dev/null; do
	dd if=old of=disk bs=$SIZE conv=notrunc status=none
done
STATUS=0
wait $pid || STATUS=$?
[ $STATUS = 1 ] || fail "old data under a run: ended with $STATUS: $(<run.out)"
grep -qE '(stale|wrong): the sector at' run.out || fail "old data under a run: $(<run.out)"

# killed in the midst of it: another one checks, and goes on
rm journal
good --size $SIZE --ops 1
"$TOOL" --journal journal --no-direct --threads 4 --seconds 60 disk >run.out 2>&1 &
pid=$!
before=$(record 0 0)
until [ "$(record 0 0)" != "$before" ]; do
	kill -0 $pid || fail "it ended: $(<run.out)"
done
kill -KILL $pid
{ wait $pid || true; } 2>/dev/null
good --verify
some_run

# zeroes, which have no number
good --threads 4 --ops 150 --zeroes 20 --max-io 16
some='[1-9][0-9]*'
grep -qE "^stamped: $some writes, $some reads, $some flushes, $some writes of zeroes" <<<"$OUT" ||
	fail "totals: $OUT"
good --verify

# ended by a signal
"$TOOL" --journal journal --no-direct --threads 4 --seconds 60 disk >run.out 2>&1 &
pid=$!
before=$(record 0 0)
until [ "$(record 0 0)" != "$before" ]; do
	kill -0 $pid || fail "it ended: $(<run.out)"
done
kill -TERM $pid
wait $pid || fail "after SIGTERM: $(<run.out)"
good --verify
