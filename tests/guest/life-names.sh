#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A name means the device that was made with it, not whoever has its number by now; a terminal's end
# is not the device's under nohup; who holds a device is told by the name a person knows, blanks and
# all.
# kernels: 6.12 7
# push: 7
# timeout: 90
# shellcheck disable=SC2119 # detach takes a device, or none
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

# both processes killed, the device deleted by somebody who does not know of run directories
attach --mem 1M --name old --id 5
server=$(server_pid 5)
cp -r "$UBLK_BRIDGE_RUNDIR/old" saved
kill -KILL "$KEEPER" "$server"
wait "$KEEPER" || true
UBLK_BRIDGE_RUNDIR=$PWD/elsewhere "$UB" detach --force 5
rm -rf "$UBLK_BRIDGE_RUNDIR/old"
cp -r saved "$UBLK_BRIDGE_RUNDIR/old"
attach --mem 1M --name new --id 5
"$UB" detach old
[ ! -e "$UBLK_BRIDGE_RUNDIR/old" ] || fail "the run directory of a device that is gone is left"
[ -b /dev/ublkb5 ] || fail "detach by a stale name took another device away"
detach
rm -rf "$UBLK_BRIDGE_RUNDIR/old"

# all that names it, and what only looks like it
attach --mem 16M --id 7
printf 'label: dos\n,4M\n' | sfdisk -q "$DEV" >/dev/null 2>&1 || fail "sfdisk"
partx --update "$DEV"
await 10 test -b "${DEV}p1"
mkdir -p links
ln -sf "$DEV" links/by-id
mknod links/by-number b $((0x$(stat -c %t "$DEV"))) $((0x$(stat -c %T "$DEV")))
ln -sf "${DEV}p1" links/part
for name in 7 ublkb7 /dev/ublkb7 "$PWD/links/by-id" "$PWD/links/by-number"; do
	assert_eq "$("$UB" info --json "$name" | jq -r .device)" /dev/ublkb7 "the device of $name"
done
for name in ublkb7p1 /dev/ublkb7p1 "$PWD/links/part"; do
	assert_fails 2 "$name is a partition. The device is /dev/ublkb7" "$UB" detach "$name"
done
detach

# nohup
nohup "$UB" --mem 1M >nohup.out 2>&1 &
keeper=$!
wait_for 20 grep -q /dev/ublkb nohup.out
kill -HUP $keeper
nap 1
[ -b /dev/ublkb0 ] || fail "SIGHUP took a device away under nohup"
"$UB" detach 0
wait $keeper

# a mount point with a blank: named as it is, and not kept by the server of another device
attach --mem 64M
mkfs.ext4 -q "$DEV"
mkdir "my disk"
mount "$DEV" "my disk"
assert_fails 3 "mounted on .*/my disk" "$UB" detach "$ID"
first=$KEEPER first_dev=$DEV
attach --mem 1M
umount "my disk"
KEEPER=$first DEV=$first_dev detach
detach
assert_nothing_left
