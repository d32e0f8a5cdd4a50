/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Somebody knows that an old server can write no more: then newer changes need not wait for what
 * lost connections to it carried (ledger.h). The verb `fenced` says so for a person, and
 * --fence-command finds out by itself: it is run when there is something to wait for, and status 0
 * is the word. The server is told, and ends the ranges.
 *
 * The word is about what had been given up when the command began: the ledger numbers events.
 *
 * The keeper's main thread, which waits for no command.
 */
#ifndef UB_KEEPER_FENCED_H
#define UB_KEEPER_FENCED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <ublk-bridge/ledger.h>

#include "base/log.h"
#include "keeper/control.h"
#include "keeper/output.h"

struct ub_keeper_fenced {
	/* The command, while it runs. */
	pid_t pid; /* 0: none */
	int pidfd, out_fd;
	bool was_killed;
	unsigned side;	/* of the ledger, that it is about */
	uint64_t event; /* of that side, when it began */
	uint64_t deadline_ms;
	struct ub_output output;

	/* After one that failed. */
	uint64_t delay_ms, not_before_ms;

	/* The word, by side: all up to this event; and which server process has been told. */
	uint64_t event_said[UB_LEDGER_SIDES];
	pid_t told_pid;
};

extern const struct ub_job ub_job_fenced;

#endif
