#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# SIGKILL in the middle of a recovery: of the keeper, of the standby, of whoever adopts the device.
# The next one goes on where it was, and no write is lost. (recover-steps-all has every step.)
# kernels: 6.12 7
# push: 7
# timeout: 120
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-recover.bash"
. "$(dirname "$0")/lib-recover-steps.bash"

keeper_dies_at end-recovery
server_dies_at queue-fetch kill
adopter_dies_at end-recovery keeper_pid server_pid
