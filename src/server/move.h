/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A migration as the server carries it out: message.h has its phases. The main thread takes a step
 * whenever something has happened; what may block (opening the destination, closing what is left
 * behind) a thread of its own does (move-thread.h).
 *
 *   MIGRATE ─► thread: open, compare, queues ─► READY ─GO─► pause ─ mirror in ─ resume ─┐
 *                                                                                       ▼
 *                                                                    copying ⇄ out of step
 *                                                                       │ in step
 *     MOVED ◄─ resume ◄─ swap ◄─ the fact is written ◄─ flush both ◄─ pause ◄─ flush both
 *    FAILED ◄─ resume ◄─ mirror out ◄─ pause ◄─ mirror stops ◄─ any error, CANCEL, no keeper
 *
 * What was taken out of the device leaves the queues' rings, and is closed when nothing that was
 * sent to it can be executed any more.
 */
#ifndef UB_SERVER_MOVE_H
#define UB_SERVER_MOVE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/message.h>

#include "base/err.h"

struct server;

enum ub_move_stage {
	UB_MOVE_NONE,
	UB_MOVE_OPENING, /* the thread */
	UB_MOVE_OPEN,	 /* until GO */
	UB_MOVE_PAUSE_IN,
	UB_MOVE_WAIT_IN, /* I/O in flight took too long: it is tried again */
	UB_MOVE_MIRRORING,
	UB_MOVE_FLUSH, /* both sides, so that there is less to do in the pause */
	UB_MOVE_PAUSE_CUT,
	UB_MOVE_FLUSH_CUT, /* paused */
	UB_MOVE_STOPPING,  /* the mirror */
	UB_MOVE_PAUSE_OUT,
	UB_MOVE_CLOSING, /* the thread */
	UB_NR_MOVE_STAGES,
};

struct ub_move {
	enum ub_move_stage stage;
	enum ub_migration_phase told; /* the keeper, last */
	uint32_t id;
	bool may_cut;	  /* nobody is to be waited for */
	bool is_unwanted; /* cancelled, or without a keeper */
	bool is_dead;	  /* all I/O of the device was cancelled */
	uint64_t cookie, rate_bytes, late_ms, size_bytes;
	int side_fd, mounts_fd, dest_fd; /* -1: none */
	/* for the thread, and from it and the mirror; -1 until the first migration */
	int cancel_fd, event_fd;
	char *options, *more_options; /* the second one may be NULL */
	char kind[16];
	struct ub_err err;

	/* The thread's while there is one; then the main thread's. */
	pthread_t thread;
	bool has_thread;
	_Atomic bool thread_is_done;
	_Atomic uint64_t fenced_event; /* for the other side, until it is told; 0: none */
	int thread_result;	       /* of opening: 0, or -errno with err */
	struct ub_backend *dest;
	struct ub_backend *leaving; /* of the two sides the one that is closed */
	struct ub_backend mirror;
	/* NULL: none, or the device's */
	struct ub_backend_queue *source_bqs, *dest_bqs, *mirror_bqs, *leaving_bqs;

	struct ub_msg_migration *untold; /* that the keeper had no room for; NULL: none */
	bool is_flushing;
	uint64_t paused_ns, deadline_ms, not_before_ms; /* 0: none */
	void (*is_over)(struct server *s);		/* all is closed: the next one may begin */
};

/* A zeroed one. is_over: called on the main thread, each time that one has come to its end. */
void ub_move_init(struct ub_move *m, void (*is_over)(struct server *s));

/*
 * MIGRATE, with a string of options, while none is on. The message and descriptors stay the
 * caller's, but for those that are taken out of fds. That it cannot be done is told by MIGRATION.
 */
void ub_move_begin(struct server *s, struct ub_msg_migrate *msg, int fds[]);
/* MIGRATE_CONTROL. What is about another one, or comes too late, has no effect. */
void ub_move_control(struct server *s, const struct ub_msg_migrate_control *msg);

/* FENCED, for the side that is not the device's, if it is open. */
void ub_move_fenced(struct server *s, const struct ub_msg_fenced *msg);

/*
 * Something has happened: the device's event, or the time that ub_move_wait_ms() named is over.
 */
void ub_move_step(struct server *s);
int ub_move_wait_ms(const struct server *s); /* -1: for ever */

/* The keeper is gone: there is nobody for whom the device would be moved. */
void ub_move_abandon(struct server *s);

/* Whether it pauses the queues, or has the mirror in them, or is about to. */
bool ub_move_needs_queues(const struct server *s);

/* Whether the device is not in one piece: it cannot be taken apart. */
bool ub_move_is_on(const struct server *s);

#endif
