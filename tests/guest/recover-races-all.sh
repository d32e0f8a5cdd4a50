#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# recover-races for a minute.
# kernels: 6.12 7
# tier: all
# timeout: 300
export RACE_S=60
. "$(dirname "$0")/recover-races.sh"
