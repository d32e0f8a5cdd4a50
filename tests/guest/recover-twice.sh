#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Server and standby die together, and a server dies the moment it has taken over: the keeper makes
# the next one, and no write is lost. Of memory, and of an NBD export while that is away.
# kernels: 6.12 7
# push: 6.12
# timeout: 120
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"

# together: both at once
together() {
	local server
	await 20 has_standby
	server=$(state_of server_pid)
	kill -KILL "$server" "$(state_of standby_pid)"
	await 40 other_server "$server"
}
# in_a_row: three servers, each as soon as it is one
in_a_row() {
	local server
	for _ in 1 2 3; do
		server=$(state_of server_pid)
		kill -KILL "$server"
		await 40 other_server "$server"
	done
}

attach --mem 16M --queues 2
start_stamp
for _ in 1 2 3; do
	together
	stamp_goes_on
	nap 1.1
	in_a_row
	stamp_goes_on
	nap 1.1
done
stop_stamp
note "memory: $(pauses)"
detach

make_image 16M
rm -f "$JOURNAL"
serve file "$IMG"
attach -C 2 "$URI"
start_stamp
unserve
together
is_offline || fail "its health is $(health)"
nap 1.1
in_a_row
stamp_alive
serve file "$IMG"
await 20 is_online
stamp_goes_on
stop_stamp
note "NBD: $(pauses)"
detach
unserve
