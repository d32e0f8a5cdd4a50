/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All jobs, and all verbs of control.sock. */
#include "keeper/tables.h"

#include <stddef.h>

#include "keeper/job/fenced.h"
#include "keeper/job/migrate.h"
#include "keeper/job/resize.h"
#include "keeper/job/set.h"
#include "keeper/job/verbs.h"

/*
 * The order counts: a migration hears first that its server has gone, because the device may be
 * made of something else by then.
 */
const struct ub_job *const ub_keeper_jobs[] = {
	&ub_job_migrate, &ub_job_resize, &ub_job_set, &ub_job_fenced, NULL,
};

const struct ub_verb ub_keeper_verbs[] = {
	{ "info", ub_verb_info },
	{ "stats", ub_verb_stats },
	{ "set", ub_verb_set },
	{ "resize", ub_verb_resize },
	{ "migrate", ub_verb_migrate },
	{ "migrate-complete", ub_verb_migrate_complete },
	{ "migrate-cancel", ub_verb_migrate_cancel },
	{ "migrate-rate", ub_verb_migrate_rate },
	{ "fenced", ub_verb_fenced },
	{ "detach", ub_verb_detach },
	{ "handover", ub_verb_handover },
	{ NULL, NULL },
};
