#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# --help and --version of the program and of each verb: on stdout, status 0, for anybody.
# kernels: 7
# timeout: 30
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

# says REGEX COMMAND…: status 0, on stdout, nothing on stderr
says() {
	local regex=$1
	shift
	run "$@"
	assert_eq "$STATUS" 0 "the status of $*"
	assert_eq "$ERR" "" "stderr of $*"
	assert_match "$OUT" "$regex" "stdout of $*"
}

version=$("$UB" --version)
assert_match "$version" '^ublk-bridge [0-9]+\.[0-9]+' "the version"
for verb in attach detach list status info migrate stats metrics features; do
	says "^Usage: ublk-bridge $verb \[OPTION" "$UB" $verb --help
	assert_match "${OUT//[[:space:]]/ }" \
		"Exit +status: +0 +(done|healthy), +1 +failed.*, +2 +wrong +usage" \
		"the help of '$verb'"
	says "^$version\$" "$UB" $verb --version
done
run "$UB" attach --help
for option in mem prealloc backend id name read-only block-size queues depth max-io data-path \
	scheduler daemon timeout core no-stats verbose; do
	assert_match "$OUT" "--$option" "the help of attach"
done
for words in --help -h help 'help help'; do
	# shellcheck disable=SC2086 # several words
	says '^Usage: ublk-bridge \[attach\] \[OPTION' "$UB" $words
	assert_match "$OUT" 'Exit status: 0 done, 1 failed, 2 wrong usage' "the help"
done
says "^$version\$" "$UB" version
says '^Usage: ' setpriv --reuid=65534 --regid=65534 --clear-groups "$UB" --help
