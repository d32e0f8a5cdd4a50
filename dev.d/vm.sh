# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# ./dev vm: boots a guest on one of Debian's kernels with the host's root under it (read-only, a
# tmpfs above), and runs commands in it. How the guest's side works stands in guest-init and
# guest-main. A guest is a folder: console.log (the kernel's log), pid, orders.in (a pipe), and the
# exchange folder x/ with jobs/ID/{run,out,err,status}.

# shellcheck source=dev.d/kernel.sh
. "$DEV_D/kernel.sh"
# shellcheck source=dev.d/build.sh
. "$DEV_D/build.sh"

BOOT_LIMIT_SECONDS=180
VM_MAX_BOOTS=5

vm_usage() {
	sed -e 's/^/  /' -e 's/^  $//' <<-'END'
	./dev vm [OPTIONS] [6.12|7] COMMAND…    boot, run COMMAND as root, leave with its status
	./dev vm [OPTIONS] [6.12|7]             boot, and a shell on this terminal (exit ends it)
	./dev vm [OPTIONS] --start NAME 6.12|7  boot a guest that stays
	./dev vm --exec NAME COMMAND…           run COMMAND there; several at once are fine
	./dev vm --log NAME                     print its kernel's log, also when it hangs
	./dev vm --stop NAME                    end it
	./dev vm --list                         the guests that run

	One COMMAND word is given to bash -c, several are run as they are. Its working directory is
	this one; UB_* variables go along. The guest sees this machine's files; what it writes to
	them is gone when it ends. The checkout is read-only there and always fresh; the rest of the
	root is cached, so a package installed here may need a new guest. /tmp and /run are its own.

	  --timeout SECONDS  end COMMAND (status 124), 600 when not given; 0: no limit
	  --memory SIZE      2G        --cpus N   2        --append 'KERNEL ARGUMENTS'
	  --no-build         do not build first (else the binaries of build/ are made fresh)
	  --parallel         an emulated guest's CPUs run at once, not in turns: half as fast,
	                     more races
	  --icount           one CPU, and time that counts instructions
	  --export SIZE      an NBD export of this machine, at 10.0.2.100:10809 in the guest
	  UB_QEMU_ARGS       further arguments for qemu
	END
}

vm_dir() { printf '%s/%s' "$VM_HOME" "$1"; }

# vm_runs DIR: its qemu is alive
vm_runs() {
	local pid='' name=''
	# no processes: it is asked many times a second
	{ read -r pid <"$1/pid" && read -r name <"/proc/$pid/comm"; } 2>/dev/null
	[ "$name" = qemu-system-x86 ]
}

vm_terminal_size() {
	local size
	size=$(stty size 2>/dev/null) && [ "$size" != "0 0" ] || size="24 80"
	echo "$size"
}

# vm_settings MODE: what guest-main needs to know
vm_settings() {
	printf '%s=%q\n' MODE "$1" PROJECT "$PROJECT" HOST_TERM "${TERM:-linux}" \
		TTY_SIZE "$(vm_terminal_size)" \
		MODULES "$(readlink -f "$(kernel_dir "$VM_KERNEL")")/modules/lib/modules"
	printf 'BUILD_DIRS=(%q %q)\n' "$(readlink -f "$(build_dir)")" \
		"$(readlink -f "$(build_dir asan)")"
}

# kvm_works: the node alone proves nothing, some virtual machines show one that cannot run anything
kvm_works() {
	[ "${UB_KVM:-yes}" = yes ] && [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo
}

# vm_accelerator: sets QEMU_CPU for the fastest there is, for real parallelism or for counting
# instructions. An emulator that runs the CPUs in turns on one thread needs no atomic instructions
# and no agreement between its threads: two CPUs cost little more than half of what they cost on two
# threads, and what the guest does in vain (spin for a lock that the other CPU holds) ends at once.
# But one that is busy is interrupted by the other's wake-ups only every 100 ms.
vm_accelerator() {
	if [ "$VM_ICOUNT" = yes ]; then
		QEMU_CPU=(-accel "tcg,thread=single" -icount "shift=0,sleep=off" \
			-cpu "max,-erms,-fsrm")
	elif kvm_works; then
		QEMU_CPU=(-accel kvm -cpu host)
	else
		# a page table of four levels is walked faster than one of five
		QEMU_CPU=(-accel \
			"tcg,thread=$([ "$VM_PARALLEL" = yes ] && echo multi || echo single)"
			-cpu "max,-la57")
	fi
}

# vm_share TAG PATH OPTIONS: one 9p folder
vm_share() {
	QEMU+=(-fsdev "local,id=$1,path=$2,security_model=none,multidevs=remap$3"
		-device "virtio-9p-pci,fsdev=$1,mount_tag=$1")
}

# vm_export DIR: a network that leads to one NBD export and nowhere else. Its server runs here, a
# process for each connection, as long as qemu does.
vm_export() {
	truncate -s "$VM_EXPORT" "$1/export.img"
	echo "10.0.2.100 10809" >"$1/x/export"
	QEMU+=(-netdev "user,id=export,restrict=on,$(
		)guestfwd=tcp:10.0.2.100:10809-cmd:$DEV_D/guest-export $1"
		-device "virtio-net-pci,netdev=export,romfile=")
}

# vm_command_line DIR MODE: sets QEMU
vm_command_line() {
	local dir=$1 append extra
	vm_accelerator
	# no watchdogs: a busy host makes them bark; hung tasks are still found
	append="console=ttyS0 loglevel=5 tsc=nowatchdog panic=-1 nowatchdog"
	append+=" rcupdate.rcu_cpu_stall_suppress=1"
	# an emulator translates a program anew for each address that it is loaded at
	append+=" norandmaps mitigations=off audit=0 apparmor=0 selinux=0 net.ifnames=0"
	append+=" log_buf_len=4M $VM_APPEND"
	read -ra extra <<<"${UB_QEMU_ARGS:-}"
	QEMU=(qemu-system-x86_64 -machine q35 "${QEMU_CPU[@]}" -smp "$VM_CPUS" -m "$VM_MEMORY"
		-nodefaults -no-user-config -display none -nic none -no-reboot
		-kernel "$(kernel_dir "$VM_KERNEL")/vmlinuz" -initrd "$(initrd_path "$VM_KERNEL")"
		-append "$append" -serial "file:$dir/console.log" -pidfile "$dir/pid"
		-device virtio-serial-pci)
	if [ "$2" = shell ]; then
		QEMU+=(-chardev "stdio,id=terminal,signal=off" \
			-device "virtconsole,chardev=terminal")
	else
		QEMU+=(-chardev "pipe,id=orders,path=$dir/orders"
			-device "virtserialport,chardev=orders,name=orders")
	fi
	vm_share root / ,readonly=on
	vm_share live / ,readonly=on
	vm_share exchange "$dir/x" ""
	[ -z "$VM_EXPORT" ] || vm_export "$dir"
	QEMU+=("${extra[@]}")
}

# vm_prepare DIR MODE: a fresh folder, and QEMU set
vm_prepare() {
	local dir=$1
	rm -rf "$dir"
	mkdir -p "$dir/x/jobs"
	mkfifo "$dir/orders.in" "$dir/orders.out"
	cp "$DEV_D/guest-main" "$dir/x/guest-main"
	vm_settings "$2" >"$dir/x/settings"
	echo "$VM_KERNEL" >"$dir/kernel"
	vm_command_line "$dir" "$2"
}

# vm_launch DIR: qemu in the background, in a session of its own (Ctrl-C is not for it)
vm_launch() {
	setsid "${QEMU[@]}" </dev/null >"$1/qemu.log" 2>&1 &
	VM_PID=$!
}

# vm_complain DIR: why the guest is gone
vm_complain() {
	say "the guest ended before its time; the end of its log:"
	{
		cat "$1/qemu.log" "$1/x/set-up.log"
		tail -n 25 "$1/console.log"
	} >&2 2>/dev/null || true
}

# job_write DIR ID COMMAND…: the script that the guest runs, as here and now
job_write() {
	local job=$1/x/jobs/$2 name
	shift 2
	mkdir -p "$job"
	: >"$job/out"
	: >"$job/err"
	{
		for name in $(compgen -e UB_); do
			printf 'export %s=%q\n' "$name" "${!name}"
		done
		printf 'export PATH=%q:"%s"\n' "$(build_dir)" "\$PATH"
		printf 'cd %q 2>/dev/null || cd /\n' "$PWD"
		if [ $# = 1 ]; then
			set -- /bin/bash -c "$1"
		fi
		[ "$VM_TIMEOUT" = 0 ] || [ "$VM_ICOUNT" = yes ] ||
			set -- timeout -k 2 "$VM_TIMEOUT" "$@"
		printf 'exec %s\n' "$(printf '%q ' "$@")"
	} >"$job/run"
}

# job_watch JOB GUEST-DIR SECONDS: returns when the job ended, the guest died or time is over
job_watch() {
	local end
	await_ready "$2" || return 0
	end=$((SECONDS + $3))
	until [ -s "$1/status" ]; do
		[ "$3" = 0 ] || [ $SECONDS -lt $end ] || return 0
		vm_runs "$2" || return 0
		nap 0.05
	done
}

# await_ready DIR: returns when the guest takes commands; 1 when it died or needs too long
await_ready() {
	local end=$((SECONDS + BOOT_LIMIT_SECONDS))
	until [ -e "$1/x/ready" ]; do
		vm_runs "$1" && [ $SECONDS -lt $end ] || return 1
		nap 0.05
	done
}

# job_follow DIR ID SECONDS: streams the output, returns the job's status, 124 when time is over,
# 125 when the guest died
job_follow() {
	local job=$1/x/jobs/$2 watcher tails=()
	job_watch "$job" "$1" "$3" &
	watcher=$!
	tail -q -s 0.05 --pid="$watcher" -n +1 -f "$job/out" &
	tails+=($!)
	tail -q -s 0.05 --pid="$watcher" -n +1 -f "$job/err" >&2 &
	tails+=($!)
	wait "$watcher" "${tails[@]}" || true
	if [ -s "$job/status" ]; then
		return "$(cat "$job/status")"
	fi
	vm_runs "$1" && [ -e "$1/x/ready" ] && return 124
	return 125
}

# job_limit: how long the host waits for a job, boot not counted; 0 for ever
job_limit() {
	if [ "$VM_TIMEOUT" = 0 ]; then
		echo 0
	else
		echo $((VM_TIMEOUT + 5))
	fi
}

vm_kill() {
	local pid count
	pid=$(cat "$1/pid" 2>/dev/null) || return 0
	vm_runs "$1" || return 0
	kill "$pid" 2>/dev/null || true
	for ((count = 0; count < 40; count++)); do
		vm_runs "$1" || return 0
		nap 0.05
	done
	kill -9 "$pid" 2>/dev/null || true
}

# vm_await_pid DIR: qemu wrote its pid, or ended
vm_await_pid() {
	until [ -s "$1/pid" ] || ! kill -0 "$VM_PID" 2>/dev/null; do
		nap 0.02
	done
}

# vm_once COMMAND…: boot, run, end
vm_once() {
	local dir status=0
	dir=$(vm_dir "once.$$")
	vm_prepare "$dir" once
	job_write "$dir" 1 "$@"
	# shellcheck disable=SC2064 # the folder's name as it is now
	trap "vm_kill '$dir'; rm -rf '$dir'" EXIT
	trap 'exit 130' INT TERM HUP
	vm_launch "$dir"
	vm_await_pid "$dir"
	job_follow "$dir" 1 "$(job_limit)" || status=$?
	[ "$status" != 125 ] || vm_complain "$dir"
	[ "$status" != 124 ] || say "the time limit of $VM_TIMEOUT s is over"
	[ "$status" = 0 ] || ! vm_clock_was_wrong "$dir" ||
		say "the guest's clock ran too fast, as it may when this machine is busy" \
			"at its boot: try again"
	[ -z "${UB_KEEP_LOG:-}" ] || cp "$dir/console.log" "$UB_KEEP_LOG"
	exit "$status"
}

vm_shell() {
	local dir
	dir=$(vm_dir "shell.$$")
	vm_prepare "$dir" shell
	# shellcheck disable=SC2064
	trap "stty sane 2>/dev/null; rm -rf '$dir'" EXIT
	say "booting; the kernel's log is in $dir/console.log"
	"${QEMU[@]}" || vm_complain "$dir"
}

# vm_start NAME: returns when it takes commands; 1 when it does not
vm_start() {
	local dir boots
	dir=$(vm_dir "$1")
	! vm_runs "$dir" || die "guest $1 runs already"
	for ((boots = 1; ; boots++)); do
		vm_prepare "$dir" warm
		vm_launch "$dir"
		vm_await_pid "$dir"
		if ! await_ready "$dir"; then
			vm_complain "$dir"
			vm_kill "$dir"
			return 1
		fi
		disown "$VM_PID"
		vm_clock_is_right "$1" "$dir" && return
		vm_kill "$dir"
		rm -rf "$dir"
		if [ $boots = "$VM_MAX_BOOTS" ]; then
			say "the clock of guest $1 is wrong at each of $boots boots:" \
				"is this machine busy?"
			return 1
		fi
		say "the clock of guest $1 runs too fast: it boots anew"
	done
}

# vm_clock_is_right NAME DIR: a guest that boots while this machine is busy measures its time-stamp
# counter wrong now and then. Its clock is then some thirty times too fast, and each time limit
# lies. Its second is compared with ours
vm_clock_is_right() {
	local start
	[ "$VM_ICOUNT" = no ] || return 0
	start=$(now_ms)
	VM_TIMEOUT=60 vm_exec "$1" sleep 1 || return 0 # that it died is for others to say
	[ $(($(now_ms) - start)) -ge 700 ]
}

# vm_clock_was_wrong DIR: as its kernel says
vm_clock_was_wrong() { grep -q 'PIT calibration deviates from HPET' "$1/console.log" 2>/dev/null; }

# vm_exec NAME COMMAND…: 124 time over, 125 the guest died, else COMMAND's status
vm_exec() {
	local dir id status=0
	dir=$(vm_dir "$1")
	vm_runs "$dir" || die "guest $1 does not run"
	shift
	id=$BASHPID.${EPOCHREALTIME/[.,]/}
	job_write "$dir" "$id" "$@"
	# The guest may hang with a full port: never wait to open or write it for long.
	# shellcheck disable=SC2016
	timeout 10 bash -c 'echo "run $1" >"$2"' - "$id" "$dir/orders.in" || return 125
	job_follow "$dir" "$id" "$(job_limit)" || status=$?
	case $status in
	124) say "the time limit of $VM_TIMEOUT s is over" ;;
	125) vm_complain "$dir" ;;
	esac
	[ "$status" = 124 ] || rm -rf "$dir/x/jobs/$id"
	return "$status"
}

vm_stop() {
	local dir
	dir=$(vm_dir "$1")
	vm_kill "$dir"
	rm -rf "$dir"
}

vm_list() {
	local dir
	for dir in "$VM_HOME"/*; do
		vm_runs "$dir" && printf '%s\t%s\n' "${dir##*/}" "$(cat "$dir/kernel")"
	done
	return 0
}

# vm_defaults: what the options change
vm_defaults() {
	VM_KERNEL=7 VM_TIMEOUT=600 VM_MEMORY=2G VM_CPUS='' VM_APPEND='' VM_ICOUNT=no VM_BUILD=yes
	VM_ACTION=once VM_NAME='' VM_EXPORT='' VM_PARALLEL=no
}

# vm_options ARGUMENTS…: sets the variables above, and VM_REST to what follows the options
vm_options() {
	vm_defaults
	while [ $# -gt 0 ]; do
		case $1 in
		--timeout | --memory | --cpus | --append | --export | --start | --exec | --stop | \
			--log)
			[ $# -gt 1 ] || die "$1 wants a value"
			;;&
		--timeout) VM_TIMEOUT=$2 && shift ;;
		--memory) VM_MEMORY=$2 && shift ;;
		--cpus) VM_CPUS=$2 && shift ;;
		--append) VM_APPEND=$2 && shift ;;
		--icount) VM_ICOUNT=yes ;;
		--parallel) VM_PARALLEL=yes ;;
		--export) VM_EXPORT=$2 && shift ;;
		--no-build) VM_BUILD=no ;;
		--start | --exec | --stop | --log) VM_ACTION=${1#--} VM_NAME=$2 && shift ;;
		--list) VM_ACTION=list ;;
		--help | -h) VM_ACTION=usage ;;
		--)
			shift
			break
			;;
		-*) die "vm: unknown option $1" ;;
		*) break ;;
		esac
		shift
	done
	VM_REST=("$@")
	[[ $VM_TIMEOUT =~ ^[0-9]+$ ]] || die "vm: --timeout wants whole seconds"
	[ -n "$VM_CPUS" ] || { [ "$VM_ICOUNT" = yes ] && VM_CPUS=1 || VM_CPUS=2; }
}

vm_main() {
	vm_options "$@"
	set -- "${VM_REST[@]}"
	case $VM_ACTION in
	usage) vm_usage ;;
	list) vm_list ;;
	log) cat "$(vm_dir "$VM_NAME")/console.log" ;;
	stop) vm_stop "$VM_NAME" ;;
	exec)
		[ $# -gt 0 ] || die "vm --exec: no command"
		vm_exec "$VM_NAME" "$@"
		;;
	*) vm_boot "$@" ;;
	esac
}

# vm_build: the guest gets the fresh binary; one that does not build is no reason for no guest
vm_build() {
	need_build_tools
	build_flavour plain 2>/dev/null ||
		say "WARNING: the build fails (./dev build shows how):" \
			"the guest has the last binary, if any"
}

# vm_boot [KERNEL] [COMMAND…]: the three ways to have a new guest
vm_boot() {
	case ${1:-} in
	6.12 | 7) VM_KERNEL=$1 && shift ;;
	esac
	kernel_ready "$VM_KERNEL" || die "the $VM_KERNEL kernel cannot be had"
	[ "$VM_BUILD" = no ] || vm_build
	if [ "$VM_ACTION" = start ]; then
		vm_start "$VM_NAME" || die "guest $VM_NAME did not start"
	elif [ $# = 0 ]; then
		vm_shell
	else
		vm_once "$@"
	fi
}
