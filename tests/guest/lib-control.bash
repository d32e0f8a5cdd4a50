# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# The control socket, asked by tests/tools/ask.c.

# shellcheck source=tests/guest/lib-data.bash
. "$(dirname "${BASH_SOURCE[0]}")/lib-data.bash"

require jq
find_tool ask
ASK=$TOOL

# socket_of NAME: a path that fits into an address, wherever the run directory is
socket_of() {
	ln -sfn "$UBLK_BRIDGE_RUNDIR" /tmp/ub-run
	printf '/tmp/ub-run/%s/control.sock' "$1"
}

# ask NAME VERB [MEMBERS]: prints the answer, whatever it is
ask() { "$ASK" "$(socket_of "$1")" "{\"version\":1,\"verb\":\"$2\"${3:+,$3}}"; }

# asked NAME VERB MEMBERS FILTER: what jq finds in the answer
asked() { ask "$1" "$2" "$3" | jq -rc "$4"; }
