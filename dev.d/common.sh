# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# What every verb of ./dev uses: messages, timed steps, missing packages, the places of things.
# Messages go to stderr, so that a guest command's stdout stays its own.

# shellcheck disable=SC2034 # used by the files that source this one
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/ublk-bridge
# where guests that run keep their logs, pipes and exchange folders
VM_HOME=${UB_VM_DIR:-${TMPDIR:-/tmp}/ublk-bridge-vm.$(id -u)}

say() { printf 'dev: %s\n' "$*" >&2; }

die() {
	printf 'dev: %s\n' "$*" >&2
	exit 1
}

# now_ms: milliseconds from a clock that starts somewhere
now_ms() {
	local now=${EPOCHREALTIME/[.,]/}
	printf '%s' "$((now / 1000))"
}

# seconds_since MS: "3.4", the seconds that went by since now_ms said MS
seconds_since() {
	local ms=$(($(now_ms) - $1))
	printf '%d.%d' $((ms / 1000)) $((ms % 1000 / 100))
}

# step WHAT COMMAND…: says what it does and how long it took; COMMAND's status is kept
step() {
	local what=$1 start status=0
	shift
	start=$(now_ms)
	say "$what"
	"$@" || status=$?
	if [ "$status" = 0 ]; then
		say "$what: done ($(seconds_since "$start") s)"
	else
		say "$what: failed with status $status ($(seconds_since "$start") s)"
	fi
	return "$status"
}

# nap SECONDS: a sleep that starts no process
nap() {
	[ -n "${NAP_FD:-}" ] || exec {NAP_FD}<> <(:)
	read -rt "$1" -u "$NAP_FD" || true
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "needs root to run: $*"
	fi
}

# need COMMAND-OR-FILE:PACKAGE…: installs the packages whose command, or absolute path, is missing
need() {
	local pair probe packages=()
	for pair in "$@"; do
		probe=${pair%%:*}
		case $probe in
		/*) compgen -G "$probe" >/dev/null || packages+=("${pair#*:}") ;;
		*) command -v "$probe" >/dev/null || packages+=("${pair#*:}") ;;
		esac
	done
	[ ${#packages[@]} = 0 ] || install_packages "${packages[@]}"
}

# install_packages PACKAGE…: with apt-get, after an update only if the lists do not know them
install_packages() {
	command -v apt-get >/dev/null ||
		die "missing: $* (names of Debian packages; only apt-get is known here)"
	step "installing $*" install_with_apt "$@"
}

install_with_apt() {
	local log status=0 get=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
	log=$(mktemp)
	if ! as_root "${get[@]}" install -y --no-install-recommends "$@" </dev/null >"$log" 2>&1; \
		then
		{
			as_root "${get[@]}" update &&
				as_root "${get[@]}" install -y --no-install-recommends "$@"
		} </dev/null >"$log" 2>&1 || status=$?
	fi
	[ "$status" = 0 ] || tail -n 20 "$log" >&2
	rm -f "$log"
	return "$status"
}
