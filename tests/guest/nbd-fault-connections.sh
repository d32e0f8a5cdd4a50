#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Four connections: one that fails alone is made again while the others do its work, and the device
# stays online; when all fail at once it is an outage like any other.
# kernels: 6.12 7
# push: 6.12
# timeout: 200
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-proxy.bash"
shopt -s extglob

# alone RULE…: one of the four has this, and it is no outage
alone() {
	survives "$@"
	await 10 all_there
	! said ': (offline|stalled): ' || fail "after \"$*\" it was offline: $(cat "$ATTACH_ERR")"
}

# all_there: four connections are open
all_there() {
	local line open=0
	while read -r line; do
		case $line in
		"connection "+([0-9])) open=$((open + 1)) ;;
		"connection "*" is closed") open=$((open - 1)) ;;
		esac
	done <"$PROXY_LOG"
	[ $open = 4 ]
}

make_image 16M
serve_image
proxy
attach -C 4 --stall-timeout 1s "$PROXY_URI"
await 10 all_there
load 32
note "one alone"
for rule in 'cut request:7' 'reset payload:mid' 'cut data:mid' short 'error err=108 cmd=write' \
	'stall reply:4'; do
	alone "$rule"
done
said 'connection [1-4] of 4 is lost: .*; the others go on' ||
	fail "nobody said it: $(cat "$ATTACH_ERR")"
# it is noticed a second later
await 15 said 'connection [1-4] of 4 gives no answer .*; the others go on'
is_online || fail "its health is $(health)"

note "all at once"
for rule in 'cut data:mid all' 'freeze reply all'; do
	survives "$rule"
done
# as faults one after the other they need not be an outage; this is. And what frozen connections
# have not read, which newer writes may wait for, is nobody's then
unproxy
await 10 said ': offline: '
proxy
await 20 is_online
load_goes_on || fail "nothing is answered after it"
unload
same_bytes
detach
unserve
unproxy
