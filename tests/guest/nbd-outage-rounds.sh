#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A hundred times in a row: the server is killed and started again under load, and nobody notices.
# kernels: 6.12 7
# tier: all
# timeout: 600
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-stamp.bash"
ROUNDS=${ROUNDS:-100}

make_image 16M
outages $((ROUNDS / 2)) 1
outages $((ROUNDS - ROUNDS / 2)) 4
