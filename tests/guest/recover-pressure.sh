#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A root filesystem's worth of trouble: a machine of 256 MiB whose swap and whose files' dirty pages
# wait on one NBD device, and the server of that is killed twenty times, in every other round again
# as soon as the next one can take over. Nothing hangs, the programs find their own bytes in memory,
# and the files and the filesystem are right.
# kernels: 6.12 7
# tier: all
# memory: 256M
# export: 704M
# timeout: 900
# shellcheck disable=SC2119 # functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-recover.bash"
. "$(dirname "$0")/lib-memory.bash"
require mkfs.ext4 e2fsck mkswap swapon perl fio
ROUNDS=${ROUNDS:-20}

# shellcheck disable=SC2317 # at the end
leave() { swapoff mnt/swap 2>/dev/null || true; }
trap leave EXIT

# hog MIB: uses so much memory, writes all of it again and again, and looks whether it is what was
# written
hog() {
	exec perl -e '
		my ($n, $stop, $k, @block, @round) = (shift, 0, 0);
		sub of { return pack("NN", @_) x 32768 }
		$SIG{TERM} = sub { $stop = 1 };
		for my $i (0 .. 4 * $n - 1) { $round[$i] = 0; $block[$i] = of($i, 0) }
		open(my $fh, ">", "hog.ready"); close($fh);
		while (!$stop) {
			my $i = int(rand(4 * $n));
			$block[$i] eq of($i, $round[$i])
				or die "block $i is not what was written\n";
			$block[$i] = of($i, ++$round[$i]);
			$k++;
		}
		for my $i (0 .. 4 * $n - 1) {
			$block[$i] eq of($i, $round[$i])
				or die "block $i is not what was written\n"
		}
		print "$k\n";' "$1"
}

swapped_out() { [ "$(awk '/^pswpout/ { print $2 }' /proc/vmstat)" -gt "$1" ]; }

outside_reachable
attach "$OUTSIDE_URI"
mkfs.ext4 -q -F -E lazy_itable_init=0,nodiscard "$DEV"
mount_at "$DEV"
fallocate -l 320M mnt/swap
chmod 600 mnt/swap
mkswap mnt/swap >/dev/null
swapon mnt/swap
await 20 has_standby
hog 150 >hog.out 2>hog.err &
HOG=$!
await 200 test -e hog.ready
fio --name=w --directory=mnt --rw=randwrite --bs=16k --size=96M --ioengine=psync --fallocate=none \
	--fsync=512 --verify=crc32c \
	--verify_fatal=1 --do_verify=1 --loops=1000 --output=fio.out >/dev/null 2>&1 &
FIO=$!
for ((i = 0; i < ROUNDS; i++)); do
	before=$(awk '/^pswpout/ { print $2 }' /proc/vmstat)
	await 60 swapped_out "$before"
	process_alive $HOG || fail "the program: $(cat hog.err)"
	process_alive $FIO || fail "fio: $(tail -n 5 fio.out)"
	kill_server
	[ $((i % 2)) = 0 ] || kill_server
	nap 1.5
done
note "$(pauses)"
note "$(awk '/^pswp/ { printf "%s %d  ", $1, $2 }' /proc/vmstat)"
kill -TERM $FIO $HOG
await 200 gone $HOG
wait $HOG || fail "the program: $(cat hog.err)"
note "the program wrote $(($(<hog.out) / 4)) MiB of memory"
await 100 gone $FIO
! grep -q 'verify: bad' fio.out || fail "fio: $(tail -n 5 fio.out)"
swapoff mnt/swap
umount mnt
e2fsck -fn "$DEV" >fsck.out 2>&1 || fail "fsck: $(cat fsck.out)"
detach
