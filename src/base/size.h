/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes and numbers as people write them. Any thread; knows nobody. */
#ifndef UB_BASE_SIZE_H
#define UB_BASE_SIZE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/*
 * Reads "4096", "16M", "1.5G": a number, at most one fraction, and one of B K M G T P E (either
 * case, also as KiB or KB: all are powers of 1024). The result is whole bytes, above 0 and at most
 * INT64_MAX. 0, or -EINVAL/-ERANGE with *err filled; `what` names the option in it.
 */
int ub_size_parse(const char *text, const char *what, uint64_t *bytes, struct ub_err *err);

/* Reads a decimal number from min to max. Errors as above. */
int ub_number_parse(const char *text, const char *what, uint64_t min, uint64_t max, uint64_t *value,
		    struct ub_err *err);

/*
 * Reads "30", "1.5s", "200ms", "5m", "1h": a number with at most three decimals, seconds when there
 * is no unit. The result is whole milliseconds, at most a hundred days. Errors as above.
 */
int ub_duration_parse(const char *text, const char *what, uint64_t *ms, struct ub_err *err);

/* Writes "16 MiB", "1.5 GiB" or "512 B" into buf and returns it. */
const char *ub_size_format(uint64_t bytes, char *buf, size_t len);

#endif
