#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A deep queue starts about as fast as a shallow one: nothing is done tag by tag that takes its
# time.
# kernels: 6.12 7
# tier: all
# timeout: 90
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

# started DEPTH: sets MS to the milliseconds until the device is there, the best of three
started() {
	local began ms i
	MS=
	for i in 1 2 3; do
		began=${EPOCHREALTIME/./}
		attach --mem 1M --depth "$1" --data-path "$2"
		ms=$(((${EPOCHREALTIME/./} - began) / 1000))
		[ -n "$MS" ] && [ "$MS" -lt $ms ] || MS=$ms
		detach
	done
}

for path in copy user-copy; do
	started 16 $path
	shallow=$MS
	started 1024 $path
	note "$path: $shallow ms with a depth of 16, $MS ms with 1024"
	# a busy machine may double either
	assert_le "$MS" $((shallow * 3 + 500)) "the milliseconds with a depth of 1024"
done
assert_nothing_left
