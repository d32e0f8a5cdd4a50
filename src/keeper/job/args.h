/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Members of a request, checked. Any thread; each: 0 or -errno with *err, which names the member.
 */
#ifndef UB_KEEPER_JOB_ARGS_H
#define UB_KEEPER_JOB_ARGS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* A number from min to max; without the member *value stays. */
int ub_args_u64(const json_t *args, const char *name, uint64_t min, uint64_t max, uint64_t *value,
		struct ub_err *err);
/* True or false; without the member false. */
int ub_args_flag(const json_t *args, const char *name, bool *value, struct ub_err *err);

#endif
