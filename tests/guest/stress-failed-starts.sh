#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Attach fails again and again about START_DEV, and the device that comes after has the first id,
# works, and finds the machine as it was. (Each step once: fault-step-fails.)
# kernels: 6.12 7
# push: 6.12
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
BRIDGE=$UBT

nothing_left() { no_device 0 && ! pgrep -x 'ublk-bridge.*|ublk-server' >/dev/null; }

shmem=$(meminfo Shmem)
for step in start-dev server-fetching started settle; do
	for round in 1 2 3 4; do
		UB_STEP=$step=5 run "$UBT" attach --mem 1M --queues 2
		assert_eq "$STATUS" 1 "the status when $step fails, round $round ($ERR)"
		await 5 nothing_left
	done
done
await 5 shmem_below $((shmem + 1024))
attach --mem 8M
assert_eq "$ID" 0 "the id"
blkmodel --ops 200
detach
