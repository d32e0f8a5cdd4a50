/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The verbs of control.sock. The keeper's main thread. */
#ifndef UB_KEEPER_VERBS_H
#define UB_KEEPER_VERBS_H

#include "keeper/control.h"

ub_control_verb ub_verb_info; /* what is served, by whom, how it is */
ub_control_verb ub_verb_set; /* changes settings: settings.c */

#endif
