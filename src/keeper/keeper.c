/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A keeper before anything has happened. */
#include "keeper/keeper.h"

void ub_keeper_init(struct ub_keeper *k, const struct ub_attach_options *opts,
		    const struct ub_job *const jobs[], const struct ub_verb verbs[])
{
	*k = (struct ub_keeper){ .opts = opts,
				 .jobs = jobs,
				 .verbs = verbs,
				 .rundir = UB_RUNDIR_NONE,
				 .control = UB_CONTROL_NONE,
				 .job.migration = UB_KEEPER_MIGRATION_NONE,
				 .links = UB_LINKS_NONE };
	for (unsigned i = 0; i < 2; i++) {
		k->servers[i] = (struct ub_server)UB_SERVER_NONE;
		k->servers[i].keeper = k;
		k->sides[i] = (struct ub_side)UB_SIDE_NONE;
	}
	k->server = &k->servers[0];
	k->standby = &k->servers[1];
	k->side = &k->sides[0];
	k->other = &k->sides[1];
	k->side->o = &opts->side;
	k->side->store_fd = opts->side.fd;
	k->shared.stats_fd = k->shared.arena_fd = k->shared.ledger_fd = k->signals.fd =
		k->job.handover.old_fd = -1;
	k->job.handover.wait_ms = opts->upgrade_wait_ms;
	ub_loop_init(&k->loop);
}
