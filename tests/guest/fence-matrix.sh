#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A write that a lost connection still carries never lands on a newer one of the same block: all
# servers, all ways to them, all events. The first copy lands after a minute, and the fence's time
# is half a minute longer. ONLY=GLOB: of these cells only.
# kernels: 6.12 7
# push: 7
# tier: all
# timeout: 3600
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-fence.bash"

all_cells() {
	local server transport tls event
	for event in kill kill-keeper both twice upgrade stall frozen drop front; do
		for server in nbdkit qemu proxy; do
			for transport in unix tcp; do
				makes_sense $server $transport $event || continue
				for tls in plain tls; do
					# shellcheck disable=SC2053 # a pattern is meant
					[[ "$server $transport $tls $event" != ${ONLY:-*} ]] ||
						echo "$server $transport $tls $event"
				done
			done
		done
	done
}

export DELAY=${DELAY:-60} FENCE=${FENCE:-90}
run_cells "${AT_ONCE:-6}" < <(all_cells)
note "$CELL_NR cells"
no_d_state
