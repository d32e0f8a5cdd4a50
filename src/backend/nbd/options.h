/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How an NBD export is named (address.h), and what may be done to reach it.
 *
 * The command line makes this, the keeper carries it to the server as one JSON object (the options
 * of the CONFIG message), and the back end reads it there. It names files with secrets, and holds
 * none. Control plane.
 */
#ifndef UB_BACKEND_NBD_OPTIONS_H
#define UB_BACKEND_NBD_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/nbd/address.h"
#include "base/err.h"

#define NBD_MAX_CONNECTIONS  64
#define NBD_NO_LIMIT	     UINT64_MAX
#define NBD_DEFAULT_STALL_MS 30000
#define NBD_MIN_STALL_MS     100
#define NBD_DEFAULT_FENCE_MS 30000 /* as long as Linux gives a command on a local disk */

/*
 * What shows that a connection which was given up has nothing in hand any more, beside somebody's
 * word.
 */
enum nbd_fence {
	NBD_FENCE_TIME, /* that fence_timeout_ms have passed */
	/* likewise, or that the server closed it before anything that we did to it */
	NBD_FENCE_CLOSE,
};

struct nbd_options {
	struct nbd_address address; /* one way to the export */
	unsigned nr_connections;    /* 0: the default */
	uint64_t outage_limit_ms;   /* NBD_NO_LIMIT: I/O waits; 0: it fails at once */
	uint64_t stall_timeout_ms;
	enum nbd_fence fence_policy;
	/* how long a lost connection may still change something; 0: not at all */
	uint64_t fence_timeout_ms;
	/* for /bin/sh, the keeper's to run: status 0 says that it cannot any more; NULL: none */
	char *fence_command;
	uint64_t wait_ms; /* how long an attach keeps trying to reach the server */
	bool auto_resize; /* the device follows an export that has grown */
	/* NBD_SOCKET: another socket may come (--command with --restart-command) */
	bool restarts;
};

/* The defaults. Strings are NULL. */
void nbd_options_init(struct nbd_options *o);
void nbd_options_destroy(struct nbd_options *o); /* frees the strings */

/*
 * One JSON object in a string of its own (free() it), without what is default; NULL: no memory, or
 * not UTF-8.
 */
char *nbd_options_to_json(const struct nbd_options *o);
/*
 * The same in two, for state.json, which programs of other versions read: what each must
 * understand, and what a program that does not know it does without ("{}": nothing). Both free(); 0
 * or -ENOMEM, and then both are NULL.
 */
int nbd_options_to_two_json(const struct nbd_options *o, char **needed, char **more);

/*
 * The reverse. 0 or -errno with *err: what cannot be understood is refused, unknown members too.
 * nbd_options_destroy() afterwards in either case.
 */
int nbd_options_from_json(struct nbd_options *o, const char *json, struct ub_err *err);
/*
 * Then: what nbd_options_to_two_json() has put into `more`. Members that this program does not know
 * are left out.
 */
int nbd_options_add_json(struct nbd_options *o, const char *more, struct ub_err *err);

/* Whether JSON can carry it, and nbd_address_check(). 0 or -errno with *err. */
int nbd_options_check(const struct nbd_options *o, struct ub_err *err);

/* "time" or "close" */
const char *nbd_fence_name(enum nbd_fence policy);

/* ---- of its address: address.h ------------------------------------------- */

static inline const char *nbd_options_describe(const struct nbd_options *o, char *buf, size_t len)
{
	return nbd_address_describe(&o->address, buf, len);
}

static inline bool nbd_options_get_address(const struct nbd_options *o, char *host, size_t host_len,
					   char *port, size_t port_len)
{
	return nbd_address_get_host(&o->address, host, host_len, port, port_len);
}

static inline bool nbd_options_are_one_export(const struct nbd_options *a,
					      const struct nbd_options *b)
{
	return nbd_address_is_same_export(&a->address, &b->address);
}

#endif
