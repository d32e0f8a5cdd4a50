/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which jobs and verbs a keeper has: what is handed down to the files that know none by name. */
#ifndef UB_KEEPER_TABLES_H
#define UB_KEEPER_TABLES_H

#include "keeper/control.h"
#include "keeper/jobs.h"

extern const struct ub_job *const ub_keeper_jobs[];
extern const struct ub_verb ub_keeper_verbs[];

#endif
