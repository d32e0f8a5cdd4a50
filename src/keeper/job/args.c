/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Members of a request. */
#include "keeper/job/args.h"

#include <errno.h>

int ub_args_u64(const json_t *args, const char *name, uint64_t min, uint64_t max, uint64_t *value,
		struct ub_err *err)
{
	const json_t *number = json_object_get(args, name);
	json_int_t got = json_integer_value(number);

	if (!number)
		return 0;
	if (!json_is_integer(number))
		return ub_err_set(err, EINVAL, "%s: it is a number", name);
	if (got < 0 || (uint64_t)got < min || (uint64_t)got > max)
		return ub_err_set(err, ERANGE, "%s: it is between %llu and %llu", name,
				  (unsigned long long)min, (unsigned long long)max);
	*value = (uint64_t)got;
	return 0;
}

int ub_args_flag(const json_t *args, const char *name, bool *value, struct ub_err *err)
{
	const json_t *flag = json_object_get(args, name);

	if (flag && !json_is_boolean(flag))
		return ub_err_set(err, EINVAL, "%s: it is true or false", name);
	*value = json_is_true(flag);
	return 0;
}
