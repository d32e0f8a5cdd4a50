#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# metrics: OpenMetrics text that a strict parser takes, and the older format that promtool takes,
# with the figures of stats; all devices, and the dead ones.
# kernels: 6.12 7
# push: 7
# timeout: 60
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require jq nbdkit

parse() { awk -f "$(dirname "$0")/openmetrics.awk" "$@"; }
# take: the metrics of now, parsed, in samples
take() {
	"$UB" metrics --openmetrics >text
	parse text >samples || fail "OpenMetrics that are none"
}
# sample NAME{LABELS}: its value, or nothing
sample() {
	want="$1 " awk 'index($0, ENVIRON["want"]) == 1 {
		print substr($0, length(ENVIRON["want"]) + 1) }' samples
}
value() { "$UB" stats "$1" --json | jq -r "$2"; }
idle() {
	local before
	before=$(value "$1" .turns)
	nap 0.3
	[ "$(value "$1" .turns)" = "$before" ]
}

# --- the parser is one: it finds what is wrong
right=$'# TYPE a counter\n# HELP a An a.\na_total{x="1"} 1\n'
right+=$'# TYPE h_s histogram\n# UNIT h_s s\n# HELP h_s An h.\n'
right+=$'h_s_bucket{x="\\"",le="0.5"} 1\nh_s_bucket{x="\\"",le="+Inf"} 2\n'
right+=$'h_s_count{x="\\""} 2\nh_s_sum{x="\\""} 2.5\n# EOF'
parse <<<"$right" >/dev/null || fail "the parser refuses what is right"
while IFS='|' read -r from to; do
	wrong=${right/"$from"/$to}
	[ "$wrong" != "$right" ] || fail "the test changes nothing: $from"
	! parse <<<"$wrong" >/dev/null 2>&1 || fail "the parser takes this: $wrong"
done <<'END'
# EOF|# EOF # more
# EOF|
a_total{|a{
counter|meter
# HELP a An a.|# HELPING
x="1"|x=1
x="1"|x="\1"
} 1|} one
le="0.5"|le="7",le="5"
"} 1|"} -1
h_s_count{x="\""} 2|h_s_count{x="\""} 3
le="+Inf"|le="0.6"
# UNIT h_s s|# UNIT h_s m
le="0.5"} 1|le="0.5"} 3
END

# --- no device
"$UB" metrics >text
parse text >samples || fail "the metrics of no devices"
assert_match "$(<samples)" $'^ublk_bridge_build_info\\{version="[0-9.]+"\\} 1$' \
	"samples of no devices"

# --- two, and one that is not measured
attach --mem 64M --id 5 --name five
five=$KEEPER
attach --mem 16M --id 10 --queues 2 --no-stats --data-path user-copy
ten=$KEEPER
dd if=/dev/zero of=/dev/ublkb5 bs=64k count=20 oflag=direct status=none
dd if=/dev/ublkb10 of=/dev/null bs=4k count=7 iflag=direct status=none
await 20 idle 5
await 20 idle 10
"$UB" stats 5 --json >five.json
"$UB" stats 10 --json >ten.json
take
assert_eq "$(grep -c . samples)" "$(grep -vc '^#' text)" "samples"
assert_eq "$(tail -n 1 text)" "# EOF" "the last line"
for device in 'five device="/dev/ublkb5",name="five"' 'ten device="/dev/ublkb10",name="ublk10"'; do
	read -r file labels <<<"$device"
	assert_eq "$(sample "ublk_bridge_up{$labels}")" 1 "up"
	for op in read write flush discard write_zeroes; do
		for pair in ios:ios_total bytes:bytes_total errors:io_errors_total; do
			assert_eq "$(sample "ublk_bridge_${pair#*:}{$labels,op=\"$op\"}")" \
				"$(jq ".operations.$op.${pair%:*}" "$file".json)" \
				"$pair of $op of $file"
		done
	done
	assert_eq "$(sample "ublk_bridge_turns_total{$labels}")" "$(jq .turns "$file".json)" "turns"
	assert_eq "$(sample "ublk_bridge_in_flight{$labels}")" 0 "in flight"
	assert_eq "$(sample "ublk_bridge_size_bytes{$labels}")" "$(jq .size_bytes "$file".json)" \
		"the size"
	for call in io_uring_enter copy; do
		assert_eq "$(sample "ublk_bridge_syscalls_total{$labels,call=\"$call\"}")" \
			"$(jq ".syscalls.$call" "$file".json)" \
			"$call"
	done
done
labels='device="/dev/ublkb5",name="five"'
assert_eq \
	"$(sample \
	"ublk_bridge_info{$labels,backend=\"mem\",data_path=\"get-data\",queues=\"1\"}")" 1 "info"
assert_eq "$(sample "ublk_bridge_io_latency_seconds_count{$labels,op=\"write\"}")" \
	"$(jq .operations.write.latency.count five.json)" "latencies of writes"
sum=$(sample "ublk_bridge_io_latency_seconds_sum{$labels,op=\"write\"}")
assert_eq "$((10#${sum/./}))" "$(jq .operations.write.latency.sum_ns five.json)" "their sum in ns"
# half of them are below the bucket that has the median's end, and not below the one before
p50=$(jq .operations.write.latency.p50_ns five.json) \
	count=$(jq .operations.write.latency.count five.json)
for ((le = 1024; le < p50; le *= 2)); do :; done
bucket() {
	awk -v le="$1" 'BEGIN { of = "{device=\"/dev/ublkb5\",name=\"five\",op=\"write\",le=" }
		index($0, "ublk_bridge_io_latency_seconds_bucket" of) && match($0, /le="[^"]*"/) &&
		int(substr($0, RSTART + 4, RLENGTH - 5) * 1e9 + 0.5) == le { print $NF }' samples
}
assert_le $(((count + 1) / 2)) "$(bucket $le)" "half the writes"
[ $le -eq 1024 ] || assert_le "$(bucket $((le / 2)))" $((count / 2 + count / 20 + 1)) \
	"writes below the median"
# what is not there is not said
! grep -q '^ublk_bridge_backend' samples || fail "mem has no server"
! grep -q 'io_latency.*ublkb10' samples || fail "--no-stats has latencies"

# --- a migration has its own, for as long as it lasts
! grep -q '^ublk_bridge_migration' samples || fail "there is no migration"
nbdkit -U side.sock -P side.pid memory 64M
"$UB" migrate five --wait-for-cutover "nbd+unix:///?socket=$PWD/side.sock" >out 2>err ||
	fail "migrate: $(cat err)"
take
for phase in connecting copying paused in-step cutover; do
	assert_eq "$(sample "ublk_bridge_migration_phase{$labels,phase=\"$phase\"}")" \
		"$([ $phase = in-step ] && echo 1 || echo 0)" \
		"the phase $phase"
done
assert_eq "$(sample "ublk_bridge_migration_total_bytes{$labels}")" $((64 << 20)) \
	"the bytes to be moved"
assert_eq "$(sample "ublk_bridge_migration_dirty_bytes{$labels}")" 0 "the bytes that are left"
"$UB" stats five --json >five.json
for bytes in copied zeroed mirrored; do
	assert_eq "$(sample "ublk_bridge_migration_${bytes}_bytes{$labels}")" \
		"$(jq ".migration.${bytes}_bytes" five.json)" "bytes $bytes"
done
! grep -q '^ublk_bridge_migration.*ublkb10' samples || fail "a migration of another device"
"$UB" migrate five --cancel
take
! grep -q '^ublk_bridge_migration' samples || fail "the migration is over"
kill "$(<side.pid)"

# --- the older format: the same samples, each with a type and a help of its very name
"$UB" metrics >older
assert_eq "$(sed -E 's/^([a-z_]+).*/\1/' older | grep -v '^#' | sort -u)" \
	"$(sed -E 's/^([a-z_]+).*/\1/' text | grep -v '^#' | sort -u)" \
	"the names of the samples"
for word in TYPE HELP; do
	grep -v '^#' older | sed -E 's/[{ ].*//; s/^(.*_latency_seconds)_(bucket|count|sum)$/\1/' \
		| sort -u >named
	sed -nE "s/^# $word ([a-z_]+) .+/\1/p" older | sort -u | comm -23 named - >missing
	[ ! -s missing ] || fail "no $word: $(tr '\n' ' ' <missing)"
done
! grep -q '^# UNIT' older || fail "a comment that the older format does not have"
if command -v promtool >/dev/null; then
	run bash -c 'promtool check metrics <older'
	assert_eq "$STATUS $OUT$ERR" '0 ' "what promtool says"
else
	note "promtool is not there (package prometheus): its rules were looked at without it"
fi

# --- a label is escaped
state=$UBLK_BRIDGE_RUNDIR/five/state.json
cp "$state" saved
sed -i 's/"backend": "mem"/"backend": "m\\"e\\\\m"/' "$state"
take
assert_eq \
	"$(sample \
	"ublk_bridge_info{$labels,backend=\"m\\\"e\\\\m\",data_path=\"get-data\",queues=\"1\"}")" \
	1 \
	"info with a label that is escaped"
cp saved "$state"

# --- a keeper that does not answer
kill -KILL "$ten"
ends_with 137 "$ten"
take
assert_eq "$(grep -c 'ublkb10"' samples)" 1 "samples of a device without a keeper"
assert_eq "$(sample 'ublk_bridge_up{device="/dev/ublkb10",name="ublk10"}')" 0 "up"
assert_eq "$(sample "ublk_bridge_up{$labels}")" 1 "up of the other"

# --- usage; half a text is an error
assert_fails 2 "takes no 'five'" "$UB" metrics five
assert_fails 1 'cannot be written' bash -c "'$UB' metrics >/dev/full"
"$UB" detach 10
KEEPER=$five DEV=/dev/ublkb5 detach
assert_nothing_left
