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
exit $failed
