/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The server's state, shared by the files of its main thread. Private to src/server/. */
#ifndef UB_SERVER_STATE_H
#define UB_SERVER_STATE_H

#include <ublk-bridge/message.h>

#include "base/loop.h"
#include "base/process.h"
#include "server/host.h"
#include "server/move.h"
#include "server/yield.h"
#include "ublk/device.h"

enum server_phase {
	SERVER_NEW,
	SERVER_OPEN,
	SERVER_READY,
	SERVER_SERVING,
	SERVER_LIVE,
	SERVER_OVER
};

/* A MIGRATE that came while what the last migration has left behind was still being closed. */
struct server_kept {
	struct ub_msg_migrate *msg; /* NULL: none */
	int fds[UB_MESSAGE_MAX_FDS];
};

struct server {
	struct ub_loop loop;
	void (*hear_keeper)(void *arg); /* the loop's callback for keeper_fd; arg: the server */
	enum server_phase phase;
	int status;
	int keeper_fd; /* always UB_SERVER_SOCKET_FD, also while nobody is at the other end */
	bool has_keeper;
	_Atomic unsigned keeper_version; /* of the messages, as spoken there; any thread reads */
	pid_t served_pid; /* a standby's: of the server before it; 0: this is the first one */
	/*
	 * of that one, once the keeper has gone, or while its rings are held; -1: it is not watched
	 */
	int served_pidfd;
	struct ub_held_rings served_rings;
	int listen_fd;	/* server.sock; -1 until SERVE */
	int visitor_fd; /* one verb at a time; -1: none */
	bool visitor_greeted;
	unsigned visitor_version;
	int store_fd;
	int stats_fd;
	int arena_fd;
	int ledger_fd;
	bool said_ready, said_fetching;
	struct ub_server_yield yield;
	bool is_resizing;	     /* the queues have been told, and have not confirmed yet */
	struct ub_msg_resize resize; /* as it was asked for, with the size that it comes to */
	struct ub_backend *backend;  /* the device's: the first, or what it was moved to */
	struct ub_backend first_backend;
	struct ub_device device;
	struct ub_stats_page *stats;
	size_t stats_bytes;
	struct ub_ledger *ledger;
	size_t ledger_bytes;
	uint8_t (*affinity)[UB_CPU_MASK_BYTES];
	struct server_host host;
	struct ub_move move;
	struct server_kept kept;
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)];
};

/* The main thread comes to its end with this exit status (UB_EXIT_*). */
void ub_server_over(struct server *s, int status);
/*
 * It cannot go on: the keeper is told (FAILED). Does not return where taking the device apart would
 * fail what is in flight.
 */
void ub_server_fail(struct server *s, const struct ub_err *err);
/* Those of a message that nobody has taken. */
void ub_server_close_fds(int fds[UB_MESSAGE_MAX_FDS]);
/* All I/O of the device fails from now on, and nothing moves it any more. */
void ub_server_cancel(struct server *s);

#endif
