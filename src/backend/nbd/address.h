/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where an NBD export is, and how it is reached: one way to it. What is done on that way, and for
 * how long, is in options.h. It names files with secrets, and holds none. Control plane; nothing
 * here connects.
 */
#ifndef UB_BACKEND_NBD_ADDRESS_H
#define UB_BACKEND_NBD_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

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

/* Strings are the caller's to free: of an nbd_options, nbd_options_destroy(). */
struct nbd_address {
	enum nbd_transport transport;
	char *uri;
	char *host, *port; /* NBD_TCP */
	char *path;	   /* NBD_UNIX */
	uint32_t vsock_cid, vsock_port;
	char *export_name; /* NULL: the URI's, or "" */
	enum nbd_tls tls;
	bool tls_verify;				      /* default: true */
	char *tls_certificates, *tls_psk_file, *tls_username; /* NULL: libnbd's default */
	char *tls_hostname; /* what the certificate is for; NULL: the host that is connected to */
	char *label;	    /* what messages call the server; NULL: as it is reached */
};

/* Their words, as the command line and JSON have them: an index of each enum. */
#define NBD_NR_TRANSPORTS (NBD_SOCKET + 1)
#define NBD_NR_TLS	  (NBD_TLS_REQUIRE + 1)
extern const char *const nbd_transport_names[NBD_NR_TRANSPORTS];
extern const char *const nbd_tls_names[NBD_NR_TLS];

/* The defaults. Strings are NULL. */
void nbd_address_init(struct nbd_address *a);

/*
 * What goes together and what does not: a transport, TLS allowed and verified, files that cannot be
 * read, a URI that is none. 0 or -EINVAL with *err, which names the option and the remedy.
 */
int nbd_address_check(const struct nbd_address *a, struct ub_err *err);

/* The server in a few words for messages, such as "nbd://host/export", without a secret. */
const char *nbd_address_describe(const struct nbd_address *a, char *buf, size_t len);

/*
 * Where it is, of one that is reached over the network: a host as it was named, without brackets,
 * and a port. False: it is not, or what there is does not fit.
 */
bool nbd_address_get_host(const struct nbd_address *a, char *host, size_t host_len, char *port,
			  size_t port_len);

/* Whether both say in the same words which export. Others may name it in another way. */
bool nbd_address_is_same_export(const struct nbd_address *a, const struct nbd_address *b);

/*
 * The files that it names: sockets, certificates, keys, and where libnbd looks for them. How many;
 * each is to be freed.
 */
unsigned nbd_address_paths(const struct nbd_address *a, char *paths[], unsigned max);

/*
 * The value of a URI's parameter, percent-encoded as it is there, and its length in *len; NULL: it
 * has no such parameter.
 */
const char *nbd_uri_parameter(const char *uri, const char *name, size_t *len);

/* Whether a URI names a file by a path that is not absolute. */
bool nbd_uri_has_relative_path(const char *uri);

#endif
