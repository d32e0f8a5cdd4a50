#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A network that swallows all packets for longer than TCP's patience, and heals late: the server has
# a write in its hands, and was never told that its connection is over. With and without TLS, no
# older write lands on a newer one; and a server with one place for a client gives it up, although
# the reset was swallowed, too.
# kernels: 6.12 7
# push: 7
# timeout: 300
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-fence.bash"
require ip tc
require_module veth sch_netem
NS=ubtest$$
HERE=192.0.2.1 THERE=192.0.2.2
# seconds: TCP_USER_TIMEOUT is 30, and is looked at when something is sent again
PARTITION=${PARTITION:-40} FENCE=${FENCE:-90} DELAY=${DELAY:-40} PATIENCE=${PATIENCE:-4} SHORTEN=yes

net_down() { ip netns del "$NS" 2>/dev/null || true; }
trap net_down EXIT
ip netns add "$NS"
ip link add ub$$ type veth peer name ubpeer netns "$NS"
ip addr add "$HERE/30" dev ub$$
ip link set ub$$ up
ip -n "$NS" addr add "$THERE/30" dev ubpeer
ip -n "$NS" link set ubpeer up

# part, heal: nothing arrives, in neither direction; and again all
part() {
	tc qdisc add dev ub$$ root netem loss 100%
	tc -n "$NS" qdisc add dev ubpeer root netem loss 100%
}
heal() {
	tc qdisc del dev ub$$ root
	tc -n "$NS" qdisc del dev ubpeer root
}

# serve_there NAME PORT [ARGUMENTS…]: a slow disk's server on the other side
serve_there() {
	local nbdkit
	nbdkit=$(command -v nbdkit)
	# serve_disk starts it by its name
	nbdkit() { ip netns exec "$NS" "$nbdkit" "$@"; }
	serve_disk "$1" -i "$THERE" -p "$2" "${@:3}"
	unset -f nbdkit
}

# late plain|tls PORT: A is in the server's hands when the network goes. When it is back, A is sent
# again, B is written, and then the server does what it had
late() {
	local uri=nbd://$THERE:$2 options=() end
	make_disk 1M
	if [ "$1" = tls ]; then
		options=(--tls-psk-file "$PSK" --tls-username alice)
		uri=nbds://$THERE:$2
		serve_there old "$2" --tls=require --tls-psk="$PSK"
	else
		serve_there old "$2"
	fi
	attach --stall-timeout 1s --fence-timeout "${FENCE}s" "${options[@]}" "$uri"
	hold old A
	stamp_behind A
	FIRST=$WRITER
	await 30 is_held old A
	: >"$CELL/parts"
	await 120 test -e "$TEST_DIR/healed"
	end=$((SECONDS + DELAY))
	write_newer "$end"
	[ -n "$SECOND" ] || LATE="A is not sent again, $DELAY s after the network was healed"
	until_then "${SECOND:-$FIRST}" $((SECONDS + PATIENCE)) || true
	let_land old
	await 20 all_landed old A
	shorten
	write_newer $((SECONDS + FENCE + 30))
	[ -n "$SECOND" ] || fail "LATE: A is not acknowledged"
	until_then "$SECOND" $((SECONDS + FENCE + 30)) ||
		fail "LATE: B waits longer than the fence's time"
	acknowledged "$SECOND"
	assert_newest B
	[ -z "$LATE" ] || fail "LATE: $LATE"
	detach
}

# one_place qemu|nbdkit PORT: nothing is in flight when the network goes, so that the server has
# nothing to say and never learns that its only client is gone
one_place() {
	make_disk 1M
	if [ "$1" = qemu ]; then
		ip netns exec "$NS" qemu-nbd -f raw -t -e 1 -b "$THERE" -p "$2" "$DISK" \
			2>>"$NBD_LOG" </dev/null &
		echo $! >>"$CELL/pids"
		nap 2
	else
		ip netns exec "$NS" nbdkit -i "$THERE" -p "$2" -P "$CELL/pid" \
			--filter=noparallel file "$DISK" \
			serialize=connections 2>>"$NBD_LOG"
		await 10 test -s "$CELL/pid"
		cat "$CELL/pid" >>"$CELL/pids"
	fi
	attach --stall-timeout 1s --fence-timeout "${FENCE}s" "nbd://$THERE:$2"
	: >"$CELL/parts"
	await 30 test -e "$TEST_DIR/parted"
	dd if="$DEV" of=/dev/null bs=4k count=1 skip=$BLOCK iflag=direct status=none &
	FIRST=$!
	await 120 test -e "$TEST_DIR/healed"
	until_then "$FIRST" $((SECONDS + 60)) ||
		fail "LATE: not online 60 s after it was healed: $(tail -n 3 "$ATTACH_ERR")"
	wait "$FIRST" || fail "the read failed"
	note "online $((SECONDS - $(<"$TEST_DIR/healed"))) s after the network was healed"
	detach
}

# all_ready N: so many cells wait for the network to go
all_ready() {
	local files=("$TEST_DIR"/cell*/parts)
	[ -e "${files[0]}" ] && [ ${#files[@]} = "$1" ]
}

(
	# the network, beside the cells
	await 90 all_ready 4
	part
	: >"$TEST_DIR/parted"
	nap "$PARTITION"
	echo $SECONDS >"$TEST_DIR/healed"
	heal
) &
run_stories 4 <<'END'
late plain 10809
late tls 10810
one_place qemu 10811
one_place nbdkit 10812
END
no_d_state
