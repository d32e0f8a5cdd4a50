# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# ./dev lint: shellcheck on the scripts, cppcheck and a few checks of clang-tidy on the C code.

# shellcheck source=dev.d/build.sh
. "$DEV_D/build.sh"

TIDY_CHECKS='-*,bugprone-*,-bugprone-easily-swappable-parameters,-bugprone-reserved-identifier'
TIDY_CHECKS+=',-bugprone-assignment-in-if-condition'
TIDY_CHECKS+=',-bugprone-narrowing-conversions,-bugprone-implicit-widening-of-multiplication-result'
TIDY_CHECKS+=',clang-analyzer-core.*,clang-analyzer-unix.*'
TIDY_CHECKS+=',-clang-analyzer-unix.Malloc,clang-analyzer-deadcode.*'
TIDY_CHECKS+=',misc-redundant-expression,misc-misplaced-const,performance-*,-performance-no-int-to-ptr'
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

# lint_flags: what the compiler is given to find the headers, as the build folder's Makefile says
lint_flags() {
	# shellcheck disable=SC2016 # make's variables
	make -s --no-print-directory -C "$(build_dir)" \
		--eval='print-flags:;@echo $(DEFS) $(DEFAULT_INCLUDES) $(AM_CPPFLAGS) $(CPPFLAGS)' print-flags
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
	local flags
	read -ra flags <<<"$(lint_flags)"
	git -C "$PROJECT" ls-files 'src/*.c' 'tests/*.c' | sed "s|^|$PROJECT/|" |
		(cd "$(build_dir)" && xargs -r -P "$(nproc)" -I @FILE@ clang-tidy --quiet --checks="$TIDY_CHECKS" \
			--warnings-as-errors='*' @FILE@ -- -std=gnu11 "${flags[@]}" 2>/dev/null)
}

lint_main() {
	local status=0
	need shellcheck:shellcheck git:git
	step "shellcheck" lint_scripts || status=1
	[ "${1:-}" != --scripts ] || return $status
	need_build_tools
	need cppcheck:cppcheck clang-tidy:clang-tidy
	step "building" build_flavour plain || return 1
	step "cppcheck" lint_cppcheck || status=1
	step "clang-tidy" lint_tidy || status=1
	return $status
}
