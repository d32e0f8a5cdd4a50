#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A hundred rounds of attach and detach: see stress-rounds.
# kernels: 6.12 7
# timeout: 400
# tier: all
ROUNDS=100
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/stress-rounds.sh"
