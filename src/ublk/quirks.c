/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which kernel does what has to be worked around. Control plane; a function of its argument. */
#include "ublk/quirks.h"

#include <ublk-bridge/ublk-abi.h>

struct ub_quirks ub_quirks_of(uint64_t features)
{
	/*
	 * Of the kernels that were looked at, those with PER_IO_DAEMON (6.16) take a dead server's
	 * queues apart when the last reference to /dev/ublkcN goes, and those without it queue by
	 * queue, as each ring ends: there is all that goes wrong. It is forced on for us.
	 */
	bool tears_down_by_queue = !(features & UBLK_F_PER_IO_DAEMON);

	return (struct ub_quirks){
		.rings_must_be_held = tears_down_by_queue,
		.half_fetched_is_fatal = tears_down_by_queue,
		.start_twice_is_einval = tears_down_by_queue,
		.full_queue_hides_death = tears_down_by_queue,
		/* A driver that can leave the scan to us is told to. */
		.scan_in_start_hangs = !(features & UBLK_F_NO_AUTO_PART_SCAN),
	};
}
