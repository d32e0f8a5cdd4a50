#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The completion for bash, with the words as bash makes them: "=" is one of its own.
set -euo pipefail

bridge=$PWD/ublk-bridge
srcdir=$(cd "${srcdir:-.}" && pwd)
failed=0
UBLK_BRIDGE_RUNDIR=$(mktemp -d)
export UBLK_BRIDGE_RUNDIR
trap 'rm -rf "$UBLK_BRIDGE_RUNDIR"' EXIT
mkdir "$UBLK_BRIDGE_RUNDIR"/{alpha,beta,lock}
: >"$UBLK_BRIDGE_RUNDIR/alpha/state.json"
: >"$UBLK_BRIDGE_RUNDIR/beta/state.json"

compopt() { :; } # it wants a completion that is going on
complete() { :; }
# shellcheck source=contrib/ublk-bridge.bash
. "$srcdir/contrib/ublk-bridge.bash"

# offers WANTED WORDS…: the completion of the last word, without nodes of this machine
offers() {
	local wanted=$1 got
	shift
	COMP_WORDS=("$bridge" "$@") COMP_CWORD=$#
	_ublk_bridge
	got=$(printf '%s\n' "${COMPREPLY[@]}" | { grep -v '^/dev/ublkb' || true; } | LC_ALL=C sort |
		tr '\n' ' ')
	wanted=$(tr ' ' '\n' <<<"$wanted" | LC_ALL=C sort | tr '\n' ' ')
	wanted=${wanted% }
	if [ "${got# }" != "${wanted:+$wanted }"  ]; then
		echo "\"$*\" offers \"${got% }\", and not \"$wanted\""
		failed=1
	fi
}

# verbs
offers detach de
offers 'status set stats' s
offers 'fenced features' help fe
# names, but where none is taken
offers 'alpha beta' detach ''
offers alpha status al
offers beta detach alpha b
offers '' metrics ''
# values behind "=", alone and at once
offers 'auto copy get-data user-copy' --data-path =
offers get-data --data-path = g
offers get-data --data-path g
offers get-data --data-path=g
offers 'off allow require' --mem 1M --tls ''
offers debug set alpha --log-level = d
offers 'none keep mq-deadline bfq kyber' --scheduler ''
offers 'NAME' list -o N
# options: those that the verb has, each once
offers '--json' stats alpha --jso
offers '--all --force --timeout= --help --usage --version' detach --
offers '--name=' --na
offers '' stats alpha --na
offers '--command= --complete' migrate alpha --com
# files
cd "$UBLK_BRIDGE_RUNDIR"
offers 'alpha beta lock' --unix ''
offers alpha --tls-certificates = al

# the other shells: the same verbs and values, and a syntax that theirs understands
for file in _ublk-bridge ublk-bridge.fish; do
	for verb in attach detach list status info set resize migrate fenced recover upgrade stats \
		metrics features help; do
		grep -qE "(^|[^a-z-])$verb([^a-z-]|$)" "$srcdir/contrib/$file" || {
			echo "$file does not know $verb"
			failed=1
		}
	done
	for option in data-path tls fence log-level scheduler block-size; do
		grep -qF -- "$(_ublk_bridge_values "--$option")" "$srcdir/contrib/$file" || {
			echo "$file has other values for --$option"
			failed=1
		}
	done
done
! command -v zsh >/dev/null || zsh -n "$srcdir/contrib/_ublk-bridge" || failed=1
if command -v fish >/dev/null; then
	# fish_offers WANTED LINE
	fish_offers() {
		local got
		got=$(HOME=$UBLK_BRIDGE_RUNDIR PATH="${bridge%/*}:$PATH" fish -c \
			"source $srcdir/contrib/ublk-bridge.fish; complete -C '$2'" 2>&1 |
			cut -f 1 |
			{ grep -v '^/dev/ublkb' || true; } | LC_ALL=C sort | tr '\n' ' ')
		[ "$got" = "${1:+$1 }" ] && return
		echo "fish: \"$2\" offers \"$got\", and not \"$1\""
		failed=1
	}
	fish_offers 'set stats status' 'ublk-bridge s'
	fish_offers 'alpha beta' 'ublk-bridge detach '
	fish_offers --data-path=get-data 'ublk-bridge --data-path=g'
	fish_offers debug 'ublk-bridge set alpha --log-level d'
	fish_offers --json 'ublk-bridge stats alpha --js'
	fish_offers '' 'ublk-bridge stats alpha --na'
	fish_offers alpha/ 'ublk-bridge --tls-certificates al'
fi
exit $failed
