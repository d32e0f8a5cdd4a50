/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The steps of a device's life by name, so that tests can make each of them fail, or stop there.
 *
 * A program that ships leaves ub_step_hook NULL, and a step costs a load and a branch. Never used
 * on the data path.
 */
#ifndef UB_BASE_STEP_H
#define UB_BASE_STEP_H

#include <stddef.h>

#include "base/err.h"

/* What tests set: 0 to go on, or a positive errno with which the step is to fail. */
extern int (*ub_step_hook)(const char *name);

/* 0, or -errno with *err filled as a failure of that step. */
int ub_step(const char *name, struct ub_err *err);

#endif
