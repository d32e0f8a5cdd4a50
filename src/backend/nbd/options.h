/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How an NBD export is named, and what may be done to reach it.
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

#include "base/err.h"

#define NBD_MAX_CONNECTIONS  64
#define NBD_NO_LIMIT	     UINT64_MAX
#define NBD_DEFAULT_STALL_MS 30000
#define NBD_MIN_STALL_MS     100
#define NBD_DEFAULT_FENCE_MS 30000 /* as long as Linux gives a command on a local disk */

enum nbd_transport {
	NBD_NOWHERE,
	NBD_URI,
	NBD_TCP,
	NBD_UNIX,
	NBD_VSOCK,
	NBD_SOCKET, /* --fd, --command: a connected socket came with the CONFIG message */
};

/* What the URI does not say; NBD_TLS_UNSET: off, and what the URI's scheme says. */
enum nbd_tls { NBD_TLS_UNSET, NBD_TLS_OFF, NBD_TLS_ALLOW, NBD_TLS_REQUIRE };

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
	enum nbd_transport transport;
	char *uri;
	char *host, *port; /* NBD_TCP */
	char *path;	   /* NBD_UNIX */
	uint32_t vsock_cid, vsock_port;
	char *export_name; /* NULL: the URI's, or "" */
	enum nbd_tls tls;
	bool tls_verify;				      /* default: true */
	char *tls_certificates, *tls_psk_file, *tls_username; /* NULL: libnbd's default */
	/* what the certificate has to be for; NULL: the host that is connected to */
	char *tls_hostname;
	char *label;		  /* what messages call the server; NULL: as it is reached */
	unsigned nr_connections;  /* 0: the default */
	uint64_t outage_limit_ms; /* NBD_NO_LIMIT: I/O waits; 0: it fails at once */
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

/*
 * What goes together and what does not: a transport, TLS allowed and verified, files that cannot be
 * read, a URI that is none. 0 or -EINVAL with *err, which names the option and the remedy.
 */
int nbd_options_check(const struct nbd_options *o, struct ub_err *err);

/*
 * The value of a URI's parameter, percent-encoded as it is there, and its length in *len; NULL: it
 * has no such parameter.
 */
const char *nbd_uri_parameter(const char *uri, const char *name, size_t *len);

/* Whether a URI names a file by a path that is not absolute. */
bool nbd_uri_has_relative_path(const char *uri);

/*
 * The files that it names: sockets, certificates, keys, and where libnbd looks for them. Each is to
 * be freed.
 */
unsigned nbd_options_paths(const struct nbd_options *o, char *paths[], unsigned max);

/* "time" or "close" */
const char *nbd_fence_name(enum nbd_fence policy);

/* The server in a few words for messages, such as "nbd://host/export", without a secret. */
const char *nbd_options_describe(const struct nbd_options *o, char *buf, size_t len);

/*
 * Where it is, of one that is reached over the network: a host as it was named, without brackets,
 * and a port. False: it is not, or what there is does not fit.
 */
bool nbd_options_get_address(const struct nbd_options *o, char *host, size_t host_len, char *port,
			     size_t port_len);

/* Whether both say in the same words which export. Others may name it in another way. */
bool nbd_options_are_one_export(const struct nbd_options *a, const struct nbd_options *b);

#endif
