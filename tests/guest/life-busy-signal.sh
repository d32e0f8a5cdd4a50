#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A signal to the keeper of a mounted device: it says who holds it, serves on, and ends by itself
# when the device is free. A second signal insists, and the mounted filesystem gets errors.
# kernels: 6.12 7
# push: 7
# timeout: 90
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require mkfs.ext4
require_module ext4

mkdir here
attach --mem 32M
mkfs.ext4 -q "$DEV"
mount "$DEV" here
kill -TERM "$KEEPER"
await 20 says "$ATTACH_ERR" \
	"/dev/ublkb0 stays: mounted on $TEST_DIR/here; it goes when it is free \(signal again"
echo one >here/file
sync -f here/file
assert_eq "$(device_state 0)" live "the state of a device that stays"
nap 2.5 # two more looks at it: it does not repeat itself
assert_eq "$(grep -c ' stays: ' "$ATTACH_ERR")" 1 "how often it says so"
# another holder is news
exec 5<"$DEV"
await 20 says "$ATTACH_ERR" "stays: .*opened by"
exec 5<&-
umount here
ends_with 0
assert_nothing_left "the end that was put off"

attach --mem 32M
mkfs.ext4 -q "$DEV"
mount "$DEV" here
: >here/file
kill -INT "$KEEPER"
await 20 says "$ATTACH_ERR" ' stays: mounted on'
kill -INT "$KEEPER"
await 30 test ! -e "$DEV"
ends_with 0
assert_match "$(cat "$ATTACH_ERR")" \
	'somebody still has it open or mounted: its number stays taken' \
	"what a second signal says"
touch here/other 2>/dev/null && sync -f here/other 2>/dev/null &&
	fail "the filesystem still takes files"
umount here
# the number comes free with the last holder
await 20 no_device 0
attach --mem 1M
assert_eq "$DEV" /dev/ublkb0 "the number after all"
detach
assert_nothing_left
