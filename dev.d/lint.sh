# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# ./dev lint: the format of all files, shellcheck on the scripts; cppcheck, clang-tidy and gcc's
# analyser on the C code.

# shellcheck source=dev.d/build.sh
. "$DEV_D/build.sh"
# shellcheck source=dev.d/house.sh
. "$DEV_D/house.sh"

COLUMNS_MAX=100

# lint_format: C as clang-format writes it, and no line over COLUMNS_MAX columns in any text file. A
# tab has eight columns, and a character one.
lint_format() {
	local file status=0
	(cd "$PROJECT" && git ls-files -z '*.c' '*.h' | xargs -0 clang-format --dry-run -Werror) ||
		status=1
	while read -r file; do
		[ -f "$PROJECT/$file" ] || continue
		LC_ALL=C.UTF-8 perl -CSD -ne 'chomp;
			1 while s/\t/" " x (8 - $-[0] % 8)/e;
			if (length > '$COLUMNS_MAX') {
				printf "%s:%d: %d columns\n", $ARGV, $., length;
				$bad = 1;
			}
			END { exit($bad // 0) }' "$PROJECT/$file" || status=1
	done < <(git -C "$PROJECT" ls-files | grep -v '^LICENSE$')
	return $status
}

# lint_scripts: every file in git that is a shell script by its first line or its name
lint_scripts() {
	local file scripts=()
	while read -r file; do
		[ -f "$PROJECT/$file" ] || continue
		case $file in
		*.sh | dev) scripts+=("$file") ;;
		*) head -c 60 "$PROJECT/$file" | grep -qaE '^#!.*\b(ba|)sh\b' &&
			scripts+=("$file") ;;
		esac
	done < <(git -C "$PROJECT" ls-files)
	(cd "$PROJECT" && shellcheck -x "${scripts[@]}")
}

# lint_flags: what the compiler is given to find the headers, as the build folder's Makefile says
lint_flags() {
	# shellcheck disable=SC2016 # make's variables
	make -s --no-print-directory -C "$(build_dir)" \
		--eval='print-flags:;@echo $(DEFS) $(DEFAULT_INCLUDES) $(AM_CPPFLAGS) $(CPPFLAGS)' \
		print-flags
}

lint_cppcheck() {
	local work
	work=$(build_dir)/cppcheck
	mkdir -p "$work"
	cppcheck --quiet --std=c11 --error-exitcode=1 --enable=warning,performance,portability \
		--inline-suppr --suppress=missingIncludeSystem \
		--suppress=normalCheckLevelMaxBranches \
		--cppcheck-build-dir="$work" -j "$(nproc)" -I "$PROJECT/include" -I "$PROJECT/src" \
		"$PROJECT/src" "$PROJECT/tests" "$PROJECT/bench"
}

# lint_c_files: what is in git, and not yet deleted
lint_c_files() {
	local file
	git -C "$PROJECT" ls-files 'src/*.c' 'tests/*.c' 'bench/*.c' | while read -r file; do
		[ ! -f "$PROJECT/$file" ] || printf '%s/%s\n' "$PROJECT" "$file"
	done
}

# The checks, and why others are off, are in .clang-tidy.

lint_tidy() {
	local flags
	read -ra flags <<<"$(lint_flags)"
	lint_c_files | (cd "$(build_dir)" && xargs -r -P "$(nproc)" -I @FILE@ clang-tidy \
		--quiet @FILE@ -- \
		-std=gnu11 "${flags[@]}" 2>/dev/null)
}

# (It loses sight of a string that is stored through a pointer, and calls that a leak; LeakSanitizer
# does not.)
lint_analyzer() {
	local flags
	read -ra flags <<<"$(lint_flags)"
	lint_c_files | (cd "$(build_dir)" && xargs -r -P "$(nproc)" -I @FILE@ gcc -std=gnu11 -O2 \
		-Wall -Wextra \
		-Werror -fanalyzer -Wno-analyzer-malloc-leak "${flags[@]}" -c @FILE@ -o /dev/null)
}

lint_main() {
	local status=0
	need shellcheck:shellcheck git:git clang-format:clang-format perl:perl
	step "format" lint_format || status=1
	step "shellcheck" lint_scripts || status=1
	[ "${1:-}" != --scripts ] || return $status
	need_build_tools
	need cppcheck:cppcheck clang-tidy:clang-tidy gcc:gcc
	step "building" build_flavour plain || return 1
	step "the house" lint_house || status=1
	step "cppcheck" lint_cppcheck || status=1
	step "clang-tidy" lint_tidy || status=1
	step "gcc -fanalyzer" lint_analyzer || status=1
	return $status
}
