#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A write that a lost connection still carries never lands on a newer one of the same block: some
# pairs of servers, ways to them and events; fence-matrix has all of them.
# kernels: 6.12 7
# push: 7
# timeout: 400
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-fence.bash"

export PATIENCE=${PATIENCE:-4} SHORTEN=yes
run_cells "${AT_ONCE:-4}" <<'END'
qemu unix plain kill
qemu tcp tls upgrade
qemu unix tls stall
qemu unix plain frozen
proxy tcp plain drop
qemu tcp plain kill-keeper
proxy unix tls both
nbdkit tcp tls kill
qemu unix plain front
CONNECTIONS=2 proxy tcp plain twice
PLACES=1 qemu tcp plain stall
FENCE=4 PATIENCE=20 nbdkit unix plain kill
END
no_d_state
