#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A machine that cannot serve: each message says what is missing and what to do, with status 1. Not
# root, no module, modprobe out of reach, a kernel too old, io_uring switched off, no CAP_SYS_ADMIN.
# The kernel too old is faked by putting other devices in the place of /dev/ublk-control: /dev/zero
# knows no io_uring commands (as ublk before GET_FEATURES), /dev/null says 0 to any (no features).
# kernels: 6.12 7
# push: 6.12
# timeout: 60
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

# fails_everywhere REGEX PREFIX…: attach, list, features and detach all say it
fails_everywhere() {
	local regex=$1 verb
	shift
	for verb in "attach --mem 1M" list features "detach 0"; do
		# shellcheck disable=SC2086 # the verb's words
		assert_fails 1 "^ublk-bridge: $regex" "$@" "$UB" $verb
		assert_eq "$OUT" "" "stdout of $verb"
	done
}

# in_namespace COMMANDS ARGUMENTS…: COMMANDS in a mount namespace, then the rest
cat >in-namespace <<'END'
#!/bin/bash
eval "$1"
shift
exec "$@"
END
chmod +x in-namespace
in_namespace=(unshare -m --propagation private "$PWD/in-namespace")

chmod 755 "$TEST_DIR"
fails_everywhere '(/dev/ublk-control: .* )?run this as root' \
	setpriv --reuid=65534 --regid=65534 --clear-groups
# somebody else may look, but not make devices: no stack trace, no EPERM alone
assert_fails 1 'ADD_DEV.*CAP_SYS_ADMIN' setpriv --bounding-set=-sys_admin "$UB" --mem 1M

for verb in "attach --mem 1M" features; do
	# shellcheck disable=SC2086 # the verb's words
	assert_fails 1 'this kernel .* is too old: .*GET_FEATURES, which Linux 6.5 brought' \
		"${in_namespace[@]}" 'mount --bind /dev/zero /dev/ublk-control' "$UB" $verb
done
assert_fails 1 'lacks encoded ublk commands, which Linux 6.4 brought' \
	"${in_namespace[@]}" 'mount --bind /dev/null /dev/ublk-control' "$UB" features
# an injected refusal, in the place where the real one comes: nothing was made yet
UB_STEP=features=95 assert_fails 1 'features \(injected\): Operation not supported' "$UBT" --mem 1M

if [ -e /proc/sys/kernel/io_uring_disabled ]; then
	before=$(</proc/sys/kernel/io_uring_disabled)
	echo 2 >/proc/sys/kernel/io_uring_disabled
	run "$UB" features
	echo "$before" >/proc/sys/kernel/io_uring_disabled
	assert_eq "$STATUS" 1 "the status without io_uring"
	assert_match "$ERR" 'control ring \(is the sysctl kernel.io_uring_disabled set\?\)'
fi

# the module: gone, and not to be had
modprobe -r ublk_drv || skip "ublk_drv cannot be unloaded"
trap 'modprobe ublk_drv' EXIT
await 5 test ! -e /dev/ublk-control
fails_everywhere '/dev/ublk-control is not there: .*modprobe ublk_drv' env PATH=/nonexistent
fails_everywhere "/dev/ublk-control is not there: this kernel \(.*\) has no ublk_drv module" \
	"${in_namespace[@]}" 'mount -t tmpfs none /lib/modules'
fails_everywhere '(/dev/ublk-control: .* )?run this as root' \
	setpriv --reuid=65534 --regid=65534 --clear-groups
[ ! -e /dev/ublk-control ] || fail "the module was loaded meanwhile"

# but where it is to be had, it is loaded
attach --mem 1M
detach
[ -d /sys/module/ublk_drv ] || fail "the module was not loaded"
