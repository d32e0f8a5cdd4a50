# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# ./dev check: unit tests, then the guest tests on both kernels, and one line of totals.
#
# Each kernel (and the sanitizer build) has a queue of tests; two lanes take from them, each with
# one guest at a time, its own kernel's queue first. A guest is booted once and takes many tests,
# one after the other. One that hangs or dies is ended, its test counts as failed, and the lane
# boots another for the next. What a test printed stays in the build folder's check-logs/.

# shellcheck source=dev.d/build.sh
. "$DEV_D/build.sh"
# shellcheck source=dev.d/vm.sh
. "$DEV_D/vm.sh"

TESTS_DIR=${UB_TEST_DIR:-$PROJECT/tests/guest}

# --- which tests ---------------------------------------------------------------------------

# header FILE KEY DEFAULT: the value of "# KEY: value" in the comment at its head
header() {
	local line
	while read -r line && [[ $line == '#'* ]]; do
		if [[ $line == "# $2:"* ]]; then
			line=${line#*:}
			printf '%s' "${line# }"
			return
		fi
	done <"$1"
	printf '%s' "$3"
}

# wanted NAME: matches one of the globs, or there are none
wanted() {
	local glob
	[ ${#GLOBS[@]} -gt 0 ] || return 0
	for glob in "${GLOBS[@]}"; do
		# shellcheck disable=SC2053 # a pattern is meant
		[[ $1 == ${glob%.sh} ]] && return 0
	done
	return 1
}

# everywhere: what runs, runs wherever it can: all was asked for, or a few by name
everywhere() { [ "$ALL" = yes ] || [ ${#GLOBS[@]} -gt 0 ]; }

# test_files: those that this run is about
test_files() {
	local file
	for file in "$TESTS_DIR"/*.sh; do
		[[ ${file##*/} != lib* ]] || continue
		wanted "$(basename "$file" .sh)" || continue
		everywhere || [ "$(header "$file" tier default)" = default ] ||
			continue
		printf '%s\n' "$file"
	done
}

# queue_name KERNEL FLAVOUR MEMORY EXPORT: a queue is a file of test files for guests of one kind
queue_name() { printf '%s_%s_%s_%s' "$@"; }

# kernels_of FILE: those that it runs on now: with "# push:" a part of them, but for --all and by
# name
kernels_of() {
	local all
	all=$(header "$1" kernels '6.12 7')
	if everywhere; then
		printf '%s' "$all"
	else
		header "$1" push "$all"
	fi
}

# sanitized FILE: it runs with the sanitizers, too, now
sanitized() {
	case $(header "$1" sanitize no) in
	yes) return 0 ;;
	all) everywhere ;;
	*) return 1 ;;
	esac
}

# fill_queues: one line a test
fill_queues() {
	local file kernel kind
	mkdir -p "$WORK/queues"
	for file in $(test_files); do
		kind=("$(header "$file" memory 2G)" "$(header "$file" export '')")
		for kernel in $(kernels_of "$file"); do
			[[ " ${KERNELS[*]} " != *" $kernel "* ]] || [ "$PLAIN" = no ] ||
				echo "$file" \
					>>"$WORK/queues/$(queue_name "$kernel" plain "${kind[@]}")"
		done
		[ "$ASAN" = no ] || ! sanitized "$file" || [[ " ${KERNELS[*]} " != *" 7 "* ]] ||
			echo "$file" >>"$WORK/queues/$(queue_name 7 asan "${kind[@]}")"
	done
	return 0
}

# queue_pop QUEUE LANE: prints and removes its first test; 1 when there is none for this lane: a
# queue that another lane works at is worth a second guest only while it is long
queue_pop() {
	local file=$WORK/queues/$1 lock first='' owner
	exec {lock}>"$WORK/queue-lock"
	flock "$lock"
	owner=$(cat "$WORK/owner.$1" 2>/dev/null || true)
	if [ -s "$file" ] && { [ "${owner:-$2}" = "$2" ] || [ "$(wc -l <"$file")" -ge 6 ]; }; then
		[ -n "$owner" ] || echo "$2" >"$WORK/owner.$1"
		first=$(head -n 1 "$file")
		sed -i 1d "$file"
	fi
	exec {lock}>&-
	[ -n "$first" ] && printf '%s' "$first"
}

# second_chance QUEUE FILE LABEL LOG: puts a test that failed at the end of its queue, once; 1 when
# it had its second chance. An emulated guest on a busy machine can panic at its start or stand
# still for a while, and that says nothing about the test; a test that needed it is named in the
# totals.
second_chance() {
	local lock
	! grep -qxF "$3" "$WORK/tried" 2>/dev/null || return 1
	exec {lock}>"$WORK/queue-lock"
	flock "$lock"
	echo "$3" >>"$WORK/tried"
	echo "$2" >>"$WORK/queues/$1"
	exec {lock}>&-
	cp "$4" "$4.first"
	say "$3 failed and is tried once more later; see $4.first"
}

# --- results ---------------------------------------------------------------------------------

# report pass|fail|skip LABEL SECONDS LOG: one line, and the log's end when it failed; SECONDS may
# be empty
report() {
	local lock count line reason=''
	exec {lock}>"$WORK/report-lock"
	flock "$lock"
	echo "$1 $2" >>"$WORK/results"
	count=$(wc -l <"$WORK/results")
	case $1 in
	pass) line="ok $count $2${3:+ ($3 s)}" ;;
	fail) line="not ok $count $2${3:+ ($3 s)}" ;;
	skip)
		reason=$(tail -n 1 "$4")
		line="ok $count $2 # skip ${reason#skip: }"
		;;
	esac
	printf '%s\n' "$line"
	[ "$1" != fail ] || tail -n "${UB_LOG_LINES:-100}" "$4" | sed 's/^/    /'
	exec {lock}>&-
}

count_results() { grep -c "^$1 " "$WORK/results" || true; }

totals() {
	local failed
	touch "$WORK/results"
	failed=$(count_results fail)
	if [ "$failed" != 0 ]; then
		echo "failed:"
		sed -n 's/^fail /  /p' "$WORK/results"
	fi
	if [ -s "$WORK/tried" ]; then
		echo "tried twice (the first log ends in .first):"
		sed 's/^/  /' "$WORK/tried"
	fi
	printf '%s passed, %s failed, %s skipped\n' "$(count_results pass)" "$failed" \
		"$(count_results skip)"
	[ "$failed" = 0 ] && [ -s "$WORK/results" ]
}

# --- unit tests ------------------------------------------------------------------------------

# unit_tests FLAVOUR: make check, and a line for each result that automake's drivers noted
unit_tests() {
	local dir start status=0 trs result kind label=unit
	dir=$(build_dir "$1")
	[ "$1" = plain ] || label=unit-$1
	start=$(now_ms)
	find "$dir" -name '*.trs' -delete
	say "unit tests ($1)"
	make -C "$dir" -s -k -j "$(nproc)" check </dev/null >"$LOGS/$label.log" 2>&1 || status=$?
	while read -r trs; do
		while read -r _ result _; do
			case $result in
			PASS | XFAIL) kind=pass ;;
			SKIP) kind=skip ;;
			*) kind=fail ;;
			esac
			report $kind "$label $(basename "$trs" .trs)" '' "${trs%.trs}.log"
		done < <(grep '^:test-result:' "$trs")
	done < <(find "$dir" -name '*.trs' | sort)
	if [ "$status" != 0 ] && ! grep -q "^fail $label " "$WORK/results" 2>/dev/null; then
		report fail "$label make-check" "$(seconds_since "$start")" "$LOGS/$label.log"
	fi
	say "unit tests ($1): $(seconds_since "$start") s"
}

# --- guests ----------------------------------------------------------------------------------

# machine_label KERNEL FLAVOUR: "7.3", "7.3-asan"
machine_label() {
	local release
	if [ "$NATIVE" = yes ]; then
		release=$(uname -r)
	else
		release=$(kernel_release "$1" 2>/dev/null || echo "$1")
	fi
	printf '%s' "$(cut -d . -f 1-2 <<<"$release")"
	[ "$2" = plain ] || printf -- '-%s' "$2"
}

# guest_start NAME QUEUE: boots one and puts the binaries into it
guest_start() {
	local kernel flavour memory outside start
	IFS=_ read -r kernel flavour memory outside <<<"$2"
	start=$(now_ms)
	if [ "$NATIVE" = no ]; then
		vm_defaults
		VM_KERNEL=$kernel VM_MEMORY=$memory VM_EXPORT=$outside VM_CPUS=2 VM_PARALLEL=$ALL
		# in turns, a CPU that looks for memory lets the one that would free some wait for
		# 100 ms
		[ -z "$outside" ] || VM_PARALLEL=yes
		vm_start "$1" || return 1
	fi
	VM_TIMEOUT=60
	guest_run "$1" /bin/bash "$PROJECT/tests/guest/runner" prepare \
		"$(build_dir "$flavour")" || return 1
	say "guest $(machine_label "$kernel" "$flavour") is ready ($(seconds_since "$start") s)"
}

# guest_run NAME COMMAND…
guest_run() {
	if [ "$NATIVE" = yes ]; then
		shift
		timeout -k 5 "$VM_TIMEOUT" "$@" </dev/null
	else
		(vm_exec "$@")
	fi
}

guest_stop() { [ "$NATIVE" = yes ] || vm_stop "$1"; }

# guest_lost NAME: what its kernel said last, then its end
guest_lost() {
	[ "$NATIVE" = no ] || return 0
	echo "the guest is given up; the end of its kernel's log:"
	tail -n 60 "$(vm_dir "$1")/console.log"
	vm_stop "$1"
}

# lane NAME QUEUE…: takes tests until the queues are empty
lane() {
	local name=check.$$.$1 queue file has=none
	shift
	for queue; do
		while file=$(queue_pop "$queue" "$name"); do
			if [ "$has" != "$queue" ]; then
				guest_stop "$name"
				has=none
				guest_start "$name" "$queue" >"$WORK/$name.start" 2>&1 && has=$queue
				grep '^dev: ' "$WORK/$name.start" >&2 || true
			fi
			if [ "$has" = none ]; then
				lane_without_guest "$queue" "$file" "$WORK/$name.start"
			else
				lane_test "$name" "$queue" "$file" || has=none
			fi
		done
	done
	guest_stop "$name"
}

# lane_without_guest QUEUE FILE LOG
lane_without_guest() {
	local kernel flavour
	IFS=_ read -r kernel flavour _ <<<"$1"
	echo "no guest" >>"$3"
	! second_chance "$1" "$2" "$(machine_label "$kernel" "$flavour") $(basename "$2" .sh)" \
		"$3" || return 0
	report fail "$(machine_label "$kernel" "$flavour") $(basename "$2" .sh)" 0 "$3"
}

# patience: how many times a test's own time limit it really gets: a limit is there to find what
# hangs, and a busy machine is not a hanging one
patience() {
	local load cpus times
	read -r load _ </proc/loadavg
	cpus=$(nproc)
	times=$((${load%.*} / cpus))
	echo $((times < 2 ? 2 : times > 8 ? 8 : times))
}

# lane_test GUEST QUEUE FILE: 1 when the guest is lost
lane_test() {
	local kernel flavour label log start limit status=0 lost=0 slow times
	IFS=_ read -r kernel flavour _ <<<"$2"
	label="$(machine_label "$kernel" "$flavour") $(basename "$3" .sh)"
	log=$LOGS/${label// /-}.log
	times=$(patience)
	slow=$((times / 2))
	if [ "$flavour" = asan ]; then
		slow=$((slow * 3)) times=$((times * 2))
	fi
	limit=$(($(header "$3" timeout 120) * times))
	VM_TIMEOUT=$((limit + 90))
	start=$(now_ms)
	UB_SLOW=$slow UB_OLD_DIR=$(build_dir old) \
		guest_run "$1" /bin/bash "$PROJECT/tests/guest/runner" "$3" "$limit" \
		>"$log" 2>&1 || status=$?
	case $status in
	0) report pass "$label" "$(seconds_since "$start")" "$log" && return ;;
	77) report skip "$label" "$(seconds_since "$start")" "$log" && return ;;
	90 | 124 | 125) guest_lost "$1" >>"$log" && lost=1 ;;
	esac
	second_chance "$2" "$3" "$label" "$log" ||
		report fail "$label" "$(seconds_since "$start")" "$log"
	return $lost
}

# drop_queues KERNEL REASON: its kernel cannot be had
drop_queues() {
	local queue file kernel flavour kind=skip
	[ -z "${UB_REQUIRE_GUEST:-}" ] || kind=fail
	echo "$2" >"$WORK/dropped"
	for queue in $(queues_of "$1"); do
		IFS=_ read -r kernel flavour _ <<<"$queue"
		while file=$(queue_pop "$queue" dropped); do
			report $kind \
				"$(machine_label "$kernel" "$flavour") $(basename "$file" .sh)" 0 \
				"$WORK/dropped"
		done
	done
}

# queues_of [KERNEL]: names, plain ones first
queues_of() {
	(cd "$WORK/queues" && compgen -G "${1:-*}_plain_*"
		compgen -G "${1:-*}_asan_*") || true
}

guest_tests() {
	local kernel
	for kernel in "${KERNELS[@]}"; do
		[ -n "$(queues_of "$kernel")" ] || continue
		[ "$NATIVE" = yes ] || kernel_ready "$kernel" ||
			drop_queues "$kernel" "the $kernel kernel cannot be had"
	done
	say "guest tests; their logs go to $LOGS"
	# shellcheck disable=SC2046 # names without blanks
	if [ "$NATIVE" = yes ]; then
		lane native $(queues_of)
	else
		lane a $(queues_of 6.12) $(queues_of 7) &
		LANES+=($!)
		lane b $(queues_of 7) $(queues_of 6.12) &
		LANES+=($!)
		wait "${LANES[@]}"
	fi
}

# --- the whole ---------------------------------------------------------------------------------

check_options() {
	KERNELS=(6.12 7) ALL=no ASAN=maybe PLAIN=yes UNIT=maybe GUEST=yes NATIVE=no GLOBS=() \
		LIST=no LANES=()
	while [ $# -gt 0 ]; do
		case $1 in
		--kernel)
			kernel_suite "${2:-}" >/dev/null || die "check: --kernel wants 6.12 or 7"
			KERNELS=("$2") && shift
			;;
		--all) ALL=yes ;;
		--asan) ASAN=yes PLAIN=no ;;
		--no-asan) ASAN=no ;;
		--unit-only) GUEST=no UNIT=yes ;;
		--guest-only) UNIT=no ;;
		--native) NATIVE=yes KERNELS=(7) ;;
		--list) LIST=yes ;;
		-*) die "check: unknown option $1" ;;
		*) GLOBS+=("$1") ;;
		esac
		shift
	done
	# a few named tests: nothing else, unless asked for
	if [ ${#GLOBS[@]} -gt 0 ]; then
		[ $ASAN != maybe ] || ASAN=no
		[ $UNIT != maybe ] || UNIT=no
	fi
	[ $ASAN != maybe ] || ASAN=yes
	[ $UNIT != maybe ] || UNIT=yes
}

check_list() {
	local file
	for file in $(test_files); do
		printf '%-40s kernels %s, %s s%s\n' "$(basename "$file" .sh)" \
			"$(kernels_of "$file")" \
			"$(header "$file" timeout 120)" \
			"$(! sanitized "$file" || echo ', sanitized')"
	done
}

# wants_old: a test that is to run upgrades from the old revision ("# old: yes")
wants_old() {
	local file
	for file in $(test_files); do
		[ "$(header "$file" old no)" = no ] || return 0
	done
	return 1
}

check_build() {
	[ "$PLAIN" = no ] || step "building" build_flavour plain || return 1
	if [ "$GUEST" = yes ] && wants_old && has_old; then
		step "building the revision before it" build_old || return 1
	fi
	[ "$ASAN" = no ] || step "building with sanitizers" build_flavour asan
}

check_clean_up() {
	local dir
	trap '' INT TERM HUP
	[ ${#LANES[@]} = 0 ] || kill "${LANES[@]}" 2>/dev/null && wait
	for dir in "$VM_HOME/check.$$."*; do
		[ ! -d "$dir" ] || vm_stop "${dir##*/}"
	done
	rm -rf "$WORK"
}

check_main() {
	local start
	check_options "$@"
	[ $LIST = no ] || { check_list && return; }
	start=$(now_ms)
	need_build_tools
	[ $GUEST = no ] || need_test_tools
	check_build || die "the build failed"
	WORK=$VM_HOME/work.$$
	LOGS=$(build_dir)/check-logs
	rm -rf "$WORK" "$LOGS"
	mkdir -p "$WORK" "$LOGS"
	trap check_clean_up EXIT
	trap 'exit 130' INT TERM HUP
	[ $UNIT = no ] || [ "$PLAIN" = no ] || unit_tests plain
	[ $UNIT = no ] || [ $ASAN = no ] || unit_tests asan
	if [ $GUEST = yes ]; then
		fill_queues
		guest_tests
	fi
	say "all of it: $(seconds_since "$start") s"
	totals
}
