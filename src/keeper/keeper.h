/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The keeper's state, shared by the files that make and unmake a device. Private to src/keeper/. */
#ifndef UB_KEEPER_KEEPER_H
#define UB_KEEPER_KEEPER_H

#include <ublk-bridge/message.h>
#include <ublk-bridge/stats.h>

#include "base/log.h"
#include "base/loop.h"
#include "keeper/attach.h"
#include "keeper/command.h"
#include "keeper/control.h"
#include "keeper/rundir.h"
#include "keeper/settings.h"
#include "ublk/ctrl.h"

/* The verb `detach`: who waits for its answer. */
struct ub_keeper_detach {
	struct ub_control_caller callers[UB_CONTROL_MAX_CLIENTS];
	unsigned nr_callers;
	bool is_forced;
	bool is_going; /* it was done */
};

struct ub_keeper {
	const struct ub_attach_options *opts;
	struct ub_loop loop;
	struct ub_ctrl ctrl;
	uint64_t features;
	int signal_fd;
	unsigned nr_signals; /* INT and TERM, since the start */

	struct ub_command command;

	/* The server. */
	pid_t server_pid; /* 0: none */
	int server_pidfd;
	int server_fd;
	bool server_gone;
	int server_status; /* of waitpid, once gone */
	unsigned last_msg; /* enum ub_message_type of the newest but LOG */
	struct ub_err server_err;
	struct ub_log_limit server_log;
	struct ub_limits limits;
	uint32_t caps;

	/* The device. */
	struct ublksrv_ctrl_dev_info info; /* as ADD_DEV returned it */
	enum ub_data_path data_path;
	bool added;    /* there is a device to be deleted */
	bool started;  /* there may be a disk to be stopped */
	bool was_live; /* it was announced */
	/* What the kernel may answer late lives as long as the ring, and is not used for a second command. */
	struct ub_ctrl_cmd start_cmd, stop_cmd, kill_cmd, del_cmd;
	struct ub_rundir rundir;
	struct ub_control control;
	struct ub_keeper_settings settings;
	struct ub_keeper_detach detach;
	int store_fd;
	int stats_fd;
	struct ub_stats_page *stats;
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)];
};

/* ---- spawn.c: the server as a process ----------------------------------------------------------------- */

int ub_keeper_spawn_server(struct ub_keeper *k, struct ub_err *err);
/*
 * Waits for a message of this type. 0; -ECHILD: the server failed or died (*err says how), -ETIMEDOUT,
 * -EINTR: a signal asks us to end.
 */
int ub_keeper_await(struct ub_keeper *k, enum ub_message_type type, int64_t timeout_ms, const char *what,
		    struct ub_err *err);
/* Whether it lives. One that has begun to end does not, and is waited for, at most timeout_ms. */
bool ub_keeper_server_lives(struct ub_keeper *k, int64_t timeout_ms);
/* Waits until the server is gone, at most timeout_ms; then kills it. */
void ub_keeper_end_server(struct ub_keeper *k, int64_t timeout_ms);
/* "was killed by signal 9", "ended with status 1" */
const char *ub_keeper_server_fate(const struct ub_keeper *k, char *buf, size_t len);

/* ---- device.c: the kernel's device ---------------------------------------------------------------------- */

/* -EBUSY if another device has this name. */
int ub_keeper_check_name(struct ub_keeper *k, const char *name, struct ub_err *err);
int ub_keeper_add(struct ub_keeper *k, struct ub_err *err);
int ub_keeper_serve(struct ub_keeper *k, struct ub_err *err);
int ub_keeper_start(struct ub_keeper *k, struct ub_err *err);

/* 7.x: stops it if nobody has it open. False: somebody has. Elsewhere true, and it is not stopped yet. */
bool ub_keeper_try_stop(struct ub_keeper *k);

/* Takes the device away, whatever state it is in; force: what is in flight is failed. */
void ub_keeper_teardown(struct ub_keeper *k, bool force);

#endif
