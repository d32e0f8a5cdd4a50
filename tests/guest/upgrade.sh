#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A device that is in use goes to another version's keeper and server, again and again, under load:
# no error, and no sector is stale, torn or lost. A version that does not come up leaves it to the
# old one.
# kernels: 6.12 7
# push: 6.12
# timeout: 300
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
ROUNDS=${ROUNDS:-5}

# upgrades ROUNDS
upgrades() {
	local i keeper server
	for ((i = 0; i < $1; i++)); do
		keeper=$(state_of keeper_pid) server=$(state_of server_pid)
		stamp_alive
		"$UB" upgrade "$ID" 2>>upgrade.err || fail "upgrade: $(tail -n 3 upgrade.err)"
		[ "$(state_of keeper_pid)" != "$keeper" ] || fail "it has the old keeper"
		[ "$(state_of server_pid)" != "$server" ] || fail "it has the old server"
		await 5 gone "$keeper"
		gone "$server" || fail "the old server is left"
		stamp_goes_on
	done
	grep -oE 'stood still for [0-9]+ ms' upgrade.err | grep -oE '[0-9]+' | sort -n |
		awk '{ all[NR] = $1 } END {
			printf "# %d upgrades, pause: median %d ms, at most %d ms\n",
				NR, all[int((NR + 1) / 2)], all[NR] }' >&2
	rm upgrade.err
}

note "memory"
attach --mem 16M
start_stamp
upgrades "$ROUNDS"

note "a version that does not come up"
keeper=$(state_of keeper_pid) server=$(state_of server_pid)
for step in adopt upgrade spawn server-hello; do
	UB_STEP=$step=5 assert_fails 1 "$step|does not come up" "$UBT" upgrade "$ID"
	await 20 has_standby
	[ "$(state_of keeper_pid)" = "$keeper" ] || fail "$step: it has another keeper"
	[ "$(state_of server_pid)" = "$server" ] || fail "$step: it has another server"
	"$UB" info "$ID" >/dev/null || fail "$step: its keeper does not answer"
	stamp_goes_on
done
for step in adopt upgrade take end-recovery; do
	UB_STEP=$step=kill run "$UBT" upgrade "$ID"
	[ "$STATUS" != 0 ] || fail "$step: a killed upgrade says that it is done"
	wait_for 20 has_standby || "$UB" recover "$ID"
	stamp_goes_on
done
stop_stamp
"$UB" detach "$ID"
await 10 no_device "$ID"

note "NBD, four connections"
make_image 16M
rm -f "$JOURNAL"
serve file "$IMG"
attach -C 4 "$URI"
start_stamp
upgrades "$ROUNDS"
stop_stamp
"$UB" detach "$ID"
await 10 no_device "$ID"

unserve

note "without recovery"
attach --no-recovery --mem 1M
assert_fails 1 'cannot be upgraded while it is in use' "$UB" upgrade "$ID"
detach

note "a connection that was handed over ready made"
attach --command nbdkit -s memory 1M
server=$(state_of server_pid)
assert_fails 1 'handed over ready made' "$UB" upgrade "$ID"
[ "$(state_of server_pid)" = "$server" ] || fail "it has another server"
dd if="$DEV" of=/dev/null bs=64k iflag=direct status=none || fail "a read after a refused upgrade"
detach
no_d_state
