# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# ./dev lint: shellcheck on the scripts, cppcheck and a few checks of clang-tidy on the C code.

# shellcheck source=dev.d/build.sh
. "$DEV_D/build.sh"

TIDY_CHECKS='-*,bugprone-*,-bugprone-easily-swappable-parameters,-bugprone-reserved-identifier'
TIDY_CHECKS+=',-bugprone-assignment-in-if-condition,-bugprone-narrowing-conversions'
TIDY_CHECKS+=',clang-analyzer-core.*,clang-analyzer-unix.*,clang-analyzer-deadcode.*'
TIDY_CHECKS+=',misc-redundant-expression,misc-misplaced-const,performance-*'
TIDY_CHECKS+=',readability-misleading-indentation,readability-redundant-control-flow'

# lint_scripts: every file in git that is a shell script by its first line or its name
lint_scripts() {
	local file scripts=()
	while read -r file; do
		[ -f "$PROJECT/$file" ] || continue
		case $file in
		*.sh | dev) scripts+=("$file") ;;
		*) head -c 60 "$PROJECT/$file" | grep -qaE '^#!.*\b(ba|)sh\b' && scripts+=("$file") ;;
		esac
	done < <(git -C "$PROJECT" ls-files)
	(cd "$PROJECT" && shellcheck -x "${scripts[@]}")
}

# lint_database: compile_commands.json in the build folder, from what make would run
lint_database() {
	local dir
	dir=$(build_dir)
	build_flavour plain || return 1
	make -C "$dir" -n -B --no-print-directory all 2>/dev/null | python3 "$DEV_D/compile-commands" "$dir" \
		>"$dir/compile_commands.json.new" && mv "$dir/compile_commands.json.new" "$dir/compile_commands.json"
}

lint_cppcheck() {
	local work
	work=$(build_dir)/cppcheck
	mkdir -p "$work"
	cppcheck --quiet --std=c11 --error-exitcode=1 --enable=warning,performance,portability \
		--inline-suppr --suppress=missingIncludeSystem --suppress=normalCheckLevelMaxBranches \
		--cppcheck-build-dir="$work" -j "$(nproc)" -I "$PROJECT/include" -I "$PROJECT/src" "$PROJECT/src"
}

lint_tidy() {
	(cd "$PROJECT" && git ls-files 'src/*.c' 'src/**/*.c' | sort -u |
		xargs -r -P "$(nproc)" -n 4 clang-tidy --quiet -p "$(build_dir)" --checks="$TIDY_CHECKS" \
			--warnings-as-errors='*' 2>/dev/null)
}

lint_main() {
	local status=0
	need shellcheck:shellcheck git:git
	step "shellcheck" lint_scripts || status=1
	[ "${1:-}" != --scripts ] || return $status
	need_build_tools
	need cppcheck:cppcheck clang-tidy:clang-tidy python3:python3
	step "listing the compile commands" lint_database || return 1
	step "cppcheck" lint_cppcheck || status=1
	step "clang-tidy" lint_tidy || status=1
	return $status
}
