#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Whoever talks to the keeper cannot delay an I/O: fio's IOPS and its slowest one in a hundred, with
# connections, requests and nonsense coming in as fast as they go, and without.
# kernels: 7
# push: 7
# timeout: 120
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-control.bash"
require fio

# measure: IOPS and P99_US of some seconds of random reads and writes
measure() {
	fio --name=work --filename="$DEV" --rw=randrw --bs=4k --direct=1 --ioengine=libaio \
		--iodepth=8 \
		--time_based --runtime=4 --ramp_time=1 --output-format=json --output=fio.json \
		>fio.err 2>&1 ||
		fail "fio: $(cat fio.err)"
	IOPS=$(jq '.jobs[0] | (.read.iops + .write.iops) | floor' fio.json)
	P99_US=$(jq '.jobs[0].read.clat_ns.percentile["99.000000"] / 1000 | floor' fio.json)
	[ "$IOPS" -gt 100 ] || fail "fio did no work: $(cat fio.err)"
}

attach --mem 16M --name busy
measure
alone=$IOPS alone_us=$P99_US
# a process that takes as much of the CPU and asks nobody: what is left is not the flood's doing
bash -c 'while :; do :; done' &
spinner=$!
measure
spinning=$IOPS spinning_us=$P99_US
kill $spinner
wait $spinner || true
"$ASK" --flood "$(socket_of busy)" >flood &
flood=$!
measure
kill -TERM $flood
wait $flood || fail "the flood was none: $(cat flood)"
note "alone $alone IOPS, p99 $alone_us us; beside a spinner $spinning, $spinning_us us; $(
	)in the flood $IOPS, $P99_US us; $(cat flood)"

# flooder and keeper take CPUs away from fio; they hold nothing that an I/O waits for
[ $((IOPS * 4)) -ge "$spinning" ] ||
	fail "$IOPS IOPS in the flood, $spinning beside a spinner, $alone alone"
[ "$P99_US" -le $((spinning_us * 4 + 20000)) ] ||
	fail "p99 is $P99_US us in the flood, and $spinning_us us beside a spinner"

# and it still answers
assert_eq "$(asked busy info '' .state)" live "the state after the flood"
detach
assert_nothing_left
rm -f /tmp/ub-run
