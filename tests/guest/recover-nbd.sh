#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The server of an NBD device is killed again and again under load; and so is the NBD server with
# it, first or last.
# kernels: 6.12 7
# push: 7
# timeout: 400
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
ROUNDS=${ROUNDS:-3}

make_image 16M
for connections in 1 4; do
	note "$connections connections"
	rm -f "$JOURNAL"
	serve file "$IMG"
	attach -C $connections "$URI"
	start_stamp
	kills "$ROUNDS"
	note "together with the NBD server"
	for first in ours theirs; do
		await 20 has_standby
		pid=$(state_of server_pid)
		if [ $first = ours ]; then
			kill -KILL "$pid"
			unserve
		else
			unserve
			nap 0.3
			kill -KILL "$pid"
		fi
		await 40 other_server "$pid"
		await 10 is_offline
		nap 1
		stamp_alive
		serve file "$IMG"
		await 20 is_online
		stamp_goes_on
	done
	stop_stamp
	note "$(pauses)"
	detach
	unserve
done
