/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The keeper's state. Private to src/keeper/. */
#ifndef UB_KEEPER_KEEPER_H
#define UB_KEEPER_KEEPER_H

#include <ublk-bridge/ledger.h>
#include <ublk-bridge/message.h>
#include <ublk-bridge/page.h>

#include "base/log.h"
#include "base/loop.h"
#include "keeper/command.h"
#include "keeper/control.h"
#include "keeper/job/detach.h"
#include "keeper/job/fenced.h"
#include "keeper/job/migrate.h"
#include "keeper/job/resize.h"
#include "keeper/job/set.h"
#include "keeper/jobs.h"
#include "keeper/kernel.h"
#include "keeper/life.h"
#include "keeper/links.h"
#include "keeper/server.h"
#include "keeper/shared.h"
#include "keeper/side.h"
#include "run/rundir.h"

/* Recovery: recover.c. */
struct ub_recovery {
	bool is_on;	    /* the device outlives its server */
	bool is_planned;    /* the server was asked to end */
	bool has_failed;    /* too many deaths: the `error` back end serves */
	unsigned nr_deaths; /* in a row, each soon after the one before */
	unsigned nr_done;
	uint64_t done_ms; /* when the last one was over */
	/* since when somebody insists on the device's end; 0: nobody did while it mattered */
	uint64_t insisted_ms;
	uint64_t standby_not_before_ms;
	uint64_t standby_delay_ms;
	struct ub_ctrl_cmd start_cmd, end_cmd;
};

/* An upgrade: upgrade.c. */
struct ub_keeper_handover {
	bool is_asked;
	struct ub_control_caller caller;
	int old_fd;	   /* the new keeper's connection to the old one; -1: there is none */
	uint64_t asked_ms; /* when the old one was asked */
	uint64_t wait_ms;  /* how long it is tried again while requests are in flight */
};

/* SIGINT and SIGTERM ask for the end. */
struct ub_keeper_signals {
	int fd;
	unsigned nr; /* since the start */
};

/* What jobs remember. */
struct ub_keeper_jobs {
	struct ub_keeper_settings settings;
	struct ub_keeper_fenced fenced;
	struct ub_keeper_detach detach;
	struct ub_keeper_handover handover;
	struct ub_keeper_resize resize;
	struct ub_keeper_migration migration;
};

struct ub_keeper {
	const struct ub_attach_options *opts;
	const struct ub_job *const *jobs; /* NULL behind the last one */
	const struct ub_verb *verbs;
	enum ub_life life;
	bool was_live; /* the device was announced, and may have users */
	struct ub_loop loop;
	struct ub_keeper_signals signals;
	int oom_score; /* what it was started with, for the commands that it starts */

	/* What the device is made of, and the other side: both of sides[]. */
	struct ub_side *side, *other;
	struct ub_side sides[2];

	/* The server, and the one that takes its place when it dies: both of servers[]. */
	struct ub_server *server, *standby;
	struct ub_server servers[2];
	struct ub_links links; /* the servers' connections, of either side */
	struct ub_recovery recovery;

	struct ub_kernel_device device;
	struct ub_shared shared;
	struct ub_rundir rundir;
	struct ub_control control;
	struct ub_keeper_jobs job;
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)];
};

/*
 * Before anything else. opts, jobs (NULL behind the last one) and verbs: as long as the keeper. It
 * begins to attach.
 */
void ub_keeper_init(struct ub_keeper *k, const struct ub_attach_options *opts,
		    const struct ub_job *const jobs[], const struct ub_verb verbs[]);

#endif
