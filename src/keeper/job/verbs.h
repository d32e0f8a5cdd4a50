/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The verbs of control.sock. The keeper's main thread. */
#ifndef UB_KEEPER_VERBS_H
#define UB_KEEPER_VERBS_H

#include "keeper/control.h"

ub_control_verb ub_verb_stats;		  /* the statistics page: stats.c */
ub_control_verb ub_verb_info;		  /* what is served, by whom, how it is */
ub_control_verb ub_verb_set;		  /* changes settings: settings.c */
ub_control_verb ub_verb_fenced;		  /* an old server can write no more: fenced.c */
ub_control_verb ub_verb_handover;	  /* upgrade.c: gives the device to whoever asks */
ub_control_verb ub_verb_resize;		  /* gives it another size: resize.c */
ub_control_verb ub_verb_migrate;	  /* moves it to something else: migrate.c */
ub_control_verb ub_verb_migrate_complete; /* in step, it need not wait any more */
/* the device stays where it is; answers when that is so */
ub_control_verb ub_verb_migrate_cancel;
ub_control_verb ub_verb_migrate_rate; /* how fast it copies */
ub_control_verb ub_verb_detach;	      /* takes the device away, or says who holds it */

/* What the ledger says of the device, as members of reply: ranges.h. */
void ub_verb_show_ranges(const struct ub_keeper *k, json_t *reply);

#endif
