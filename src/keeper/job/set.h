/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What can be changed of a device while it is live: the verb `set`. The keeper checks it, the
 * server does it, and what is in force is kept where another server would get it from: in the
 * options of the attach, and the log's level.
 *
 * The keeper's main thread.
 */
#ifndef UB_KEEPER_SETTINGS_H
#define UB_KEEPER_SETTINGS_H

#include <ublk-bridge/message.h>

#include "keeper/control.h"

/* Those that the server has been told and has not answered yet: it answers in their order. */
struct ub_keeper_settings {
	struct ub_setting_asked {
		struct ub_control_caller caller;
		struct ub_settings settings;
	} asked[UB_CONTROL_MAX_CLIENTS];
	unsigned nr_asked;
};

/* The values in force, as members of object; those that the device does not have are not there. */
void ub_set_show(const struct ub_keeper *k, json_t *object);

extern const struct ub_job ub_job_set;

#endif
