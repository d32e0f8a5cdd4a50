#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The server is killed and started again under load: no application sees an error, and no byte is
# lost.
# kernels: 6.12 7
# timeout: 180
# sanitize: yes
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-stamp.bash"

make_image 16M
for connections in 1 4; do
	outages "${ROUNDS:-5}" $connections
done
