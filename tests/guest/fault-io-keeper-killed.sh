#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# SIGKILL of the keeper under I/O: the server serves on as if nothing had been, list says so, and
# detach takes the device away, also while its I/O hangs.
# kernels: 6.12 7
# push: 7
# timeout: 90
# sanitize: yes
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require fio jq

attach --mem 16M
start_fio
server=$(child_of "$KEEPER")
kill -KILL "$KEEPER"
ends_with 137
await 30 served_more_than $(($(requests_done) + 200))
assert_eq "$("$UB" list --json | jq -r '.[0] | "\(.state) \(.keeper_pid) \(.server_pid)"')" \
	"live null $server" "what list says"
assert_fails 3 "busy: .*opened by fio" "$UB" detach 0
kill -INT "$FIO"
wait "$FIO" || true # it was interrupted
says fio.out 'err= 0:' || fail "fio saw errors: $(grep -m 3 -i err fio.out)"
"$UB" detach 0
assert_nothing_left "detach without a keeper"

# the I/O hangs, and nobody but the server can end it: --force asks it to
attach_hanging 4M
server=$(child_of "$KEEPER")
start_readers 3
kill -KILL "$KEEPER"
ends_with 137
assert_fails 3 "busy: .*opened by dd" "$UB" detach 0
run "$UB" detach 0 --force
assert_eq "$STATUS" 0 "detach --force: $ERR"
[[ $ERR != *killed* ]] || fail "the server was killed though it could be asked: $ERR"
readers_fail 5
assert_nothing_left "detach --force without a keeper"
no_d_state
