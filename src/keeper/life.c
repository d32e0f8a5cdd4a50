/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The keeper's life, as a table. */
#include "keeper/life.h"

#include <assert.h>

#include "base/log.h"
#include "base/loop.h"
#include "keeper/keeper.h"

/* for what is dirty: as long as it may take to be written back afterwards */
#define LIFE_INSISTED_MS 2000

#define TO(state) (1U << UB_##state)

static const struct {
	const char *name;
	unsigned next; /* the states that may follow */
} lives[UB_NR_LIVES] = {
	[UB_ATTACHING] = { "attaching", TO(ADOPTING) | TO(LIVE) | TO(GOING) },
	[UB_ADOPTING] = { "adopting", TO(LIVE) | TO(OVER) },
	[UB_LIVE] = { "live",
		      TO(RECOVERING) | TO(SWITCHING) | TO(HANDING_OVER) | TO(GOING) | TO(OVER) },
	[UB_RECOVERING] = { "recovering", TO(LIVE) | TO(GOING) | TO(OVER) },
	[UB_SWITCHING] = { "switching", TO(LIVE) | TO(RECOVERING) | TO(GOING) | TO(OVER) },
	[UB_HANDING_OVER] = { "handing over", TO(LIVE) | TO(ADOPTING) | TO(OVER) },
	[UB_GOING] = { "going", TO(OVER) },
};

void ub_life_enter(struct ub_keeper *k, enum ub_life to)
{
	assert(lives[k->life].next & 1U << to);
	ub_log(UB_LOG_DEBUG, "/dev/ublkb%u: %s, and now %s", k->device.info.dev_id,
	       lives[k->life].name, lives[to].name ? lives[to].name : "over");
	k->life = to;
	k->was_live |= to == UB_LIVE;
}

bool ub_life_is_given_up(struct ub_keeper *k)
{
	if (k->signals.nr < 2 && !k->job.detach.is_forced)
		return false;
	if (!k->recovery.insisted_ms)
		k->recovery.insisted_ms = ub_now_ms();
	return ub_now_ms() - k->recovery.insisted_ms >= LIFE_INSISTED_MS;
}

const char *ub_life_name(const struct ub_keeper *k)
{
	if (!k->was_live)
		return "attaching";
	if (k->life == UB_RECOVERING)
		return "recovering";
	if (k->server->gone)
		return "ending";
	return k->recovery.has_failed ? "failed" : "live";
}
