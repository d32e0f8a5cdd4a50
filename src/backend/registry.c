/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding back ends by name, and opening them through one checked door. The server's main thread.
 */
#include "backend/registry.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "backend/limits.h"
#include "base/log.h"
#include "base/step.h"

static void (*registry_report)(enum ub_health health, const char *why);
static void (*registry_report_grown)(void);
static void (*registry_report_ranges)(void);
static _Atomic int registry_health; /* one root back end a process: of that one */

const struct ub_backend_ops *ub_backend_find(const char *name, struct ub_err *err)
{
	char known[128] = "";
	size_t used = 0;

	for (unsigned i = 0; ub_backends[i]; i++) {
		if (strcmp(ub_backends[i]->name, name) == 0)
			return ub_backends[i];
		used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s",
					 used ? ", " : "", ub_backends[i]->name);
		if (used >= sizeof(known))
			break;
	}
	ub_err_set(err, EINVAL, "there is no back end '%s': there are %s", name, known);
	return NULL;
}

int ub_backend_open(struct ub_backend *be, const struct ub_backend_config *cfg, struct ub_err *err)
{
	int ret;

	memset(be, 0, sizeof(*be));
	be->is_destination = cfg->late_ms != 0;
	be->ops = ub_backend_find(cfg->kind, err);
	if (!be->ops)
		return -EINVAL;
	ret = ub_step("backend-open", err);
	if (ret == 0)
		ret = be->ops->open(be, cfg, err);
	if (ret == 0)
		ret = be->ops->get_limits(be, &be->limits, err);
	if (ret == 0) {
		be->limits.read_only |= cfg->read_only;
		ret = ub_limits_check(&be->limits, err);
	}
	return ret;
}

void ub_backend_close(struct ub_backend *be)
{
	if (be->ops)
		be->ops->close(be);
	be->ops = NULL;
}

void ub_backend_set_reporter(void (*report)(enum ub_health health, const char *why))
{
	registry_report = report;
}

void ub_backend_report(struct ub_backend *be, enum ub_health health, const char *why)
{
	if (be->is_destination) {
		if (atomic_exchange(&be->health, (int)health) != (int)health)
			ub_log(UB_LOG_NOTICE, "the migration's destination: %s", why);
		return;
	}
	if (atomic_exchange(&registry_health, (int)health) != (int)health && registry_report)
		registry_report(health, why);
}

void ub_backend_set_grown_reporter(void (*report)(void))
{
	registry_report_grown = report;
}

void ub_backend_report_grown(struct ub_backend *be)
{
	if (registry_report_grown && !be->is_destination)
		registry_report_grown();
}

void ub_backend_set_ranges_reporter(void (*report)(void))
{
	registry_report_ranges = report;
}

/* Of a migration's destination, too: they are the device's once it has moved. */
void ub_backend_report_ranges(struct ub_backend *be)
{
	(void)be;
	if (registry_report_ranges)
		registry_report_ranges();
}
