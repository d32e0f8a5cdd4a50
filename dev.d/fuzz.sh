# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# ./dev fuzz [SECONDS] [SEED]: the NBD back end against a hostile server, built with the sanitizers.
# Needs neither a guest nor ublk. A case that fails is named, with how to repeat it.

# shellcheck source=dev.d/build.sh
. "$DEV_D/build.sh"

fuzz_build() {
	build_flavour asan && make -C "$(build_dir asan)" \
		-s --no-print-directory tests/fuzz/fuzz-nbd
}

fuzz_main() {
	local seconds=${1:-60} seed=${2:-$RANDOM} dir
	[[ $seconds =~ ^[0-9]+$ ]] || die "fuzz: SECONDS is a number, not '$seconds'"
	need_build_tools
	dir=$(build_dir asan)
	step "building with sanitizers" fuzz_build || die "the build failed"
	say "$dir/tests/fuzz/fuzz-nbd --seconds $seconds --seed $seed"
	step "a hostile NBD server, $seconds s, seed $seed" "$dir/tests/fuzz/fuzz-nbd" \
		--seconds "$seconds" --seed "$seed"
}
