#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A server that answers each read short is not asked thousands of times a second: the read fails
# after some rounds, it is said why, and when the server has come to its senses all is well.
# kernels: 6.12 7
# push: 7
# timeout: 180
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-proxy.bash"

make_image 4M
proxy
serve_image
attach "$PROXY_URI"
arm short every=1 times=0
before=$(nr_connections)
read_block 100 2>read.err &
reader=$!
nap 10
made=$(($(nr_connections) - before))
note "$made connections in 10 s"
assert_le "$made" 60 "ENDLESS: connections in 10 s"
wait_for 90 gone $reader || fail "ENDLESS: the read is not complete after 100 s"
! wait $reader || fail "a read that was answered short succeeds"
said 'wrong|short|breaks|invalid|protocol' || fail "SILENT: the log says: $(cat "$ATTACH_ERR")"
note "it says: $(tail -n 2 "$ATTACH_ERR")"
clear_rules
await 40 is_online
read_block 101
same_bytes
detach
unproxy
unserve
