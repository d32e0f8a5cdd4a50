#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What cannot be meant is a usage error: status 2, and a message that names the option and says what
# goes. No device is made, and nobody needs to be root for it.
# kernels: 7
# push: 7
# timeout: 60
# sanitize: all
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

# refused REGEX ARGUMENTS…: one line on stderr, nothing on stdout
refused() {
	local regex=$1
	shift
	attach_fails 2 "$regex" "$@"
	assert_eq "$OUT" "" "stdout of $*"
	[[ $ERR != *$'\n'* ]] || fail "\"$*\" says more than a line: $ERR"
	assert_match "$ERR" '^ublk-bridge' "the message of $*"
}

# sizes
refused "--mem: '0' is nothing: a size is above 0" --mem 0
refused "--mem: '0K' is nothing" --mem 0K
refused "--mem: '-1' is negative: a size is above 0" --mem -1
refused "--mem: '-16M' is negative" --mem=-16M
for size in 16Q 16MM 16Mi8 M 1,5G 0x10 1e9 ' 1M' '1 M' '' 1. .5G; do
	refused "--mem: '$size' is not a size: .*such as 16M" --mem "$size"
done
for size in 18446744073709551616 9223372036854775808 99999999999999999999999 8E 16E 9000P; do
	refused "--mem: '$size' is too large: the largest size is 8E" --mem "$size"
done
refused "--mem: '1.00001K' is not a whole number of bytes" --mem 1.00001K
refused "9223372036854775807 bytes is not a multiple of the block size 512" \
	--mem 9223372036854775807
refused "a size of 1000 bytes is not a multiple of the block size 512: choose" --mem 1000
refused "a size of 512 bytes is not a multiple of the block size 4096" --mem 512 --block-size 4096
refused "a size of 1537 bytes is not a multiple" --mem 1537

# numbers
for id in -1 1048576 99999999999999999999 x 1x '' 1.5; do
	refused "--id: .*give one from 0 to 1048575" "--id=$id"
done
cpus=$(nproc --all)
for queues in 0 $((cpus + 1)) 4097 -1 two; do
	refused "--queues: .*give one from 1 to $cpus" "--queues=$queues"
done
for depth in 0 4097 65537 4294967297 -1; do
	refused "--depth: .*give one from 1 to 4096" "--depth=$depth"
done
for timeout in 0 86401 -5 1s; do
	refused "--timeout: .*give one from 1 to 86400" "--timeout=$timeout"
done
for max in 512 4095 33M 4G; do
	refused "--max-io: $max is out of range: give one from 4 KiB to 32 MiB" --max-io $max
done
refused "--max-io: 'x' is not a size" --max-io x
refused "--max-io is not a multiple of the block size 4096" --max-io 5K --block-size 4096
for block in 256 511 8192 1M; do
	refused "--block-size: $block is out of range: give one from 512 B to 4 KiB" \
		--block-size $block
done
refused "--block-size: 1536 is not a power of two: it is 512, 1024, 2048 or 4096" --block-size 1536

# words
refused "--data-path: 'warp' is unknown: it is auto, copy, get-data or user-copy" --data-path warp
refused "--scheduler: '' is no name" --scheduler ''
for name in ublkb0 ublkc7 ublkb0p1 ublkb12p3; do
	refused "--name: '$name' reads as another device's" "--name=$name"
done
for name in '' . .x -x 12 'a b' a/b ../x "$(printf 'n%.0s' {1..65})"; do
	refused "--name: '$name' is not a name: use up to 64 letters" "--name=$name"
done

# back ends
refused "two back ends are named" --mem 1M --mem 2M
refused "two back ends are named" --mem 1M --backend null:1M
refused "there is no back end 'nil': there are error, mem, nbd, null" --backend nil:1M
refused "--backend: 'null' is not KIND:SIZE" --backend null
refused "--backend: ':1M' is not KIND:SIZE" --backend :1M
refused "--backend: '0' is nothing" --backend null:0
refused "--prealloc goes with memory only" --backend null:1M --prealloc
refused "'16M' is a size\. Did you mean --mem 16M" 16M
refused "'/dev/ublkb5': to have that device made, give --id 5" --mem 1M /dev/ublkb5
refused "'/dev/ublkb5' is a device\. To take it away: ublk-bridge detach /dev/ublkb5" -d /dev/ublkb5
refused "unknown command 'stop'\. Did you mean 'detach'\?" -d stop

# what argp finds by itself takes a second line: where to look for help
for args in "--id" "--read-only=yes"; do
	attach_fails 2 "^ublk-bridge attach: .*(option|argument)" "$args"
	assert_match "$ERR" "ublk-bridge attach --help" "the way to the help"
done
# an option that there is not: the one that is like it, or that does here what another tool's does
refused "unknown option '--unknown': see 'ublk-bridge attach --help'" --unknown
refused "unknown option '--nmae'\. Did you mean '--name'\? See 'ublk-bridge attach --help'" --nmae x
refused "unknown option '--size'\. Did you mean '--mem'" -r --size=64M
refused "unknown option '-x'\. Did you mean '--export'" -rx data
refused "unknown option '-Z': see" -Z
# what follows an option that takes something is no option
refused "--mem: '--size' is" --mem --size
# without a verb it is the same
assert_fails 2 "^ublk-bridge: .*--unknown" "$UB" --unknown
assert_fails 2 "'--mem: 0|--mem: '0' is nothing" "$UB" --mem 0

# the other verbs
assert_fails 2 "detach which device\? Give a number, /dev/ublkbN, a --name, or --all" "$UB" detach
assert_fails 2 "info takes one device, not also '2'" "$UB" info 1 2
assert_fails 2 "--timeout: .*give one from 1 to 86400" "$UB" detach 1 --timeout 0
assert_fails 2 "unknown option" "$UB" detach 1 --mem 1M
for device in /dev/ublkb /dev/ublkbx 1048576 /dev/ublkb1048576 /dev/sda '' a/b -; do
	assert_fails 2 "is no device|give one from 0 to 1048575" "$UB" detach -- "$device"
done
assert_fails 2 '/dev/ublkb0p1 is a partition\. The device is /dev/ublkb0$' "$UB" detach \
	/dev/ublkb0p1
assert_fails 2 '/dev/null is no block device' "$UB" detach /dev/null
assert_fails 2 "features takes no argument, such as 'x'" "$UB" features x
for verb in list status features; do
	assert_fails 2 "unknown option '--jsn'. Did you mean '--json'" "$UB" $verb --jsn
done

# none of this needs root, or the kernel
run setpriv --reuid=65534 --regid=65534 --clear-groups "$UB" --mem 0
assert_eq "$STATUS" 2 "the status for somebody else than root"
no_ublk || fail "a device was made"
# but whoever looks at devices says that he may not
for words in list metrics 'status --all' 'status disk' 'info 0' 'info disk' 'stats disk' \
	'detach 0' 'detach disk' \
	'set disk --log-level debug' \
	'resize disk 1M' 'migrate disk --mem 1M' 'fenced disk' 'recover disk' 'recover --all' \
	'upgrade --all' 'upgrade disk'; do
	# shellcheck disable=SC2086 # several words
	assert_fails 1 'run this as root' setpriv --reuid=65534 --regid=65534 \
		--clear-groups "$UB" $words
done
