/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a back end's limits to ublk's parameters. Control plane; knows no back end.
 *
 * The driver leaves much unchecked (a size that is no multiple of the block, a shift of 40), so the
 * limits are checked here before it sees them.
 */
#include "ublk/params.h"

#include <errno.h>
#include <string.h>

#define SECTOR_SHIFT 9

static unsigned params_shift(uint32_t bytes)
{
	return (unsigned)__builtin_ctz(bytes);
}

static int params_power_of_two(uint32_t bytes)
{
	return bytes && !(bytes & (bytes - 1));
}

static int limits_check_blocks(const struct ub_limits *l, struct ub_err *err)
{
	if (!params_power_of_two(l->logical_block_bytes) || l->logical_block_bytes < 512 ||
	    l->logical_block_bytes > 4096)
		return ub_err_set(err, EINVAL,
				  "logical block of %u bytes: it must be 512, 1024, 2048 or 4096",
				  l->logical_block_bytes);
	if (!params_power_of_two(l->physical_block_bytes) ||
	    l->physical_block_bytes < l->logical_block_bytes || l->physical_block_bytes > 1U << 20)
		return ub_err_set(err, EINVAL,
				  "physical block of %u bytes: it must be a power of two from the "
				  "logical block (%u) to 1M",
				  l->physical_block_bytes, l->logical_block_bytes);
	if (l->optimal_io_bytes &&
	    (!params_power_of_two(l->optimal_io_bytes) ||
	     l->optimal_io_bytes < l->physical_block_bytes || l->optimal_io_bytes > 1U << 28))
		return ub_err_set(err, EINVAL,
				  "optimal I/O of %u bytes: it must be a power of two from the "
				  "physical block (%u) to 256M",
				  l->optimal_io_bytes, l->physical_block_bytes);
	return 0;
}

static int limits_check_size(const struct ub_limits *l, struct ub_err *err)
{
	if (l->size_bytes == 0 || l->size_bytes > INT64_MAX)
		return ub_err_set(err, EINVAL,
				  "size of %llu bytes: it must be above 0 and below 8E",
				  (unsigned long long)l->size_bytes);
	if (l->size_bytes % l->logical_block_bytes)
		return ub_err_set(err, EINVAL,
				  "size of %llu bytes is not a multiple of the block size %u: "
				  "choose "
				  "another size or --block-size",
				  (unsigned long long)l->size_bytes, l->logical_block_bytes);
	return 0;
}

/*
 * One of discard or write zeroes: 0 without the ability, else whole blocks within what we commit.
 */
static int limits_check_range(const struct ub_limits *l, const char *what, int can, uint32_t max,
			      struct ub_err *err)
{
	if (can ? max < l->logical_block_bytes || max % l->logical_block_bytes ||
			    max > UB_MAX_RANGE_BYTES :
		  max != 0)
		return ub_err_set(err, EINVAL, "largest %s of %u bytes: it must be %s", what, max,
				  can ? "whole blocks, at most 1G" : "0, because there is none");
	return 0;
}

int ub_limits_check(const struct ub_limits *l, struct ub_err *err)
{
	int ret;

	ret = limits_check_blocks(l, err);
	if (ret)
		return ret;
	ret = limits_check_size(l, err);
	if (ret)
		return ret;
	if (l->max_io_bytes < UB_MIN_IO_BYTES || l->max_io_bytes % l->logical_block_bytes)
		return ub_err_set(err, EINVAL,
				  "largest I/O of %u bytes: it must be whole blocks, at least %u",
				  l->max_io_bytes, UB_MIN_IO_BYTES);
	if (l->discard_granularity_bytes && (!params_power_of_two(l->discard_granularity_bytes) ||
					     l->discard_granularity_bytes < l->logical_block_bytes))
		return ub_err_set(err, EINVAL,
				  "discard granularity of %u bytes: it must be a power of two from "
				  "the "
				  "logical block (%u) on",
				  l->discard_granularity_bytes, l->logical_block_bytes);
	ret = limits_check_range(l, "discard", l->can_trim, l->max_discard_bytes, err);
	if (ret)
		return ret;
	return limits_check_range(l, "write of zeroes", l->can_zero, l->max_zeroes_bytes, err);
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
