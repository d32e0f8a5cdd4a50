# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Recoveries that are cut short: the device of all of them is served on, under blkstamp.

NOW=/run/ub-step-now # the step is acted on when this is there, and once
# shellcheck disable=SC2034 # for the tests
SERVER_RECOVERY_STEPS='device-open queue-fetch server-fetching server-live'

# attach_with STEP=ACTION ARGUMENTS…: as attach, with that in all its processes, whenever $NOW is
# there
attach_with() {
	rm -f "$NOW" "$JOURNAL"
	export UB_STEP=$1 UB_STEP_WHEN=$NOW
	# shellcheck disable=SC2034 # attach
	BRIDGE=$UBT
	attach "${@:2}"
	unset UB_STEP UB_STEP_WHEN
	await 20 has_standby
}
was_acted() { [ ! -e "$NOW" ]; }


# keeper_dies_at STEP: in mid-recovery; another keeper goes on, and no byte is lost
keeper_dies_at() {
	local keeper server
	attach_with "$1=kill" --mem 8M
	keeper=$(state_of keeper_pid)
	server=$(state_of server_pid)
	start_stamp
	: >"$NOW"
	kill -KILL "$server"
	await 40 gone "$keeper"
	was_acted || fail "the keeper did not come to $1"
	nap 0.3
	stamp_alive
	"$UB" recover "$ID" || fail "$1: recover ended with $?"
	stamp_goes_on
	await 20 has_standby
	kill_server
	stamp_goes_on
	end_of "the keeper killed at $1"
}

# server_dies_at STEP kill|kill-keeper ARGUMENTS…: the standby, as it takes over; the next one does
server_dies_at() {
	local server
	attach_with "$1=$2" --mem 8M "${@:3}"
	server=$(state_of server_pid)
	start_stamp
	: >"$NOW"
	kill -KILL "$server"
	await 60 was_acted
	[ "$2" = kill ] || "$UB" recover "$ID" || fail "$1: recover ended with $?"
	stamp_goes_on
	end_of "$2 at the standby's $1"
}

# end_of WHAT
end_of() {
	stop_stamp
	"$UB" detach "$ID" || fail "$1: detach ended with $?"
	assert_sweep "$1"
}

# adopter_dies_at STEP WHO…: who recovers dies at that, with WHO of keeper and server dead; the next
# one does it
adopter_dies_at() {
	local pid status=0 pids=()
	attach_with none=0 --mem 8M
	start_stamp
	for pid in "${@:2}"; do pids+=("$(state_of "$pid")"); done
	kill -KILL "${pids[@]}"
	for pid in "${pids[@]}"; do await 10 gone "$pid"; done
	: >"$NOW"
	UB_STEP=$1=kill UB_STEP_WHEN=$NOW "$UBT" recover "$ID" 2>recover.err || status=$?
	if was_acted; then
		[ $status = 1 ] || fail "recover ended with $status at $1"
		"$UB" recover "$ID" || fail "$1: the second recover ended with $?"
	else
		rm "$NOW"
		note "$1 is no step of this"
	fi
	stamp_goes_on
	end_of "who adopted killed at $1"
}

# both_die_at STEP: the keeper in mid-recovery, and the next server when another keeper has just
# come
both_die_at() {
	local keeper standby verb
	attach_with "$1=kill" --mem 8M
	keeper=$(state_of keeper_pid)
	standby=$(state_of standby_pid)
	start_stamp
	: >"$NOW"
	kill -KILL "$(state_of server_pid)"
	await 40 gone "$keeper"
	kill -STOP "$standby"
	"$UB" recover "$ID" 2>recover.err &
	verb=$!
	await 10 pgrep -P $verb
	kill -CONT "$standby"
	await 10 says recover.err 'has a keeper again'
	kill -KILL "$standby"
	wait $verb || fail "$1: recover ended with $?: $(cat recover.err)"
	stamp_goes_on
	end_of "both killed at $1"
}

# half_fetched: the standby dies when it has fetched a part of its queues. Linux 6.12 cannot mend
# that: whoever waits gets an error, and the device goes
half_fetched() {
	attach_with queue-fetch=kill --mem 8M --queues 2
	start_stamp
	: >"$NOW"
	kill -KILL "$(state_of server_pid)"
	await 60 was_acted
	if kernel_at_least 7; then
		stamp_goes_on
		end_of "half fetched"
		return
	fi
	await 60 gone_or_goes_on
	if process_alive "$STAMP"; then
		note "both queues were fetched"
		end_of "half fetched"
		return
	fi
	# shellcheck disable=SC2153 # of attach
	await 60 gone "$KEEPER"
	grep -q 'cannot be recovered.*a server died while it fetched' "$ATTACH_ERR" ||
		fail "half fetched: $(cat "$ATTACH_ERR")"
	assert_sweep "half fetched"
}
# half_fetched_alone: likewise, and the keeper with it. Linux 6.12: whoever comes later must not try
half_fetched_alone() {
	local keeper
	attach_with queue-fetch=kill-both --backend faulty:8M --queues 2
	keeper=$(state_of keeper_pid)
	: >"$NOW"
	kill -KILL "$(state_of server_pid)"
	await 60 was_acted
	await 20 gone "$keeper"
	if kernel_at_least 7; then
		"$UBT" recover "$ID" || fail "half fetched, both killed: recover ended with $?"
		"$UB" detach "$ID" || fail "half fetched, both killed: detach ended with $?"
	else
		for _ in 1 2; do assert_fails 1 \
			'a server died while it fetched.*detach it with --force' "$UBT" recover \
			"$ID"; done
		"$UB" detach --force "$ID" || fail "half fetched, both killed: detach ended with $?"
	fi
	assert_sweep "half fetched, both killed"
}
gone_or_goes_on() { gone "$STAMP" || grep -q 'recovered after' "$ATTACH_ERR"; }
