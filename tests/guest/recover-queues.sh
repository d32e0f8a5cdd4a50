#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Recovery at the edges: four connections and as many queues as there are, one tag, read only.
# kernels: 6.12 7
# push: 6.12
# timeout: 150
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"

# through ARGUMENTS…
through() {
	note "$*"
	rm -f "$JOURNAL"
	attach "$@"
	start_stamp
	kills 2
	stop_stamp
	note "$(pauses)"
	detach
}
make_image 16M
serve file "$IMG"
through --connections 4 --queues "$(nproc)" "$URI"
unserve
rm "$IMG"
through --mem 4M --queues 2 --depth 16 --data-path copy
if kernel_at_least 7; then
	# Linux 6.12 sees the death of a server that has its only tag by its timer:
	# recover-notice-all
	through --mem 4M --depth 1
fi

note "read only"
make_image 4M
serve file "$IMG"
attach --read-only "$URI"
sum=$(checksum "$DEV")
kill_server
assert_eq "$(checksum "$DEV")" "$sum" "what is read after it"
assert_eq "$(blockdev --getro "$DEV")" 1 "read only"
detach
unserve
