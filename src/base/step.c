/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Named steps that tests can fail. Control plane; knows nobody. */
#include "base/step.h"

int (*ub_step_hook)(const char *name);

int ub_step(const char *name, struct ub_err *err)
{
	int code = ub_step_hook ? ub_step_hook(name) : 0;

	return code ? ub_err_errno(err, code, "%s (injected)", name) : 0;
}
