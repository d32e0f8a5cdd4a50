#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Before the device is live: a cut at every stage of the negotiation, what is wrong there, and what
# never comes.
# kernels: 6.12 7
# timeout: 300
# tier: all
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-proxy.bash"

# refused REGEX RULE…: the attach fails, and says this
refused() {
	local regex=$1
	shift
	arm "$@"
	attach_fails 1 "$regex" "$PROXY_URI"
	fired || fail "\"$*\" did not happen"
}

make_image 8M
serve_image
proxy
for how in cut reset half-close; do
	for where in accept greeting greeting:9 flags:2 option option:8 option-body:mid \
		option-reply option-reply:19 option-data:1; do
		refused 'cannot connect: ' "$how $where"
	done
done
for where in greeting greeting:12 option-reply option-reply:11 option-reply:15 \
	'option-reply:16 opt=7'; do
	refused 'cannot connect: ' "corrupt $where"
done
for how in cut reset half-close; do
	refused 'failed: the server closed the connection|failed: .*reset' "$how ready"
done
refused 'the server did not negotiate within 15 s' stall option-reply:3
refused 'the server did not negotiate within 15 s' freeze accept
unserve
unproxy
