/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs: what a keeper does for somebody while the device is live. Each is a file in job/. Files
 * below them know no job by its name: they raise events, and pass on what a server says.
 *
 * The keeper's main thread. Nobody waits in any of these.
 */
#ifndef UB_KEEPER_JOBS_H
#define UB_KEEPER_JOBS_H

#include <stdbool.h>

#include <ublk-bridge/message.h>

struct ub_keeper;

enum ub_event {
	UB_EVENT_SERVER_DIED,  /* k->server has gone: it answers nothing any more */
	UB_EVENT_RECOVERING,   /* it shall have a successor, which is not chosen yet */
	UB_EVENT_SERVER_NEW,   /* the successor serves */
	UB_EVENT_SIDE_CHANGED, /* k->side is another one */
	UB_EVENT_ADOPTED,      /* this keeper has got a device that lives */
	UB_EVENT_LET_GO,       /* it is this keeper's no more, and goes on */
	UB_EVENT_GOING,	       /* it is going to be taken away: nothing of it has gone yet */
	UB_EVENT_ENDING,       /* its server has ended, and it is taken away */
};

struct ub_job {
	const char *name;
	/*
	 * Takes its next step. When to call it again, in ms; -1: when something happens. NULL:
	 * never
	 */
	int (*tend)(struct ub_keeper *k);
	void (*event)(struct ub_keeper *k, enum ub_event event); /* NULL: it does not care */
	/* What k->server said. True: it was this job's. The message lives as long as the call. */
	bool (*hear)(struct ub_keeper *k, struct ub_msg_header *msg);
};

/* In the order of k->jobs. */
int ub_jobs_tend(struct ub_keeper *k);
void ub_jobs_raise(struct ub_keeper *k, enum ub_event event);
void ub_jobs_hear(struct ub_keeper *k, struct ub_msg_header *msg);

/* Of two times to wait, in ms; -1: for ever. */
int ub_jobs_sooner(int a_ms, int b_ms);

#endif
