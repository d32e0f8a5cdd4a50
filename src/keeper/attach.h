/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The keeper: the process that makes a device, watches over its server and takes both away again.
 */
#ifndef UB_KEEPER_ATTACH_H
#define UB_KEEPER_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/nbd/options.h"
#include "ublk/datapath.h"

#define UB_DEFAULT_DEPTH       128
#define UB_DEFAULT_ARENA_BYTES (32ULL << 20) /* tag buffers, unless --max-io asks for more */

/* As the command line gives it; strings are the caller's. */
struct ub_attach_options {
	const char *kind;    /* of the back end */
	const char *options; /* for the back end; "" when there are none */
	uint64_t size_bytes;
	int64_t id;		      /* -1: any */
	const char *name;	      /* NULL: ublkN */
	unsigned nr_queues;	      /* 0: the default */
	unsigned depth;		      /* 0: the default */
	uint32_t max_io_bytes;	      /* 0: what suits the back end and the arena */
	uint32_t logical_block_bytes; /* 0: the back end's choice */
	bool read_only, prealloc, daemon, core_dump, no_recovery, no_stats;
	/* of ub_attach_run() with a name: the device has a keeper, which is asked for it */
	bool upgrade;
	uint64_t upgrade_wait_ms; /* of an upgrade: for a moment without requests in flight */
	enum ub_data_path data_path;
	const char *scheduler; /* "keep": the kernel's */
	unsigned timeout_s;
	/* nbd */
	/*
	 * Instead of `options`; the keeper fills in the path of the command's socket, and what is
	 * set later, so that another server gets it.
	 */
	struct nbd_options *nbd;
	int fd;		/* a connected socket; -1: none */
	char **command; /* NULL: none */
	/* its stdin and stdout are the connection; else it gets a listening socket */
	bool command_is_connected;
	bool restart_command;
};

/*
 * Serves until it is told to end. An exit status of err.h; errors have been printed. name: of a
 * device that is there already and has no keeper; opts are what its state.json says. NULL: a new
 * one is made.
 */
int ub_attach_run(const struct ub_attach_options *opts, const char *name);

#endif
