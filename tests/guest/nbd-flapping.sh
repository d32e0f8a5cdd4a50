#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A server that is there for a tenth of a second, again and again, and then stays: no error, no old
# data.
# kernels: 6.12 7
# push: 6.12
# timeout: 180
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-stamp.bash"

make_image 16M
for connections in 1 4; do
	note "$connections connections"
	serve file "$IMG"
	attach -C $connections "$URI"
	start_stamp
	for ((i = 0; i < ${ROUNDS:-12}; i++)); do
		unserve
		nap 0.1
		serve file "$IMG"
		nap 0.1
		stamp_alive
	done
	stamp_goes_on
	stop_stamp
	detach
	unserve
done
