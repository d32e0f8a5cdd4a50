# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# ./dev clean: removes the build folders; with --cache the guests' kernels too.

# shellcheck source=dev.d/build.sh
. "$DEV_D/build.sh"

clean_main() {
	local dir
	for dir in "$(build_dir)" "$(build_dir asan)" "$(build_dir old)" ${1:+"$CACHE"}; do
		[ -d "$dir" ] || continue
		say "removing $dir"
		rm -rf "$dir"
	done
}
