#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Before the device is live nothing is waited for: whatever goes wrong fails the attach with its
# reason, and nothing is left. (Everywhere: nbd-fault-attach-all.)
# kernels: 6.12 7
# push: 7
# timeout: 200
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
for rule in 'cut greeting:9' 'cut option:8' 'corrupt option-reply:11'; do
	refused 'cannot connect: ' "$rule"
done
note "between the negotiation and the first I/O"
refused 'failed: the server closed the connection' cut ready

note "it may be tried again"
arm cut option-reply:9
attach --wait 10s "$PROXY_URI"
fired || fail "the first try did not fail"
detach

note "one of four"
arm cut option-reply:9 "conn=$(($(nr_connections) + 3))"
attach -C 4 "$PROXY_URI"
fired || fail "no connection failed"
said 'connection [2-4] of 4: .*; retrying' || fail "nobody said it: $(cat "$ATTACH_ERR")"
same_bytes
is_online || fail "its health is $(health)"
detach
unserve
unproxy
