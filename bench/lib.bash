# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# What the benchmarks share: fio's cells, a root in memory, the scheduler, profiles.
#
# Whoever sources it sets SELF (its command line, to be run again by perf) and QUEUES, MS, CELLS,
# SETTINGS, PROFILE and PROFILE_TOP before it measures.

# shellcheck disable=SC2034 # for those who source it
SIZE_MIB=64
ROOT=/tmp/root # in the guest
# shellcheck disable=SC2034
ALL_CELLS=rr4k1,rr4k32,rw4k1,rw4k32,r128k8,w128k8

# awk: the median of a list in one string
# shellcheck disable=SC2034
AWK_MEDIAN='
	function median(list, n, parts, i, j, t) {
		n = split(list, parts, " ")
		for (i = 2; i <= n; i++)
			for (j = i; j > 1 && parts[j] + 0 < parts[j - 1] + 0; j--) {
				t = parts[j]; parts[j] = parts[j - 1]; parts[j - 1] = t
			}
		return parts[int((n + 1) / 2)]
	}'

die() {
	printf 'bench: %s\n' "$*" >&2
	exit 1
}

# pin_to_first PROCESS…: all threads of them; what runs already and what it makes later
pin_to_first() {
	local pid
	[ "$QUEUES" = 1 ] && [ "$(nproc)" -gt 1 ] || return 0
	for pid; do
		taskset -acp 0 "$pid" >/dev/null
	done
}

# settle DISK: none, read back five times over 100 ms: the kernel sets its default after the node
# appears. brd takes no scheduler and has no such file.
settle() {
	local file=/sys/block/$1/queue/scheduler good=0 tries=0
	[ -e "$file" ] || [[ $1 != ram* ]] || return 0
	while [ $good -lt 5 ]; do
		[ $((++tries)) -lt 100 ] || die "$1: the scheduler stays $(cat "$file")"
		if [[ $(cat "$file") == *"[none]"* || $(cat "$file") == none ]]; then
			good=$((good + 1))
		else
			echo none >"$file"
			good=0
		fi
		sleep 0.02
	done
}

warm() {
	fio --name=warm --filename="/dev/$1" --rw=write --bs=1M --size=${SIZE_MIB}M --direct=1 \
		--ioengine=psync --output-format=terse >/dev/null
}

# cell_options CELL: what fio calls it
cell_options() {
	[[ $1 =~ ^(rr|rw|r|w)(4k|128k)([0-9]+)$ ]] || die "no such cell: $1"
	case ${BASH_REMATCH[1]} in
	rr) printf -- '--rw=randread ' ;;
	rw) printf -- '--rw=randwrite ' ;;
	r) printf -- '--rw=read ' ;;
	w) printf -- '--rw=write ' ;;
	esac
	printf -- '--bs=%s --iodepth=%s' "${BASH_REMATCH[2]}" "${BASH_REMATCH[3]}"
}

# fio_cell DISK CELL MS FIO-ARGUMENTS…: fio's terse line
fio_cell() {
	local disk=$1 options
	read -ra options <<<"$(cell_options "$2")"
	options+=(--runtime="${3}ms")
	shift 3
	[ "$QUEUES" = 1 ] || options+=(--numjobs="$QUEUES" --group_reporting)
	[ "$QUEUES" != 1 ] || options+=(--cpus_allowed=$(($(nproc) - 1)))
	fio --name=cell --filename="/dev/$disk" --size=${SIZE_MIB}M --ioengine=io_uring --direct=1 \
		--norandommap=1 --randrepeat=0 --time_based --ramp_time=20ms \
		--output-format=terse --terse-version=3 "${options[@]}" "$@"
}

# fio_only DISK CELL QUEUES MS FIO-ARGUMENTS…: what perf watches
fio_only() {
	QUEUES=$3
	fio_cell "$1" "$2" "${@:4}"
}

measure_cell() { # TARGET DISK CELL ROUND
	local iops
	iops=$(fio_cell "$2" "$3" "$MS" | awk -F';' '{ printf "%d", $8 + $49 }')
	[ "${iops:-0}" -gt 0 ] || die "$1: $3: fio measured nothing"
	printf 'iops %s %s %s %s\n' "$1" "$3" "$4" "$iops"
}

# profile_cell TARGET DISK CELL: one CPU at a time, because two sampling clocks keep step with each
# other
profile_cell() {
	local cpu
	for ((cpu = 0; cpu < $(nproc); cpu++)); do
		echo "$1, $3, CPU $cpu: percent of what ran there, the idle loop left out"
		# the first 150 ms are fio's start
		perf record -q -C $cpu -D 150 -e cpu-clock -F 20011 -o /tmp/perf.data -- \
			"${SELF[@]}" --fio-only "$2" "$3" "$QUEUES" 300 >/dev/null
		perf script -i /tmp/perf.data -F comm,ip,sym 2>/dev/null | profile_count
	done
}

# what perf script prints, counted
profile_count() {
	awk -v top="$PROFILE_TOP" '
		/pv_native_safe_halt|default_idle|acpi_safe_halt/ { next }
		NF >= 3 {
			who = $1 ~ /^swapper/ ? "idle+irq" : $1
			name = $3
			sub(/\+0x.*/, "", name)
			sub(/\.(isra|constprop|part).*/, "", name)
			count[who " " name]++
			of[who]++
			all++
		}
		END {
			for (w in of)
				if (of[w] / all > 0.01)
					printf "%6.2f %s: all\n", 100 * of[w] / all, w | "sort -rn"
			close("sort -rn")
			for (k in count)
				printf "%6.2f %s\n", 100 * count[k] / all, k |
					"sort -rn | head -n " top
		}'
}

measure_disk() { # TARGET DISK ROUND
	local cell setting
	settle "$2"
	for setting in $SETTINGS; do
		echo "${setting#*=}" >"/sys/block/$2/queue/${setting%%=*}"
	done
	warm "$2"
	if [ -n "$PROFILE" ]; then
		profile_cell "$1" "$2" "$PROFILE"
		return
	fi
	for cell in ${CELLS//,/ }; do
		measure_cell "$1" "$2" "$cell" "$3"
	done
}

# await_file FILE: returns when there is something in it, or after 5 s
await_file() {
	local tries
	for ((tries = 0; tries < 500; tries++)); do
		! grep -qs . "$1" || break
		sleep 0.01
	done
}

# in_memory FILE NAME: a copy of the program and its libraries below $ROOT, a tmpfs. While the guest
# waits for a file of the host its clock leaps to the next timer, so none may be wanted when time
# counts.
in_memory() {
	local file
	mkdir -p "$ROOT/bin"
	cp "$1" "$ROOT/bin/$2"
	ldd "$1" | grep -oE '/[^ ]+' | while read -r file; do
		mkdir -p "$ROOT${file%/*}"
		[ -e "$ROOT$file" ] || cp -L "$file" "$ROOT$file" # running programs have it mapped
	done
}

# library_in_memory NAME: what dlopen finds, and all that it needs
library_in_memory() {
	local file
	file=$(ldconfig -p | awk -v name="$1" '$1 == name { print $NF; exit }')
	[ -n "$file" ] || die "there is no $1"
	in_memory "$file" "$1"
	mkdir -p "$ROOT${file%/*}"
	mv "$ROOT/bin/$1" "$ROOT$file"
}

make_root() {
	local dir
	mkdir -p "$ROOT"
	mount -t tmpfs root "$ROOT"
	for dir in dev proc sys run; do
		mkdir -p "$ROOT/$dir"
		mount --bind "/$dir" "$ROOT/$dir"
	done
	mkdir -p "$ROOT/tmp"
}

# bridge NAME ARGUMENTS…: runs it there
bridge() { chroot "$ROOT" "/bin/$1" "${@:2}"; }

# processes_of NAME: keeper, server and what else runs that program
processes_of() {
	local link
	for link in /proc/[0-9]*/exe; do
		[ "$(readlink "$link")" != "$ROOT/bin/$1" ] || echo "$link" | cut -d/ -f3
	done
}

# ==== on the host
# ====================================================================================

# check_list LIST ALLOWED WHAT
check_list() {
	local word
	for word in ${1//,/ }; do
		[[ ,$2, == *",$word,"* ]] || die "no such $3: $word (there are ${2//,/, })"
	done
}

# in_guest PATH: where the guest sees this machine's file, whatever is mounted over it there
in_guest() { printf '/run/host%s' "$1"; }
