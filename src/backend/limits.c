/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a back end may say of itself. Control plane; a function of its argument.
 *
 * The driver leaves much unchecked (a size that is no multiple of the block, a shift of 40), so the
 * limits are checked here before it sees them.
 */
#include "backend/limits.h"

#include <errno.h>
#include <stdbool.h>

static bool limits_power_of_two(uint32_t bytes)
{
	return bytes && !(bytes & (bytes - 1));
}

static int limits_check_blocks(const struct ub_limits *l, struct ub_err *err)
{
	if (!limits_power_of_two(l->logical_block_bytes) || l->logical_block_bytes < 512 ||
	    l->logical_block_bytes > 4096)
		return ub_err_set(err, EINVAL,
				  "logical block of %u bytes: it must be 512, 1024, 2048 or 4096",
				  l->logical_block_bytes);
	if (!limits_power_of_two(l->physical_block_bytes) ||
	    l->physical_block_bytes < l->logical_block_bytes || l->physical_block_bytes > 1U << 20)
		return ub_err_set(err, EINVAL,
				  "physical block of %u bytes: it must be a power of two from the "
				  "logical block (%u) to 1M",
				  l->physical_block_bytes, l->logical_block_bytes);
	if (l->optimal_io_bytes &&
	    (!limits_power_of_two(l->optimal_io_bytes) ||
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
	if (l->discard_granularity_bytes && (!limits_power_of_two(l->discard_granularity_bytes) ||
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
