/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The keeper: the process that makes a device, watches over its server and takes both away again.
 */
#ifndef UB_KEEPER_MAIN_H
#define UB_KEEPER_MAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/nbd/options.h"
#include "ublk/datapath.h"

#define UB_DEFAULT_DEPTH       128
#define UB_DEFAULT_ARENA_BYTES (32ULL << 20) /* tag buffers, unless --max-io asks for more */

/* What stands behind a device, or shall. Strings are the caller's. */
struct ub_side_options {
	const char *kind;    /* of the back end */
	const char *options; /* for the back end; "" when there are none */
	uint64_t size_bytes;
	uint32_t logical_block_bytes; /* 0: the back end's choice */
	bool prealloc;
	/*
	 * nbd: instead of `options`; the keeper fills in the path of the command's socket, and what
	 * is set later, so that another server gets it.
	 */
	struct nbd_options *nbd;
	int fd;		/* a connected socket; -1: none */
	char **command; /* NULL: none */
	/* its stdin and stdout are the connection; else it gets a listening socket */
	bool command_is_connected;
	bool restart_command;
};

/* A device, as the command line gives it; strings are the caller's. */
struct ub_attach_options {
	struct ub_side_options side;
	int64_t id;	       /* -1: any */
	const char *name;      /* NULL: ublkN */
	unsigned nr_queues;    /* 0: the default */
	unsigned depth;	       /* 0: the default */
	uint32_t max_io_bytes; /* 0: what suits the back end and the arena */
	bool read_only, daemon, core_dump, no_recovery, no_stats;
	/* of ub_attach_run() with a name: the device has a keeper, which is asked for it */
	bool upgrade;
	uint64_t upgrade_wait_ms; /* of an upgrade: for a moment without requests in flight */
	enum ub_data_path data_path;
	const char *scheduler; /* "keep": the kernel's */
	unsigned timeout_s;
};

/*
 * Serves until it is told to end. An exit status of err.h; errors have been printed. name: of a
 * device that is there already and has no keeper; opts are what its state.json says. NULL: a new
 * one is made.
 */
int ub_attach_run(const struct ub_attach_options *opts, const char *name);

/*
 * The hidden first argument with which this binary becomes the command: OOM-SCORE, "relay" or
 * "direct", DIR, COMMAND, ARGS…
 */
#define UB_COMMAND_VERB "--exec-command"

/* What UB_COMMAND_VERB does: an exit status. */
int ub_command_main(int argc, char **argv);

#endif
