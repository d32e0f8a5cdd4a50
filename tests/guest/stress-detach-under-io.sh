#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A device that is worked hard is not torn away; by force it is, within seconds: the worker gets
# errors, nothing hangs and nothing is left. On each data path, and with a back end that sits on its
# I/O.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-data.bash"
require fio
BRIDGE=$UBT

for spec in mem:16M=get-data=1 mem:16M=copy=2 mem:16M=user-copy=2 \
	faulty:16M:delay=20,reorder=copy=2; do
	backend=${spec%=*=*} queues=${spec##*=} path=${spec%=*} path=${path##*=}
	for way in verb signal; do
		note "$backend $path, by $way"
		attach --backend "$backend" --queues "$queues" --data-path "$path"
		work_hard
		began=$SECONDS
		if [ $way = verb ]; then
			[ "$backend" != mem:16M ] || assert_fails 3 'busy: .*fio' "$UB" detach "$ID"
			run "$UB" detach "$ID" --force
			assert_eq "$STATUS" 0 "the status of detach: $ERR"
		else
			kill -TERM "$KEEPER"
			kill -INT "$KEEPER"
		fi
		await 15 gone "$KEEPER"
		assert_le $((SECONDS - began)) $((25 * SLOW)) "seconds until it was gone"
		worker_failed
		await 5 no_device "$ID"
		no_d_state
	done
done
