# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# ./dev run [--guest] [6.12|7]: builds, then shows a memory device and an NBD export at work: here
# when the kernel has ublk and we are root, else in a guest. What is shown stands in dev.d/demo.

# shellcheck source=dev.d/vm.sh
. "$DEV_D/vm.sh"

kernel_here_has_ublk() {
	[ "$(id -u)" = 0 ] || return 1
	modprobe -q ublk_drv 2>/dev/null || true
	[ -e /dev/ublk-control ]
}

run_main() {
	local start status=0
	start=$(now_ms)
	need_build_tools
	need mkfs.ext4:e2fsprogs sha256sum:coreutils mount:mount modprobe:kmod nbdkit:nbdkit
	step "building ublk-bridge" build_flavour plain || die "the build failed"
	if [ $# = 0 ] && kernel_here_has_ublk; then
		say "this machine's kernel has ublk: everything happens right here"
		PATH=$(build_dir):$PATH /bin/bash "$DEV_D/demo" || status=$?
	else
		[ "${1:-}" != --guest ] || shift
		vm_defaults
		VM_KERNEL=${1:-7} VM_CPUS=2 VM_TIMEOUT=300
		kernel_ready "$VM_KERNEL" || die "the $VM_KERNEL kernel cannot be had"
		say "booting Debian's $(kernel_release "$VM_KERNEL") in a guest"
		(vm_once /bin/bash "$DEV_D/demo") || status=$?
	fi
	[ "$status" = 0 ] || die "it did not work (status $status)"
	say "all of it took $(seconds_since "$start") s"
}
