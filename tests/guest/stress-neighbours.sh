#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Devices come and go while others work: those see no error and no wrong byte. Ids that are free are
# taken again.
# kernels: 6.12 7
# tier: all
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"

attach --mem 16M --queues 2
first=$KEEPER first_dev=$DEV
attach --mem 16M --data-path copy
second=$KEEPER second_dev=$DEV
find_tool blkmodel
for dev in "$first_dev" "$second_dev"; do
	while [ ! -e enough ]; do
		"$TOOL" --threads 2 --ops 100 "$dev" || exit 1
	done >"${dev##*/}.model" 2>&1 &
done
models=$(jobs -p | grep -vxE "$first|$second")

# come_and_go ROUNDS ID
come_and_go() {
	local round
	for ((round = 0; round < $1; round++)); do
		"$UB" attach --daemon --mem 1M --id "$2" >/dev/null
		head -c 64K /dev/urandom >"/dev/ublkb$2"
		"$UB" detach "$2" || return 1
		no_device "$2" || return 1
	done
}
come_and_go 5 7 &
one=$!
come_and_go 5 8 &
other=$!
wait $one || fail "coming and going of device 7"
wait $other || fail "coming and going of device 8"
attach --mem 1M
assert_eq "$ID" 2 "the first id that is free"
detach

touch enough
for pid in $models; do
	wait "$pid" || fail "a neighbour failed: $(tail -n 20 ./*.model)"
done
grep -q '^read' ublkb0.model || fail "the first one did nothing"
KEEPER=$first DEV=$first_dev
detach
KEEPER=$second DEV=$second_dev
detach
