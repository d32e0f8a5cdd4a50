#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A hundred upgrades in a row under blkstamp, of a memory device and of an NBD device.
# kernels: 6.12 7
# tier: all
# timeout: 900
ROUNDS=${ROUNDS:-100}
# shellcheck source=tests/guest/upgrade.sh
. "$(dirname "$0")/upgrade.sh"
