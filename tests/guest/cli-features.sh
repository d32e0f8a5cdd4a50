#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# features: what build and kernel can do, as text and as JSON, and both agree with what attach
# accepts.
# kernels: 6.12 7
# push: 7
# timeout: 60
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
require jq

"$UB" features >text
"$UB" features --json >json
assert_eq "$(jq -r 'keys | join(" ")' json)" \
	'backends data_paths kernel libnbd liburing ublk ublk_features version' "the keys"
assert_eq "ublk-bridge $(jq -r .version json)" "$("$UB" --version)" "the version"
assert_eq "$(jq -r .kernel json)" "$(uname -r)" "the kernel"
assert_eq "$(jq -c .backends json)" '["error","mem","nbd","null"]' "the back ends that ship"
assert_eq "$(jq '[.ublk[] | select(. == true or . == false | not)] | length' json)" 0 \
	"what is no yes or no"
case $(uname -r) in
6.12.*) assert_eq "$(jq .ublk_features json)" $((0x1fe)) "the features of 6.12" ;;
7.*) assert_eq $(($(jq .ublk_features json) & 0xfffff)) $((0xfffff)) "the features of 7" ;;
esac
jq -r '.ublk | to_entries[] | "\(.key) \(if .value then "yes" else "no" end)"' json |
	while read -r name has; do
	grep -Eq "^  $name +$has +\(since Linux [0-9.]+\)\$" text ||
		fail "$name ($has) is not in the text"
done
assert_eq "$(jq -r '.libnbd.tls, .libnbd.uri' json | tr '\n' ' ')" 'true true ' "what libnbd can do"
assert_match "$(cat text)" $'\nlibnbd [0-9.]+: TLS yes, URI yes, vsock (yes|no)\n' "the text"
assert_match "$(cat text)" $'\ndata paths: copy get-data user-copy\n' "the text"
for path in $(jq -r '.data_paths[]' json); do
	attach --mem 1M --data-path "$path"
	assert_eq "$("$UB" list --json | jq -r '.[].data_path')" "$path" "the data path"
	detach
done
# nothing is made by asking
no_ublk || fail "there is a device"
