#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An attach that ends with 0 has made the block device that it names: a file, a link, a directory or
# another device in the place of a node is found, and nothing is written to it. A node that is taken
# away or replaced while the device is in use is no reason to forget who uses it, or what is still
# to be written back.
# kernels: 6.12 7
# push: 7
# timeout: 120
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-nbd.bash"
. "$(dirname "$0")/lib-life.bash"
require jq mkfs.ext4 debugfs

# in_place WHAT NODE REGEX [ARGUMENTS…]: an attach is refused, and what is there stays as it is
in_place() {
	local what=$1 node=$2 regex=$3 before
	shift 3
	rm -rf "$node"
	echo mistake >victim
	case $what in
	file) cp victim "$node" ;;
	link) ln -s "$PWD/victim" "$node" ;;
	dangling) ln -s "$PWD/nothing" "$node" ;;
	directory) mkdir "$node" ;;
	other) mknod "$node" b 7 0 ;;
	null) mknod "$node" c 1 3 ;;
	fifo) mkfifo "$node" ;;
	esac
	before=$(stat -c '%F %t:%T %i %s %y' "$node")
	attach_fails 1 "$node is $regex.*remove it" --id 0 --mem 16M "$@"
	assert_eq "$(stat -c '%F %t:%T %i %s %y' "$node")" "$before" "$what at $node"
	assert_eq "$(<victim)" mistake "what is behind $what at $node"
	[ ! -e nothing ] || fail "a file was made behind the link"
	rm -rf "$node"
}
note "something else has the name"
in_place file /dev/ublkb0 'a file that somebody has made'
in_place file /dev/ublkb0 'a file' --no-recovery
in_place link /dev/ublkb0 'a symbolic link'
in_place dangling /dev/ublkb0 'a symbolic link'
in_place directory /dev/ublkb0 'a directory'
in_place other /dev/ublkb0 "another device's node"
in_place null /dev/ublkb0 "another device's node"
in_place fifo /dev/ublkb0 'something else'
in_place file /dev/ublkc0 'a file'
in_place link /dev/ublkc0 'a symbolic link'
in_place null /dev/ublkc0 "another device's node"
attach --id 0 --mem 16M
[ -b /dev/ublkb0 ] || fail "the device's node is no block device"
detach

make_image 64M
serve file "$IMG"
for how in missing file; do
	note "the node is $how while the device is in use"
	attach --id 0 "$URI"
	mkfs.ext4 -q "$DEV"
	mkdir -p m
	mount "$DEV" m
	echo first >m/first
	rm "$DEV"
	[ $how = missing ] || echo mistake >"$DEV"
	assert_fails 3 'mounted on .*/m' "$UB" detach "$ID"
	echo second >m/second
	umount m
	"$UB" detach "$ID"
	await 10 gone "$KEEPER"
	[ $how = missing ] || assert_eq "$(<"$DEV")" mistake "the file in the node's place"
	rm -f "$DEV"
	for file in first second; do
		assert_eq "$(debugfs -R "cat $file" "$IMG" 2>/dev/null)" $file "a file in the image"
	done
done
unserve

note "a /dev without the kernel's nodes, as a container has"
# shellcheck disable=SC2016 # the inner shell's
run unshare -m --propagation private bash -c '
	mkdir -p dev && mount -t tmpfs none dev &&
		cp -a /dev/null /dev/zero /dev/urandom /dev/ublk-control dev/ &&
	mount --move dev /dev && exec "$@"' - "$BRIDGE" attach --mem 16M
assert_eq "$STATUS" 1 "the attach's status"
assert_match "$ERR" "is not there, though the kernel has made .*devtmpfs.*-v /dev:/dev" \
	"what it says"
assert_nothing_left
no_d_state
