/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes and numbers as people write them. Any thread; knows nobody. */
#include "base/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define DURATION_MAX_MS (100ULL * 24 * 3600 * 1000)

static const char size_units[] = "BKMGTPE";

/* The power of two behind a unit such as "", "K", "kB" or "GiB"; -1: no such unit. */
static int size_unit_shift(const char *unit)
{
	const char *found;

	if (!*unit)
		return 0;
	found = strchr(size_units, toupper((unsigned char)*unit));
	if (!found)
		return -1;
	unit++;
	if (*unit && strcasecmp(unit, "B") != 0 && strcasecmp(unit, "iB") != 0)
		return -1;
	if (*unit && found == size_units)
		return -1;
	return 10 * (int)(found - size_units);
}

static int size_bad(const char *text, const char *what, struct ub_err *err)
{
	return ub_err_set(err, EINVAL,
			  "%s: '%s' is not a size: give bytes or a number with K, M, G, T, P or E, "
			  "such as 16M or 1.5G",
			  what, text);
}

static int size_range(const char *text, const char *what, struct ub_err *err)
{
	return ub_err_set(err, ERANGE,
			  "%s: '%s' is too large: the largest size is 8E less one byte", what,
			  text);
}

int ub_size_parse(const char *text, const char *what, uint64_t *bytes, struct ub_err *err)
{
	uint64_t whole = 0, fraction = 0, scale = 1;
	const char *p = text;
	int shift;

	if (*p == '-')
		return ub_err_set(err, EINVAL, "%s: '%s' is negative: a size is above 0", what,
				  text);
	if (!isdigit((unsigned char)*p))
		return size_bad(text, what, err);
	for (; isdigit((unsigned char)*p); p++) {
		if (__builtin_mul_overflow(whole, 10, &whole) ||
		    __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
			return size_range(text, what, err);
	}
	if (*p == '.') {
		p++;
		if (!isdigit((unsigned char)*p))
			return size_bad(text, what, err);
		for (; isdigit((unsigned char)*p); p++) {
			if (scale >= 1000000000)
				return ub_err_set(err, EINVAL,
						  "%s: '%s' has more than nine decimals", what,
						  text);
			fraction = fraction * 10 + (uint64_t)(*p - '0');
			scale *= 10;
		}
	}
	shift = size_unit_shift(p);
	if (shift < 0)
		return size_bad(text, what, err);
	if (whole > ((uint64_t)INT64_MAX >> shift))
		return size_range(text, what, err);
	whole <<= shift;
	if (fraction) {
		__extension__ unsigned __int128 part = (unsigned __int128)fraction << shift;

		if (part % scale)
			return ub_err_set(err, EINVAL, "%s: '%s' is not a whole number of bytes",
					  what, text);
		whole += (uint64_t)(part / scale);
	}
	if (whole == 0)
		return ub_err_set(err, EINVAL, "%s: '%s' is nothing: a size is above 0", what,
				  text);
	if (whole > INT64_MAX)
		return size_range(text, what, err);
	*bytes = whole;
	return 0;
}

int ub_number_parse(const char *text, const char *what, uint64_t min, uint64_t max, uint64_t *value,
		    struct ub_err *err)
{
	uint64_t number = 0;
	const char *p = text;

	for (; isdigit((unsigned char)*p); p++) {
		if (__builtin_mul_overflow(number, 10, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*p - '0'), &number)) {
			number = UINT64_MAX;
			break;
		}
	}
	if (p == text || (*p && number != UINT64_MAX))
		return ub_err_set(err, EINVAL,
				  "%s: '%s' is not a whole number: give one from %llu to %llu",
				  what, text, (unsigned long long)min, (unsigned long long)max);
	if (number < min || number > max)
		return ub_err_set(err, ERANGE, "%s: %s is out of range: give one from %llu to %llu",
				  what, text, (unsigned long long)min, (unsigned long long)max);
	*value = number;
	return 0;
}

/* Milliseconds in a unit such as "", "ms" or "h"; 0: no such unit. */
static uint64_t duration_unit_ms(const char *unit)
{
	static const struct {
		const char *name;
		uint64_t ms;
	} units[] = { { "", 1000 },   { "ms", 1 },	{ "s", 1000 },
		      { "m", 60000 }, { "min", 60000 }, { "h", 3600000 } };

	for (unsigned i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(unit, units[i].name) == 0)
			return units[i].ms;
	}
	return 0;
}

int ub_duration_parse(const char *text, const char *what, uint64_t *ms, struct ub_err *err)
{
	uint64_t thousandths = 0, scale = 1000, unit, duration;
	const char *p = text;
	bool fraction = false;

	for (; isdigit((unsigned char)*p) || (*p == '.' && !fraction); p++) {
		if (*p == '.') {
			fraction = true;
			if (!isdigit((unsigned char)p[1]))
				break;
			continue;
		}
		if (thousandths > UINT32_MAX || scale == 1)
			break; /* too large, or too fine */
		thousandths = thousandths * 10 + (uint64_t)(*p - '0');
		scale /= fraction ? 10 : 1;
	}
	unit = duration_unit_ms(p);
	if (!isdigit((unsigned char)*text) || !unit)
		return ub_err_set(err, EINVAL,
				  "%s: '%s' is not a duration: give seconds, or a number with ms, "
				  "s, m or h, such "
				  "as 200ms or 1.5h",
				  what, text);
	duration = thousandths * scale / 1000 * unit + thousandths * scale % 1000 * unit / 1000;
	if (duration > DURATION_MAX_MS)
		return ub_err_set(err, ERANGE, "%s: '%s' is too long: a hundred days are the most",
				  what, text);
	*ms = duration;
	return 0;
}

const char *ub_size_format(uint64_t bytes, char *buf, size_t len)
{
	unsigned unit = 0;
	uint64_t rest = 0, n = bytes;

	while (n >= 1024 && unit + 1 < sizeof(size_units) - 1) {
		rest = n % 1024;
		n /= 1024;
		unit++;
	}
	if (unit == 0)
		snprintf(buf, len, "%llu B", (unsigned long long)n);
	else if (rest * 10 / 1024 == 0)
		snprintf(buf, len, "%llu %ciB", (unsigned long long)n, size_units[unit]);
	else
		snprintf(buf, len, "%llu.%llu %ciB", (unsigned long long)n,
			 (unsigned long long)(rest * 10 / 1024), size_units[unit]);
	return buf;
}
