/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a back end's limits, which are checked, to ublk's parameters. Control plane; knows no back
 * end.
 */
#include "ublk/params.h"

#include <string.h>

#define SECTOR_SHIFT 9

static unsigned params_shift(uint32_t bytes)
{
	return (unsigned)__builtin_ctz(bytes);
}

static void params_discard(const struct ub_limits *l, struct ublk_params *params)
{
	struct ublk_param_discard *d = &params->discard;

	params->types |= UBLK_PARAM_TYPE_DISCARD;
	/* Never 0: the driver refuses that even when only write zeroes is wanted. */
	d->discard_granularity = l->discard_granularity_bytes ? l->discard_granularity_bytes :
								l->logical_block_bytes;
	d->max_discard_sectors = l->max_discard_bytes >> SECTOR_SHIFT;
	d->max_write_zeroes_sectors = l->max_zeroes_bytes >> SECTOR_SHIFT;
	d->max_discard_segments = 1;
}

void ub_params_from_limits(const struct ub_limits *l, uint32_t max_io_bytes,
			   struct ublk_params *params)
{
	struct ublk_param_basic *b = &params->basic;

	memset(params, 0, sizeof(*params));
	params->len = sizeof(*params);
	params->types = UBLK_PARAM_TYPE_BASIC;
	b->logical_bs_shift = (uint8_t)params_shift(l->logical_block_bytes);
	b->physical_bs_shift = (uint8_t)params_shift(l->physical_block_bytes);
	b->io_min_shift = b->physical_bs_shift;
	/* A shift cannot say "none"; one physical block is the weakest hint there is. */
	b->io_opt_shift = (uint8_t)params_shift(l->optimal_io_bytes ? l->optimal_io_bytes :
								      l->physical_block_bytes);
	b->max_sectors = max_io_bytes >> SECTOR_SHIFT;
	b->dev_sectors = l->size_bytes >> SECTOR_SHIFT;
	b->attrs = l->read_only ? UBLK_ATTR_READ_ONLY : UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA;
	if (l->rotational)
		b->attrs |= UBLK_ATTR_ROTATIONAL;
	if (!l->read_only && (l->can_trim || l->can_zero))
		params_discard(l, params);
}
