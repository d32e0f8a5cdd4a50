#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Swap on an NBD device: a program that needs more memory than the machine has gets its own bytes
# back, though the server dies meanwhile and everything, the test included, may have to wait for a
# page.
# kernels: 6.12 7
# tier: all
# memory: 256M
# export: 704M
# timeout: 480
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-memory.bash"
require mkswap swapon openssl

# shellcheck disable=SC2317 # at the end
leave() { swapoff "$DEV" 2>/dev/null || true; }
trap leave EXIT

# one_line: 117 MiB, always the same; tail keeps a line as a whole until it ends
one_line() {
	head -c 88M /dev/zero | openssl enc -aes-128-ctr -K 0 -iv 0 2>/dev/null | base64 -w 0
}

outside_reachable
want=$(one_line | sha256sum)
attach "$OUTSIDE_URI"
mkswap "$DEV" >/dev/null
swapon "$DEV"
one_line | tail -n 1 | sha256sum >got &
worker=$!
await 120 has_written 10000
outside_dies 5
await 60 said "offline"
await 400 gone $worker
assert_eq "$(<got)" "$want" "what came back from swap"
await 30 is_online
read -r _ _ sectors _ <"/sys/block/${DEV#/dev/}/stat"
note "$(sectors_written) sectors went to swap, $sectors came back"
[ "$sectors" -gt 10000 ] || fail "only $sectors sectors came back from swap"
swapoff "$DEV"
detach
