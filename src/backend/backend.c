/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Back ends as the server has them. The server's main thread, but for what the contract gives to
 * others. Knows no back end but by the contract.
 */
#include "backend/backend.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/limits.h"
#include "base/log.h"
#include "base/step.h"

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

/* What every back end has. */
static void backend_check_ops(const struct ub_backend_ops *ops)
{
	assert(ops->open && ops->close);
	assert(ops->get_limits);
	assert(ops->queue_init && ops->queue_destroy);
	assert(ops->submit);
	assert(!(ops->caps & UB_CAP_PLACE) || ops->place);
}

int ub_backend_open(struct ub_backend *be, const struct ub_backend_config *cfg, struct ub_err *err)
{
	int ret;

	memset(be, 0, sizeof(*be));
	be->is_destination = cfg->late_ms != 0;
	be->host = cfg->host;
	be->ops = ub_backend_find(cfg->kind, err);
	if (!be->ops)
		return -EINVAL;
	backend_check_ops(be->ops);
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

/* ---- one function an op -------------------------------------------------- */

/* The first of them, from the top, that defines it; NULL: none does. */
#define BACKEND_WITH(top, op) \
	({ \
		struct ub_backend *be_ = (top); \
\
		while (!be_->ops->op) { \
			be_ = be_->below; \
			if (!be_) \
				break; \
		} \
		be_; \
	})

unsigned ub_backend_get_paths(const struct ub_backend_config *cfg, char *paths[], unsigned max)
{
	struct ub_err ignored;
	const struct ub_backend_ops *ops = ub_backend_find(cfg->kind, &ignored);
	unsigned nr = ops && ops->get_paths ? ops->get_paths(cfg, paths, max) : 0;

	assert(nr <= max);
	return nr;
}

char *ub_backend_get_identity(struct ub_backend *be)
{
	be = BACKEND_WITH(be, get_identity);
	return be ? be->ops->get_identity(be) : strdup("");
}

int ub_backend_set_live(struct ub_backend *be, struct ub_err *err)
{
	be = BACKEND_WITH(be, set_live);
	return be ? be->ops->set_live(be, err) : 0;
}

bool ub_backend_takes_sockets(struct ub_backend *be)
{
	return be->ops && BACKEND_WITH(be, take_socket);
}

int ub_backend_take_socket(struct ub_backend *be, int fd)
{
	assert(fd >= 0);
	be = BACKEND_WITH(be, take_socket);
	assert(be);
	return be->ops->take_socket(be, fd);
}

int ub_backend_set(struct ub_backend *be, const struct ub_settings *settings, struct ub_err *err)
{
	struct ub_backend *its = BACKEND_WITH(be, set);

	assert(settings->which);
	if (its)
		return its->ops->set(its, settings, err);
	return ub_err_set(err, EOPNOTSUPP, "--%s is for NBD devices: this one is of %s",
			  settings->which & UB_SET_OUTAGE_LIMIT	 ? "outage-limit" :
			  settings->which & UB_SET_STALL_TIMEOUT ? "stall-timeout" :
								   "fence-timeout",
			  be->ops->name);
}

bool ub_backend_is_resizable(struct ub_backend *be)
{
	return BACKEND_WITH(be, resize);
}

bool ub_backend_knows_size(struct ub_backend *be)
{
	return BACKEND_WITH(be, get_size);
}

int ub_backend_get_size(struct ub_backend *be, uint64_t *size_bytes, struct ub_err *err)
{
	*size_bytes = UINT64_MAX;
	be = BACKEND_WITH(be, get_size);
	return be ? be->ops->get_size(be, size_bytes, err) : 0;
}

int ub_backend_resize(struct ub_backend *be, uint64_t size_bytes, uint32_t flags,
		      struct ub_err *err)
{
	assert(size_bytes > 0);
	be = BACKEND_WITH(be, resize);
	assert(be);
	return be->ops->resize(be, size_bytes, flags, err);
}

void ub_backend_promote(struct ub_backend *be)
{
	assert(!atomic_load(&be->is_destination));
	be = BACKEND_WITH(be, promote);
	if (be)
		be->ops->promote(be);
}

void ub_backend_reset(struct ub_backend *be)
{
	be = BACKEND_WITH(be, reset);
	if (be)
		be->ops->reset(be);
}

bool ub_backend_has_settled(struct ub_backend *be)
{
	be = BACKEND_WITH(be, has_settled);
	return !be || be->ops->has_settled(be);
}

void ub_backend_fenced(struct ub_backend *be, uint64_t event)
{
	if (!be->ops)
		return;
	be = BACKEND_WITH(be, fenced);
	if (be)
		be->ops->fenced(be, event);
}

uint64_t ub_backend_nr_losses(struct ub_backend *be)
{
	be = BACKEND_WITH(be, nr_losses);
	return be ? be->ops->nr_losses(be) : 0;
}

void ub_backend_describe_outage(struct ub_backend *be, char *buf, size_t len)
{
	assert(len > 0);
	buf[0] = '\0';
	be = BACKEND_WITH(be, describe_outage);
	if (be)
		be->ops->describe_outage(be, buf, len);
}

uint64_t ub_backend_latency_ns(struct ub_backend *be)
{
	be = BACKEND_WITH(be, latency_ns);
	return be ? be->ops->latency_ns(be) : 0;
}

/* ---- what back ends report ----------------------------------------------- */

void ub_backend_report(struct ub_backend *be, enum ub_health health, const char *why)
{
	struct ub_host *host = be->host;

	if (be->is_destination) {
		if (atomic_exchange(&be->health, (int)health) != (int)health)
			ub_log(UB_LOG_NOTICE, "the migration's destination: %s", why);
		return;
	}
	/* The host's, and not its own: a device that has moved goes on where it was. */
	if (host && atomic_exchange(&host->health, (int)health) != (int)health && host->report)
		host->report(host, be, health, why);
}

void ub_backend_report_grown(struct ub_backend *be)
{
	if (be->host && be->host->grown && !be->is_destination)
		be->host->grown(be->host, be);
}

/* Of a migration's destination, too: they are the device's once it has moved. */
void ub_backend_report_ranges(struct ub_backend *be)
{
	if (be->host && be->host->ranges)
		be->host->ranges(be->host, be);
}

uint32_t ub_backend_hold_socket(const struct ub_backend *be, int fd)
{
	return be->host && be->host->hold ? be->host->hold(be->host, be, fd) : 0;
}
