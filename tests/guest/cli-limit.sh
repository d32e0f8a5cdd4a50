#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The kernel's limit of devices (ublks_max) counts those of unprivileged users: ours do not come
# near it. Where a kernel refuses all the same, the message names the limit.
# kernels: 6.12 7
# tier: all
# timeout: 60
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"

limit=/sys/module/ublk_drv/parameters/ublks_max
[ -w $limit ] || skip "no $limit"
before=$(<$limit)
trap 'echo $before >$limit' EXIT
echo 1 >$limit
attach --mem 1M
first=$KEEPER
if try_attach --mem 1M; then
	detach
else
	assert_match "$(cat "$ATTACH_ERR")" "limit of ublk devices is reached: .*ublks_max" \
		"the message"
fi
KEEPER=$first DEV=/dev/ublkb0
detach
