#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# SIGTERM for all processes at once, as a service manager, a shutdown and the end of a container
# send it: to keeper, server, standby and the NBD server that the keeper has started. Nothing is
# lost and nothing hangs: mounted with dirty pages, idle, under load, with and without
# --restart-command, and with a server that has its data in memory alone.
# kernels: 6.12 7
# push: 7
# timeout: 150
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
require jq mkfs.ext4 debugfs

# group: every process of the device, its command's shield included where it is asked for
group() {
	pgrep -x 'ublk-bridge|ublk-server|nbdkit|qemu-nbd'
	[ "${1:-}" != shield ] || pgrep -x ublk-command
}
term_all() {
	local pids
	mapfile -t pids < <(group "$@")
	kill -TERM "${pids[@]}"
}
no_command() { ! pgrep -x 'nbdkit|qemu-nbd|ublk-command' >/dev/null; }
# ends: the keeper ends by itself, with status 0, and takes all along
ends() {
	local status=0
	await 30 gone "$KEEPER"
	wait "$KEEPER" || status=$?
	assert_eq "$status" 0 "the keeper's exit status ($WHAT): $(cat "$ATTACH_ERR")"
	[ ! -e "$DEV" ] || fail "$WHAT: $DEV is still there"
	await 10 no_command
}
# soon COMMAND…: it does not hang
soon() { timeout 30 "$@" || fail "$WHAT: $* ended with $?"; }

# mounted ARGUMENTS…: a file that is not written back yet is there afterwards
mounted() {
	WHAT="mounted: $*"
	note "$WHAT"
	rm -f "$IMG"
	truncate -s 64M "$IMG"
	attach "$@"
	await 20 has_standby
	mkfs.ext4 -q "$DEV"
	mkdir -p m
	mount "$DEV" m
	echo first >m/first
	sync -f m/first
	echo second >m/second
	term_all "${SHIELD:-}"
	nap 1.5
	echo third >m/third
	soon sync -f m/third
	echo fourth >m/fourth
	soon umount m
	ends
	[ -z "${LOOKS:-}" ] || return 0
	for file in first second third fourth; do
		assert_eq "$(debugfs -R "cat $file" "$IMG" 2>/dev/null)" $file \
			"a file in the image ($WHAT)"
	done
}
LOOKS='' SHIELD=''
mounted [ nbdkit file "$IMG" ]
SHIELD=shield
mounted [ nbdkit file "$IMG" ]
mounted --restart-command [ nbdkit file "$IMG" ]
mounted --command nbdkit -s file "$IMG"
if command -v qemu-nbd >/dev/null; then
	mounted [ qemu-nbd --persistent --shared=8 -f raw -x '' "$IMG" ]
fi
LOOKS=none
mounted [ nbdkit memory 64M ]
LOOKS=''

WHAT="idle, written and not mounted"
note "$WHAT"
truncate -s 64M "$IMG"
attach [ nbdkit file "$IMG" ]
head -c 8M /dev/urandom >"$TEST_DIR/noise"
dd if="$TEST_DIR/noise" of="$DEV" bs=1M status=none
term_all
ends
cmp -n 8388608 "$TEST_DIR/noise" "$IMG" || fail "$WHAT: bytes are missing"

WHAT="under load"
note "$WHAT"
attach [ nbdkit file "$IMG" ]
dd if=/dev/urandom of="$DEV" bs=64k oflag=direct status=none 2>/dev/null &
load=$!
nap 0.5
term_all
await 60 gone $load
ends
[ "$(head -c 67108864 "$IMG" | tr -d '\0' | wc -c)" -gt 60000000 ] ||
	fail "$WHAT: the load did not reach its end"

note "a SIGTERM for the command alone reaches it"
attach [ nbdkit file "$IMG" ]
pkill -TERM -x nbdkit
nap 1.5
# nbdkit ends with what it is asked next
dd if="$DEV" of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null &
await 10 is_offline
wait_for 10 no_nbdkit || fail "it runs still"
said 'ended with status 0' || fail "nobody said it: $(cat "$ATTACH_ERR")"
"$UB" detach --force "$ID"
await 10 no_command
note "and so does a SIGKILL, for which it is made anew"
attach --restart-command [ nbdkit file "$IMG" ]
pkill -KILL -x nbdkit
dd if=/dev/urandom of="$DEV" bs=64k count=4 oflag=direct status=none
await 10 is_online
note "its shield's death is its own"
pkill -KILL -x ublk-command
dd if=/dev/urandom of="$DEV" bs=64k count=4 oflag=direct status=none
await 10 is_online
assert_eq "$(pgrep -xc nbdkit)" 1 "how many run"
detach
await 10 no_command
no_d_state
