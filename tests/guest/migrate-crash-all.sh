#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Fifty migrations in a row, from memory to a server and back, in each of which the server, the
# keeper or both are killed.
# kernels: 6.12 7
# tier: all
# timeout: 1500
ROUNDS=${ROUNDS:-50}
# shellcheck source=tests/guest/migrate-crash.sh
. "$(dirname "$0")/migrate-crash.sh"
