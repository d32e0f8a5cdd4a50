#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The scheduler is none when the device is announced, or what was asked for, or the kernel's own
# choice with "keep"; with one queue and with several.
# kernels: 6.12 7
# push: 6.12
# timeout: 60
# shellcheck disable=SC2016,SC2119 # text for eval and jq; functions whose arguments may be left out
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-life.bash"
modprobe -q bfq || true
modprobe -q mq-deadline || true
modprobe -q kyber-iosched || true

scheduler() { sed 's/.*\[\(.*\)\].*/\1/' "/sys/block/${DEV#/dev/}/queue/scheduler"; }

cpus=$(nproc)
for queues in 1 "$cpus"; do
	attach --mem 1M --queues "$queues"
	assert_eq "$(scheduler)" none "the scheduler with $queues queues"
	known=$(tr -d '[]' <"/sys/block/${DEV#/dev/}/queue/scheduler")
	detach
done
for name in $known; do
	attach --mem 1M --scheduler "$name"
	assert_eq "$(scheduler)" "$name" "the scheduler that was asked for"
	detach
done
if [[ $known == *mq-deadline* ]]; then
	attach --mem 1M --scheduler keep
	assert_eq "$(scheduler)" mq-deadline "the kernel's choice for one queue"
	detach
fi
assert_nothing_left
