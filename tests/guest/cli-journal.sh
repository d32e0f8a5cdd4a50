#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Started by systemd, or as a daemon where there is a journal, the keeper's lines go there with
# their priority and their device; without one they go where they went before. The journal is a
# socket that the test listens on.
# kernels: 7
# push: 7
# timeout: 60
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require python3 jq
[[ $(ldconfig -p) = *libsystemd.so.0* ]] || skip "no libsystemd on this machine"

SOCKET=/run/systemd/journal/socket
[ ! -e $SOCKET ] || skip "a journal runs here"
mkdir -p /run/systemd/journal
trap 'rm -f $SOCKET; kill "${journal:-}" 2>/dev/null || true' EXIT

cat >journal.py <<'PYTHON'
# A line of JSON for each message: its fields. (A value with a newline would come in the other form;
# there is none.)
import json, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
while True:
    fields = dict(l.split("=", 1) for l in s.recv(65536).decode().splitlines() if "=" in l)
    print(json.dumps(fields), flush=True)
PYTHON

# entry FILTER: one that was written and matches
entry() { [ -n "$(jq -c "select($1)" entries)" ]; }

python3 journal.py $SOCKET >>entries &
journal=$!
await 20 test -S $SOCKET

note "stderr is the journal's"
: >stream
id=$(stat -c %d:%i stream)
JOURNAL_STREAM=$id "$UB" --no-recovery --mem 1M --name noted >out 2>>stream &
KEEPER=$!
await 20 line_or_death out $KEEPER
if ! wait_for 3 entry '.MESSAGE | test("^/dev/ublkb0: 1 MiB of mem")'; then
	grep -q . entries || ! says stream '1 MiB of mem' || skip "this build has no libsystemd"
	fail "the journal has $(cat entries), and stderr $(cat stream)"
fi
entry '.DEVICE == "/dev/ublkb0" and .DEVICE_NAME == "noted" and .PRIORITY == "5" and
	.SYSLOG_IDENTIFIER == "ublk-bridge"' ||
	fail "the fields are $(cat entries)"
[ ! -s stream ] || fail "stderr has them too: $(cat stream)"
note "an error, and a device that is named in each line"
kill -KILL "$(child_of "$KEEPER")"
ends_with 1
wait_for 5 entry '.PRIORITY == "3" and .DEVICE == "/dev/ublkb0" and
	(.MESSAGE | test("the server was killed by signal 9"))' ||
	fail "the journal has $(cat entries)"
! entry '.DEVICE and (.MESSAGE | test("/dev/ublkb0") | not)' ||
	fail "a line without its device: $(cat entries)"

note "stderr is something else: JOURNAL_STREAM was inherited"
: >entries
JOURNAL_STREAM=$(stat -c %d:%i entries) "$UB" --mem 1M >out 2>err &
KEEPER=$!
await 20 line_or_death out $KEEPER
await 5 says err '/dev/ublkb0: 1 MiB of mem'
kill -TERM $KEEPER
ends_with 0
[ ! -s entries ] || fail "the journal has what is stderr's: $(cat entries)"

note "a daemon"
"$UB" --daemon --mem 1M --name daemon >out
"$UB" detach daemon
await 10 entry '.DEVICE_NAME == "daemon" and (.MESSAGE | test("served 0 reads|served"))'

note "the journal ends while it is used"
: >stream
id=$(stat -c %d:%i stream)
JOURNAL_STREAM=$id "$UB" --mem 1M --name noted >out 2>>stream &
KEEPER=$!
await 20 line_or_death out $KEEPER
kill $journal
wait $journal || true
rm -f $SOCKET
kill -TERM $KEEPER
ends_with 0
says stream '^ublk-bridge: /dev/ublkb0 served' ||
	fail "what the journal does not take is lost: $(cat stream)"
assert_nothing_left
