/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Events and messages on their way to the jobs. */
#include "keeper/jobs.h"

#include "keeper/keeper.h"

int ub_jobs_sooner(int a_ms, int b_ms)
{
	return a_ms < 0 || (b_ms >= 0 && b_ms < a_ms) ? b_ms : a_ms;
}

int ub_jobs_tend(struct ub_keeper *k)
{
	int wait_ms = -1;

	for (const struct ub_job *const *job = k->jobs; *job; job++) {
		if ((*job)->tend)
			wait_ms = ub_jobs_sooner(wait_ms, (*job)->tend(k));
	}
	return wait_ms;
}

void ub_jobs_raise(struct ub_keeper *k, enum ub_event event)
{
	for (const struct ub_job *const *job = k->jobs; *job; job++) {
		if ((*job)->event)
			(*job)->event(k, event);
	}
}

void ub_jobs_hear(struct ub_keeper *k, struct ub_msg_header *msg)
{
	for (const struct ub_job *const *job = k->jobs; *job; job++) {
		if ((*job)->hear && (*job)->hear(k, msg))
			return;
	}
}
