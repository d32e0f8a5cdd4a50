/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The keeper's state, shared by the files that make and unmake a device. Private to src/keeper/. */
#ifndef UB_KEEPER_KEEPER_H
#define UB_KEEPER_KEEPER_H

#include <ublk-bridge/ledger.h>
#include <ublk-bridge/message.h>
#include <ublk-bridge/page.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/process.h"
#include "keeper/command.h"
#include "keeper/control.h"
#include "keeper/fenced.h"
#include "keeper/links.h"
#include "keeper/migrate.h"
#include "keeper/resize.h"
#include "keeper/settings.h"
#include "keeper/side.h"
#include "run/ranges.h"
#include "run/rundir.h"
#include "ublk/ctrl.h"

/* How far a standby is. */
enum ub_standby_stage {
	UB_STANDBY_NEW,
	UB_STANDBY_OPENING,
	UB_STANDBY_PREPARING,
	UB_STANDBY_READY
};

/* A server process: spawn.c. */
struct ub_server {
	struct ub_keeper *keeper;
	pid_t pid;	   /* 0: none */
	int pidfd, fd;	   /* -1: none */
	unsigned version;  /* of the messages: what is spoken with it */
	bool is_child;	   /* not adopted: the kernel says how it ends */
	bool is_dismissed; /* its end is wanted */
	bool gone;
	int status;	   /* of waitpid, once a child is gone */
	unsigned nr_links; /* LINKs that it has sent */
	unsigned last_msg; /* enum ub_message_type of the newest that tells how far it is */
	struct ub_err err; /* what it gave up with */
	enum ub_standby_stage stage;
	struct ub_held_rings rings;    /* its queues', on Linux 6.12 */
	struct ub_msg_yielded yielded; /* to a YIELD; len_bytes 0: it has said nothing */
	struct ub_log_limit log;
	uint64_t began_ms;
};

#define UB_SERVER_NONE \
	{ \
		.pidfd = -1, .fd = -1, .version = UB_MESSAGE_V3 \
	}

/* Recovery: recover.c. */
struct ub_recovery {
	bool is_on; /* the device outlives its server */
	bool is_running;
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

/* The verb `detach`: who waits for its answer. */
struct ub_keeper_detach {
	struct ub_control_caller callers[UB_CONTROL_MAX_CLIENTS];
	unsigned nr_callers;
	bool is_forced;
	bool is_going; /* it was done */
	/* all is written back, and what lost connections may still write is waited for */
	bool awaits_ranges;
	/* the latter for the side that the device is not made of */
	struct ub_ranges_wait wait, other_wait;
};

/* An upgrade: upgrade.c. */
struct ub_keeper_handover {
	bool is_asked;
	struct ub_control_caller caller;
	int old_fd;	   /* the new keeper's connection to the old one; -1: there is none */
	uint64_t asked_ms; /* when the old one was asked */
	uint64_t wait_ms;  /* how long it is tried again while requests are in flight */
};

struct ub_keeper {
	const struct ub_attach_options *opts;
	struct ub_loop loop;
	struct ub_ctrl ctrl;
	uint64_t features;
	int signal_fd;
	unsigned nr_signals; /* INT and TERM, since the start */

	/* What it was started with, for the commands that it starts. */
	int oom_score;
	/* What the device is made of, and the other side: both of sides[]. */
	struct ub_side *side, *other;
	struct ub_side sides[2];

	/* The server, and the one that takes its place when it dies. */
	struct ub_server *server, *standby; /* both of servers[] */
	struct ub_server servers[2];
	struct ub_links links; /* the servers' connections, of whichever side */

	/* The device. */
	struct ublksrv_ctrl_dev_info info; /* as ADD_DEV returned it */
	enum ub_data_path data_path;
	bool added;	/* there is a device to be deleted */
	bool started;	/* there may be a disk to be stopped */
	bool was_live;	/* it was announced */
	bool is_let_go; /* it is another keeper's */
	/*
	 * What the kernel may answer late lives as long as the ring, and is not used for a second
	 * command.
	 */
	struct ub_ctrl_cmd start_cmd, stop_cmd, kill_cmd, del_cmd;
	struct ub_rundir rundir;
	struct ub_control control;
	struct ub_keeper_settings settings;
	struct ub_keeper_fenced fenced;
	struct ub_keeper_detach detach;
	struct ub_keeper_handover handover;
	struct ub_keeper_resize resize;
	struct ub_keeper_migration migration;
	int stats_fd;
	int arena_fd; /* the tag buffers, of whichever server; -1: each has its own */
	int ledger_fd;
	struct ub_recovery recovery;
	struct ub_stats_page *stats;
	struct ub_ledger *ledger; /* what may still be executed, whoever serves */
	size_t ledger_bytes;
	bool has_new_ranges; /* as the server said (RANGES); whoever looks clears it */
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)];
};

/* Before anything else. opts: as long as the keeper. */
void ub_keeper_init(struct ub_keeper *k, const struct ub_attach_options *opts);

/* ---- spawn.c: a server as a process -------------------------------------- */

int ub_keeper_spawn(struct ub_keeper *k, struct ub_server *server, struct ub_err *err);
/*
 * Watches one that runs already: pid's, at the other end of fd, which is the server's from now on.
 * Its version stays.
 */
int ub_keeper_watch_server(struct ub_server *server, pid_t pid, int fd, struct ub_err *err);
static inline bool ub_keeper_must_hold_rings(const struct ub_keeper *k)
{
	return !(k->features & UBLK_F_PER_IO_DAEMON);
}

/* Where it must be: keeps the rings of a server until it is gone. Its standby does so, too. */
void ub_keeper_hold_rings(struct ub_server *server);
/*
 * Waits for a message of this type. 0; -ECHILD: the server failed or died (*err says how),
 * -ETIMEDOUT, -EINTR: a signal asks us to end.
 */
int ub_keeper_await(struct ub_server *server, enum ub_message_type type, int64_t timeout_ms,
		    const char *what, struct ub_err *err);
/* Whether it lives. One that has begun to end does not, and is waited for, at most timeout_ms. */
bool ub_keeper_server_lives(struct ub_server *server, int64_t timeout_ms);
/* Waits until it is gone, at most timeout_ms; then kills it. */
void ub_keeper_end_server(struct ub_server *server, int64_t timeout_ms);
/* Lets go of one that is gone, and of what it said. */
void ub_keeper_forget_server(struct ub_server *server);
/* "was killed by signal 9", "ended with status 1" */
const char *ub_keeper_server_fate(const struct ub_server *server, char *buf, size_t len);

/* ---- attach.c ------------------------------------------------------------ */

/*
 * Tells a server what is to be served; with what is known of it when it is a standby. 0 or -errno
 * with *err.
 */
int ub_keeper_send_config(struct ub_keeper *k, struct ub_server *server, struct ub_err *err);

/* ---- adopt.c: a keeper that comes later ---------------------------------- */

/*
 * Becomes the keeper of a device that has none: of its server, of the standby, or, where both are
 * gone, of what state.json says. 0 or -errno with *err; then ub_keeper_let_go().
 */
int ub_keeper_adopt(struct ub_keeper *k, const char *name, struct ub_err *err);
/* Likewise, of a device that this keeper has let go of: what it knows of it is still true. */
int ub_keeper_adopt_again(struct ub_keeper *k, const char *name, struct ub_err *err);
/* Is its keeper no more, and leaves all as it is. */
void ub_keeper_let_go(struct ub_keeper *k);

/* ---- recover.c: what happens when a server dies -------------------------- */

/*
 * Takes a step towards a standby, if one is missing. Waits for nothing. When to call it again, in
 * ms; -1: never.
 */
int ub_keeper_tend_standby(struct ub_keeper *k);
/* Has it end: the device goes to another keeper, who makes its own. */
void ub_keeper_drop_standby(struct ub_keeper *k);
/* What a standby was told is no longer true: another one is made. */
void ub_keeper_renew_standby(struct ub_keeper *k);
/*
 * The server is dead: the standby takes the device over. 0; -ENODEV: the device was stopped,
 * -EINTR: somebody insists on its end and it takes too long, or another -errno with *err: it cannot
 * be recovered.
 */
int ub_keeper_recover(struct ub_keeper *k, struct ub_err *err);
/*
 * Whether somebody has insisted on the device's end for so long that what is dirty has to be lost.
 */
bool ub_keeper_recovery_is_given_up(struct ub_keeper *k);
/*
 * The standby takes over from a server that lives, once nothing is in flight; I/O that comes
 * meanwhile is held, for a second at the most. 0 with *pause_ms, how long it stood still, or as
 * ub_keeper_recover(); -EBUSY: something was in flight all the time, in each try until then,
 * -ETIMEDOUT: it does not answer: in both cases it serves on as before.
 */
int ub_keeper_switch(struct ub_keeper *k, uint64_t until_ms, uint64_t *pause_ms,
		     struct ub_err *err);
/*
 * A server that has fetched already: the end of a recovery that another keeper began. 0 or -errno
 * with *err.
 */
int ub_keeper_finish_recovery(struct ub_keeper *k, struct ub_server *server, struct ub_err *err);

/* ---- device.c: the kernel's device --------------------------------------- */

/* -EBUSY if another device has this name. */
int ub_keeper_check_name(struct ub_keeper *k, const char *name, struct ub_err *err);
int ub_keeper_add(struct ub_keeper *k, struct ub_err *err);
/* Makes what servers share: statistics page, ledger, tag buffers. 0 or -errno with *err. */
int ub_keeper_make_shared(struct ub_keeper *k, struct ub_err *err);
/*
 * The ledger alone, of a device whose server has none; or, with a ledger_fd, the mapping of one
 * that there is. 0 or -errno with *err.
 */
int ub_keeper_make_ledger(struct ub_keeper *k, struct ub_err *err);
int ub_keeper_map_ledger(struct ub_keeper *k, struct ub_err *err);
/* Makes the run directory and that, and has the first server fetch. */
int ub_keeper_serve(struct ub_keeper *k, struct ub_err *err);
/* The SERVE message. 0 or -errno with *err. */
int ub_keeper_send_serve(struct ub_keeper *k, struct ub_server *server, struct ub_err *err);
int ub_keeper_write_state(struct ub_keeper *k, struct ub_err *err);
/*
 * Likewise, and a failure is only said: I/O may be waiting, and a full or read-only /run must not
 * keep it so.
 */
void ub_keeper_note_state(struct ub_keeper *k);
/* Sends START, STOP, DEL or one of recovery's, and waits for it, as ub_ctrl_wait() does. */
int ub_keeper_long_cmd(struct ub_keeper *k, struct ub_ctrl_cmd *cmd, uint32_t op, uint64_t data,
		       const char *what, int64_t timeout_ms, bool (*until)(void *));
/* False when somebody deleted our device already, and the id may be another's by now. */
bool ub_keeper_still_ours(struct ub_keeper *k);
int ub_keeper_start(struct ub_keeper *k, struct ub_err *err);

/*
 * 7.x: stops it if nobody has it open. False: somebody has. Elsewhere true, and it is not stopped
 * yet.
 */
bool ub_keeper_try_stop(struct ub_keeper *k);

/* Unmaps and closes what this process has of that, and store and control device; nobody else's. */
void ub_keeper_release_shared(struct ub_keeper *k);
/* Takes the device away, whatever state it is in; force: what is in flight is failed. */
void ub_keeper_teardown(struct ub_keeper *k, bool force);

#endif
