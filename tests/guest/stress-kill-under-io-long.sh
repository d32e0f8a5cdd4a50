#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Ten rounds of killing under load: see stress-kill-under-io.
# kernels: 6.12 7
# timeout: 600
# tier: all
ROUNDS=10
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/stress-kill-under-io.sh"
