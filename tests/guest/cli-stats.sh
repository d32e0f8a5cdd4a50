#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# stats: what was counted is what was done, to the I/O and the byte; latencies that can be true;
# rates.
# kernels: 6.12 7
# push: 7
# timeout: 90
# sanitize: yes
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require jq fio

# value DEVICE FILTER: of stats --json, by jq
value() { "$UB" stats "$1" --json | jq -r "$2"; }
# count DEVICE OPERATION: "ios bytes errors"
count() { value "$1" ".operations.$2 | \"\(.ios) \(.bytes) \(.errors)\""; }
# idle DEVICE: nobody looks at it any more: udev, blkid
idle() {
	local before
	before=$(value "$1" .turns)
	nap 0.3
	[ "$(value "$1" .turns) $(value "$1" .in_flight)" = "$before 0" ]
}
# more DEVICE OPERATION BEFORE IOS BYTES: so many more than BEFORE ("ios bytes errors") said, no
# error
more() {
	local before after
	read -ra before <<<"$3"
	read -ra after <<<"$(count "$1" "$2")"
	assert_eq "$((after[0] - before[0])) $((after[1] - before[1])) ${after[2]}" "$4 $5 0" \
		"$2s of $1"
}

attach --mem 64M --id 5 --name five --data-path get-data
five=$KEEPER
attach --mem 16M --id 6 --queues 2 --data-path user-copy --no-stats
six=$KEEPER
await 20 idle 5
await 20 idle 6

# --- counters, exactly
read5=$(count five read) write5=$(count five write) flush5=$(count five flush)
read6=$(count 6 read) write6=$(count 6 write)
dd if=/dev/zero of=/dev/ublkb5 bs=64k count=37 oflag=direct status=none
dd if=/dev/ublkb5 of=/dev/null bs=4k count=101 iflag=direct status=none
dd if=/dev/zero of=/dev/ublkb5 bs=8k count=10 oflag=direct status=none
for _ in 1 2 3 4 5; do sync /dev/ublkb5; done
more five write "$write5" 47 $((37 * 65536 + 10 * 8192))
more five read "$read5" 101 $((101 * 4096))
more five flush "$flush5" 5 0
blkdiscard -o 1M -l 1M /dev/ublkb5
assert_eq "$(count five discard)" "1 1048576 0" "discards"
blkdiscard -z -o 2M -l 256K /dev/ublkb5
assert_eq "$(count five write_zeroes)" "1 262144 0" "writes of zeroes"
# the other device has seen nothing of that
assert_eq "$(count 6 read)/$(count 6 write)" "$read6/$write6" "the counters of 6"

# --- latencies, and the rest of the shape
"$UB" stats /dev/ublkb5 --json >json
assert_eq "$(jq -r '[.operations | keys[]] | join(" ")' json)" \
	"discard flush read write write_zeroes" "the operations"
assert_eq "$(jq -r '[.operations[].latency.count] | add' json)" \
	"$(jq -r '[.operations[].ios] | add' json)" "latencies"
jq -e '.operations[] | .latency | select(.count > 0) |
	.p50_ns > 0 and .p50_ns <= .p90_ns and .p90_ns <= .p99_ns and .p99_ns <= .p999_ns and
	.p999_ns <= .max_ns and .max_ns < 60000000000 and .sum_ns >= .max_ns and
	.sum_ns <= .max_ns * .count' json >ordered ||
	fail "latencies that cannot be: $(jq -c .operations json)"
! grep -v true ordered || fail "latencies that cannot be: $(jq -c .operations json)"
jq -e '.name == "five" and .device == "/dev/ublkb5" and .id == 5 and .kind == "mem" and
	.in_flight == 0 and .has_latencies == true and .data_path == "get-data" and
	.queues == 1 and .syscalls.copy == 0 and
	.syscalls.io_uring_enter >= .turns and .batch.count <= .turns and
	.batch.count == (.batch.sizes | add) and .batch.mean >= 1 and .batch.max >= .batch.mean and
	.backend.connections == 0 and .backend.outage_seconds == 0 and
	.backend.is_online' json >/dev/null ||
	fail "not as it should be: $(jq -c . json)"
# the clocks: this machine's, and no more than the time since the attach
assert_le "$(jq '.uptime_seconds | floor' json)" $((SECONDS + 1)) "seconds of uptime"
since=$(jq .since json)
assert_le "$since" "$(date +%s)" "since"
assert_le $(($(date +%s) - SECONDS - 2)) "$since" "the earliest time that since can be"

# --- a batch: many at once come back in fewer turns
batches=$(value five .batch.count) commits=$(value five '[.operations[].ios] | add')
fio --name=deep --filename=/dev/ublkb5 --rw=randread --bs=4k --io_size=4M --iodepth=32 \
	--iodepth_batch=32 \
	--iodepth_batch_complete_min=32 --ioengine=io_uring --direct=1 --allow_file_create=0 \
	--output=fio.out
[ "$(value five .batch.max)" -gt 1 ] || fail "no batch of more than one: $(value five .batch)"
[ $(($(value five .batch.count) - batches)) -lt \
	$(($(value five '[.operations[].ios] | add') - commits)) ] ||
	fail "as many batches as I/Os: $(value five .batch)"

# --- no-stats: counted all the same, not measured; user-copy is a call for each
copies=$(value 6 .syscalls.copy)
dd if=/dev/zero of=/dev/ublkb6 bs=4k count=25 oflag=direct status=none
more 6 write "$write6" 25 102400
assert_eq "$(value 6 .has_latencies)" false "has_latencies"
assert_eq "$(value 6 '[.operations[].latency | .count, .sum_ns, .max_ns, .p50_ns] | add')" 0 \
	"what --no-stats measures"
assert_eq "$(($(value 6 .syscalls.copy) - copies))" 25 "calls that copy"

# --- in flight: I/Os that hang; errors
three_hang() { [ "$(value 7 .in_flight)" = 3 ]; }
attach_hanging 16M --id 7
seven=$KEEPER
start_readers 3
await 10 three_hang
errors=$(value 7 .operations.read.errors)
"$UB" detach 7 --force &
readers_fail 30
wait $!
assert_eq "$errors" 0 "errors before"
ends_with 0 "$seven"
says "$ATTACH_ERR" '3 failed$' || fail "the last words: $(tail -n 1 "$ATTACH_ERR")"

# --- the table, and rates
"$UB" stats five >table
assert_match "$(head -n 1 table)" '^/dev/ublkb5 \(five\): mem, up [0-9]+ s, 0 in flight$'
assert_match "$(grep '^discard' table)" '^discard +1 +1M +0 .*[0-9](ns|us|ms|s)$'
assert_le "$(wc -L <table)" 80 "the width of the table"
"$UB" stats 6 >table
assert_match "$(grep '^write ' table)" ' - +- +- +-$'
dd if=/dev/ublkb5 of=/dev/null bs=4k iflag=direct status=none &
timeout 3 "$UB" stats five --watch=1 >watched || assert_eq $? 124 "the watcher's exit status"
wait $!
assert_le 2 "$(grep -c '^OPERATION' watched)" "tables"
read -r ios rate <<<"$(grep '^read ' watched | sed -n 2p | awk '{ print $2, $5 }')"
assert_le 1 "$rate" "the least rate of reads"
assert_le "$rate" "$ios" "the rate of reads in a second"
timeout 2 "$UB" stats five --watch 0.5 --json >watched ||
	assert_eq $? 124 "the watcher's exit status"
assert_eq "$(jq -s 'length >= 2 and .[1].time_ns - .[0].time_ns >= 500000000' watched)" true \
	"what --watch --json prints"

# --- usage, and devices that are not there
assert_fails 2 'stats of which device' "$UB" stats
assert_fails 2 'one device' "$UB" stats 5 6
assert_fails 2 'too often' "$UB" stats 5 --watch=0
assert_fails 1 'no device' "$UB" stats 99
"$UB" stats five --watch=0.1 >watched 2>err &
watcher=$!
await 10 test -s watched
KEEPER=$five DEV=/dev/ublkb5 detach
ends_with 1 "$watcher"
KEEPER=$six DEV=/dev/ublkb6 detach
assert_nothing_left
