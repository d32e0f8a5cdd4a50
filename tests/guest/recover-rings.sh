#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# On Linux 6.12 no work comes to a server's queue thread that is about to end (with what is
# cancelled meanwhile that is a null pointer in the kernel, at times): keeper and standby hold the
# rings until the last thread has ended. Without that some half of the kills here show it.
# kernels: 6.12
# timeout: 150
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
. "$(dirname "$0")/lib-recover.bash"
TRACE=/sys/kernel/tracing

# has_rings WHO N: the keeper, or the standby, has that many
has_rings() { \
	[ \
	"$(find "/proc/$(state_of "$1")/fd" -lname 'anon_inode:\[io_uring\]' 2>/dev/null | wc -l)" \
	= "$2" ]; }
# all_hold: beside the keeper's own ring and the standby's
all_hold() { has_standby && has_rings keeper_pid $((1 + 2 * queues)) &&
	has_rings standby_pid $((2 * queues)); }
more_served() { await 20 served_more_than $(($(requests_done) + 50)); }

[ -e $TRACE/trace ] || mount -t tracefs none $TRACE 2>/dev/null || skip "no tracefs on this kernel"
echo io_fallback_tw >$TRACE/set_ftrace_filter 2>/dev/null || skip "this kernel traces no functions"
echo function >$TRACE/current_tracer

attach --mem 16M --queues 2
queues=$(find "/sys/block/${DEV#/dev/}/mq" -mindepth 1 -maxdepth 1 -type d | wc -l)
await 20 all_hold
start_fio --numjobs=2
note "the server"
for ((i = 0; i < 12; i++)); do
	kill_server
	more_served
	nap 1
	await 20 all_hold
done
note "$(pauses)"
note "the server and the keeper"
for ((i = 0; i < 8; i++)); do
	await 20 all_hold
	pids=("$(state_of server_pid)" "$(state_of keeper_pid)")
	kill -KILL "${pids[@]}"
	for pid in "${pids[@]}"; do await 10 gone "$pid"; done
	"$UB" recover "$ID" >>recover.out 2>&1 || fail "recover: $(tail -n 3 recover.out)"
	more_served
	nap 1
done
echo 0 >$TRACE/tracing_on
grep 'io_fallback_tw <-' $TRACE/trace >traced || true
echo nop >$TRACE/current_tracer
echo >$TRACE/set_ftrace_filter
echo 1 >$TRACE/tracing_on
note "$(wc -l <traced) times work was left over"
! grep -q ublk-q traced || fail "work came to a thread that was about to end: $(grep ublk-q traced)"
kill -TERM "$FIO"
wait "$FIO" || true
await 20 all_hold
"$UB" detach "$ID"
await 10 no_device "$ID"
