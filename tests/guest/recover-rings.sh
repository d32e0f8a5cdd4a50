#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# On Linux 6.12 no work comes to a server's queue thread that is about to end (with what is cancelled meanwhile that is a null
# pointer in the kernel, at times): the keeper holds the rings until the last thread has ended. Without that some half of the kills
# here show it.
# kernels: 6.12
# timeout: 120
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-recover.bash"
TRACE=/sys/kernel/tracing

# rings_of PID: how many rings it has
rings_of() { find "/proc/$1/fd" -lname 'anon_inode:\[io_uring\]' 2>/dev/null | wc -l; }
# keeper_rings N: its own, and those of server and standby
keeper_rings() { [ "$(rings_of "$KEEPER")" = "$1" ]; }

[ -e $TRACE/trace ] || mount -t tracefs none $TRACE 2>/dev/null || skip "no tracefs on this kernel"
echo io_fallback_tw >$TRACE/set_ftrace_filter 2>/dev/null || skip "this kernel traces no functions"

attach --mem 16M --queues 2
queues=$(find "/sys/block/${DEV#/dev/}/mq" -mindepth 1 -maxdepth 1 -type d | wc -l)
await 20 has_standby
await 10 keeper_rings $((1 + 2 * queues))
echo function >$TRACE/current_tracer
start_fio --numjobs=2
for ((i = 0; i < 15; i++)); do
	kill_server
	await 20 served_more_than $(($(requests_done) + 50))
	nap 1
done
echo 0 >$TRACE/tracing_on
grep 'io_fallback_tw <-' $TRACE/trace >traced || true
echo nop >$TRACE/current_tracer
echo 1 >$TRACE/tracing_on
echo >$TRACE/set_ftrace_filter
note "$(wc -l <traced) times work was left over, $(pauses)"
! grep -q ublk-q traced || fail "work came to a thread that was about to end: $(grep ublk-q traced)"
kill -TERM "$FIO"
wait "$FIO" || true
await 20 has_standby
await 10 keeper_rings $((1 + 2 * queues))
detach
