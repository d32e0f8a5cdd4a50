# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# A mounted filesystem whose device loses its server.

require fio jq

BACKING=mem

# fs_attach: a device of 400 MiB, on what BACKING says
fs_attach() {
	if [ $BACKING = mem ]; then
		attach --mem 400M --queues 2
	else
		make_image 400M
		serve file "$IMG"
		attach -C 2 "$URI"
	fi
}

# keep_promising: small files, each synced and then noted, until "promised.stop" is there
keep_promising() {
	local i=0 sum
	while [ ! -e promised.stop ]; do
		i=$((i + 1))
		head -c $((RANDOM + 1)) /dev/urandom >mnt/p/$i
		sync mnt/p/$i
		read -r sum _ < <(sha256sum mnt/p/$i)
		printf '%s  %s\n' "$sum" "mnt/p/$i" >>promised
	done
}

# fs_under_kills ROUNDS MKFS… -- CHECK…
fs_under_kills() {
	local rounds=$1 mkfs=() i load promises
	shift
	while [ "$1" != -- ]; do
		mkfs+=("$1")
		shift
	done
	shift
	note "${mkfs[0]} on $BACKING"
	rm -f promised promised.stop
	fs_attach
	"${mkfs[@]}" "$DEV" >mkfs.out 2>&1 || fail "${mkfs[*]}: $(cat mkfs.out)"
	mount_at "$DEV"
	mkdir mnt/p
	keep_promising &
	promises=$!
	fio --name=w --directory=mnt --rw=randwrite --bsrange=1k-128k --size=48M --numjobs=2 \
		--ioengine=psync \
		--fallocate=none --fsync=64 --verify=crc32c --verify_fatal=1 --do_verify=1 \
		--serialize_overlap=1 \
		--loops=1000 --output=fio.out >/dev/null 2>&1 &
	load=$!
	for ((i = 0; i < rounds; i++)); do
		nap 1.$((RANDOM % 5))
		process_alive $load || fail "fio: $(tail -n 5 fio.out)"
		kill_server
	done
	nap 1
	process_alive $load || fail "fio: $(tail -n 5 fio.out)"
	: >promised.stop
	await 30 gone $promises
	wait $promises || fail "a file could not be written or synced"
	kill -TERM $load
	await 60 gone $load
	# one more death, with what is dirty then
	kill_server
	umount mnt
	"$@" "$DEV" >check.out 2>&1 || fail "$*: $(cat check.out)"
	mount_at "$DEV"
	[ "$(wc -l <promised)" -gt "$rounds" ] || fail "only $(wc -l <promised) files were written"
	sha256sum --quiet -c promised || fail "a file that was synced has changed"
	umount mnt
	note "$(wc -l <promised) synced files are there; $(pauses)"
	detach
	[ $BACKING = mem ] || unserve
}
