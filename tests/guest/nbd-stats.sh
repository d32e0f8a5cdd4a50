#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# stats and metrics of an NBD device: an outage of two seconds is one, and lasted so long; what was
# sent again, and how long was waited.
# kernels: 6.12 7
# push: 7
# timeout: 90
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-nbd.bash"
require jq

value() { "$UB" stats "$ID" --json | jq -r "$1"; }
idle() {
	local before
	before=$(value .turns)
	nap 0.3
	[ "$(value .turns) $(value .in_flight)" = "$before 0" ]
}
three_wait() { [ "$(value .in_flight)" = 3 ]; }
# now_ms: of a clock that is the tests' and the keeper's
now_ms() {
	local up
	read -r up _ </proc/uptime
	printf '%s\n' $((10#${up/./} * 10))
}
metrics() { "$UB" metrics --openmetrics | awk -f "$(dirname "$0")/openmetrics.awk" >samples ||
	fail "OpenMetrics that are none"; }
# sample NAME: of the only device, a whole number
sample() { awk -v want="ublk_bridge_backend_$1{" 'index($0, want) == 1 { printf "%d\n", $NF }' \
	samples; }

make_image 16M
serve --filter=log file "$IMG" logfile="$TEST_DIR/requests"
attach "$URI" -C 2
await 20 idle
"$UB" stats "$ID" --json >before
jq -e '.backend | .connections == 2 and .connections_online == 2 and .reconnects == 0 and
	.retries == 0 and .outages == 0 and .outage_seconds == 0 and .failed_connects == 0 and
	.is_online' before >/dev/null ||
	fail "at first: $(jq -c .backend before)"
# each request was sent once, and the server has seen them all
assert_eq "$(jq .backend.requests before)" "$(jq '[.operations[].ios] | add' before)" "requests"
assert_eq "$(grep -cE ' (Read|Write|Flush|Trim|Zero) .*\.\.\.$' "$TEST_DIR/requests")" \
	"$(jq .backend.requests before)" \
	"requests in the server's log"

# --- three reads are in flight when the server dies
kill -STOP "$SERVER"
began=$(now_ms)
start_readers 3
await 10 three_wait
nap 1
unserve
died=$(now_ms)
await 10 is_offline
during=$(value .backend.outage_seconds)
nap 2
metrics
assert_eq "$(sample up) $(sample connections)" "0 0" "up and connections"
jq -ne "$(value .backend.outage_seconds) - $during >= 1.9" >/dev/null ||
	fail "an outage that stands still"
serve file "$IMG"
for pid in "${READERS[@]}"; do
	wait "$pid" || fail "a read has failed"
done
await 10 is_online
both_online() { [ "$(value .backend.connections_online)" = 2 ]; }
await 10 both_online
lasted=$(($(now_ms) - died))
waited=$(($(now_ms) - began))

"$UB" stats "$ID" --json >after
jq -e '.backend | .reconnects == 2 and .outages == 1 and .is_online and .failed_connects >= 1' \
	after \
	>/dev/null || fail "afterwards: $(jq -c .backend after)"
# at least those three were sent again; one of them twice, if it met the other connection before
# that had ended, too
retries=$(jq .backend.retries after)
assert_le 3 "$retries" "the least number of requests sent again"
assert_le "$retries" 6 "requests sent again"
assert_eq "$(($(jq .backend.requests after) - $(jq .backend.requests before)))" $((3 + retries)) \
	"requests sent for three reads"
assert_eq "$(($(jq .operations.read.ios after) - $(jq .operations.read.ios before)))" 3 "reads"
outage=$(jq '.backend.outage_seconds * 1000 | floor' after)
assert_le 2000 "$outage" "the shortest that an outage of 2 s can last, in ms,"
assert_le "$outage" "$lasted" "the outage in ms"
# they waited for their answers for a second each, and not while nobody could be asked
wait_ms=$(jq -n --slurpfile a after --slurpfile b before \
	'($a[0].backend.wait_seconds - $b[0].backend.wait_seconds) * 1000 | floor')
assert_le 3000 "$wait_ms" "the least that three reads waited, in ms,"
assert_le "$wait_ms" $((3 * (waited - outage + 200))) "the wait in ms"
# … but the programs did: that is the latency
assert_le 3000 "$(jq '.operations.read.latency.max_ns / 1000000 | floor' after)" \
	"the least latency in ms"
assert_le "$(jq '.operations.read.latency.max_ns / 1000000 | floor' after)" $((waited + 100)) \
	"the latency in ms"

# --- the same in metrics and in the table
metrics
assert_eq "$(sample up) $(sample connections) $(sample connections_wanted)" "1 2 2" \
	"up and connections"
assert_eq "$(sample reconnects_total) $(sample retries_total) $(sample outages_total)" \
	"2 $retries 1" \
	"reconnects, retries, outages"
assert_eq "$(sample outage_seconds_total)" $((outage / 1000)) "the outage in s"
"$UB" stats "$ID" >table
assert_match "$(tail -n 2 table)" \
	"^server: online, 2 of 2 connections, 2 reconnects, 1 outage \\([0-9.]+ s\\)"$'\n'"$(
	)  [0-9]+ requests \\($retries sent again\\), "

# --- one that is silent, not gone, is an outage too, from when it fell silent
detach
unserve TERM
serve file "$IMG"
attach "$URI" --stall-timeout 1s
await 20 idle
kill -STOP "$SERVER"
start_readers 1
await 10 is_offline
nap 1
kill -CONT "$SERVER"
await 10 is_online
wait "${READERS[0]}" || fail "a read has failed"
"$UB" stats "$ID" --json >after
jq -e '.backend | .outages == 1 and .outage_seconds >= 1.9 and .outage_seconds < 10' after \
	>/dev/null ||
	fail "a stall: $(value .backend)"
detach
unserve TERM
assert_nothing_left
