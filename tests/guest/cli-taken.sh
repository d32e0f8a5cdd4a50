#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What is there already, or what this kernel does not have: an id or a name that is taken is busy
# (status 3) and the device that has it is left alone; an unknown scheduler fails.
# kernels: 6.12 7
# push: 7
# timeout: 60
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

attach --mem 1M --id 7 --name seven
seven=$KEEPER
assert_eq "$DEV" /dev/ublkb7 "the device"
printf 'here' | dd of=/dev/ublkb7 bs=512 conv=sync oflag=direct status=none

attach_fails 3 "id 7 is taken: see 'ublk-bridge list', choose another --id or detach" --id 7
attach_fails 3 "the name 'seven' is taken: choose another --name, or detach that device" \
	--name seven
attach_fails 3 "the name 'seven' is taken" --name seven --id 8
assert_fails 3 "id 7 is taken" "$UB" --daemon --id 7
# the name that the first one would get by itself
attach_fails 3 "id 7 is taken" --id 7 --name other
[ ! -e "$UBLK_BRIDGE_RUNDIR/other" ] || fail "its run directory is left"
[ ! -e /dev/ublkc8 ] || fail "device 8 is left"
attach_fails 2 "'ublk7' is what a device is called that was given no name" --name ublk7
attach --mem 1M --name other
attach_fails 1 "--scheduler: cannot set the scheduler 'nosuch': this kernel has [a-z -]*none" \
	--scheduler nosuch
KEEPER=$KEEPER detach
# the first device did not notice
assert_eq "$(dd if=/dev/ublkb7 bs=4 count=1 iflag=fullblock status=none)" here "its content"

assert_fails 1 "there is no device 9: see 'ublk-bridge list'" "$UB" detach 9
assert_fails 1 "there is no device 9" "$UB" detach /dev/ublkb9
assert_fails 1 "no device is named 'nobody': see 'ublk-bridge list'" "$UB" detach nobody
KEEPER=$seven DEV=/dev/ublkb7
detach

# both are free again at once, and so is the highest number
attach --mem 1M --id 7 --name seven
detach
attach --mem 1M --id 1048575
assert_eq "$DEV" /dev/ublkb1048575 "the last of all devices"
detach
