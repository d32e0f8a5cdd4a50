# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Servers that die with all the requests that a queue can have in their hands.

HELD=0 PAUSE_MS=0
BEFORE_HOLDING=true # a command, between attach and the first request

# hold_all ARGUMENTS…: a device whose server answers no READ any more; sets HELD, as many as it will
# ever take
hold_all() {
	local last=-1
	attach_hanging 64M "$@"
	await 20 has_standby
	$BEFORE_HOLDING
	fio --name=hold --filename="$DEV" --direct=1 --ioengine=libaio --rw=randread --bs=4k \
		--iodepth=192 --numjobs=2 \
		--cpus_allowed=0-1 --cpus_allowed_policy=split --size=32M --io_size=800k \
		--output=fio.out \
		>/dev/null 2>&1 </dev/null &
	HOLDER=$!
	await 30 in_flight 1
	while [ "$HELD" != "$last" ]; do
		last=$HELD
		nap 0.5
		read -r HELD _ <"/sys/block/${DEV#/dev/}/inflight"
	done
}

# shellcheck disable=SC2034 # for the tests
# die_holding: that server is killed, and the next one answers; sets PAUSE_MS
die_holding() {
	local pid
	pid=$(state_of server_pid)
	: >/run/ub-faulty-go
	kill -KILL "$pid"
	await 45 other_server "$pid"
	await 10 says "$ATTACH_ERR" 'recovered after'
	PAUSE_MS=$(grep -oE 'recovered after [0-9.]+' "$ATTACH_ERR" |
		awk '{ print int($3 * 1000) }')
}

# let_go: all that was held is answered by then
let_go() {
	await 30 gone "$HOLDER"
	wait "$HOLDER" || fail "I/O that outlived its server failed: $(cat fio.out)"
	HELD=0
	detach
}
