/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Limits that any back end may have: what is tried begins with them. */
#ifndef TESTS_UNIT_GOOD_LIMITS_H
#define TESTS_UNIT_GOOD_LIMITS_H

#include <ublk-bridge/backend.h>

static inline struct ub_limits good_limits(void)
{
	return (struct ub_limits){
		.size_bytes = 16 << 20,
		.logical_block_bytes = 512,
		.physical_block_bytes = 4096,
		.max_io_bytes = 1 << 20,
		.max_discard_bytes = 128 << 20,
		.max_zeroes_bytes = 16 << 20,
		.can_flush = 1,
		.can_fua = 1,
		.can_trim = 1,
		.can_zero = 1,
	};
}

#endif
