/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where an NBD export is: what goes together, how it is called, which files it names. Control
 * plane. Specification: the NBD URI, doc/uri.md.
 */
#include "backend/nbd/address.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define ADDRESS_DEFAULT_PORT "10809"
#define ADDRESS_TEXT_BYTES   4096 /* more than a path or a URI has */

const char *const nbd_transport_names[] = {
	[NBD_NOWHERE] = "nowhere", [NBD_URI] = "uri",	  [NBD_TCP] = "tcp",
	[NBD_UNIX] = "unix",	   [NBD_VSOCK] = "vsock", [NBD_SOCKET] = "socket",
};

const char *const nbd_tls_names[] = {
	[NBD_TLS_UNSET] = "unset",
	[NBD_TLS_OFF] = "off",
	[NBD_TLS_ALLOW] = "allow",
	[NBD_TLS_REQUIRE] = "require",
};

void nbd_address_init(struct nbd_address *a)
{
	*a = (struct nbd_address){ .tls_verify = true };
}

/* ---- a URI --------------------------------------------------------------- */

static const struct {
	const char *scheme;
	bool has_tls, has_socket;
} address_schemes[] = {
	{ "nbd:", false, false },	{ "nbds:", true, false },
	{ "nbd+unix:", false, true },	{ "nbds+unix:", true, true },
	{ "nbd+vsock:", false, false }, { "nbds+vsock:", true, false },
};

/* The index of a URI's scheme; -1: none of NBD's. */
static int uri_scheme(const char *uri)
{
	for (unsigned i = 0; i < UB_ARRAY_SIZE(address_schemes); i++) {
		if (strncmp(uri, address_schemes[i].scheme, strlen(address_schemes[i].scheme)) == 0)
			return (int)i;
	}
	return -1;
}

const char *nbd_uri_parameter(const char *uri, const char *name, size_t *len)
{
	size_t name_len = strlen(name);
	const char *at = strchr(uri, '?');

	while (at) {
		at++;
		if (strncmp(at, name, name_len) == 0 && at[name_len] == '=') {
			*len = strcspn(at + name_len + 1, "&;#");
			return at + name_len + 1;
		}
		at = strpbrk(at, "&;#");
		if (at && *at == '#')
			break;
	}
	return NULL;
}

/* ---- the files it names -------------------------------------------------- */

struct paths {
	char **list;
	unsigned nr, max;
};

static void paths_add(struct paths *p, const char *path)
{
	char *copy;

	if (!path || p->nr == p->max)
		return;
	copy = strdup(path);
	if (copy)
		p->list[p->nr++] = copy;
}

static unsigned hex_value(unsigned char c)
{
	return isdigit(c) ? c - (unsigned)'0' : (unsigned)tolower(c) - 'a' + 10;
}

/* Adds the value of a URI's parameter, with what is percent-encoded in it turned back. */
static void paths_add_value(struct paths *p, const char *value)
{
	char path[4096];
	size_t len = 0;

	while (*value && *value != '&' && *value != '#' && len < sizeof(path) - 1) {
		const unsigned char *hex = (const unsigned char *)value + 1;

		if (*value == '%' && isxdigit(hex[0]) && isxdigit(hex[1])) {
			path[len++] = (char)(hex_value(hex[0]) << 4 | hex_value(hex[1]));
			value += 3;
		} else {
			path[len++] = *value++;
		}
	}
	path[len] = '\0';
	paths_add(p, path);
}

static void paths_add_uri(struct paths *p, const char *uri)
{
	static const char *const names[] = { "socket=", "tls-certificates=", "tls-psk-file=" };
	const char *at = strchr(uri, '?');

	while (at) {
		at++;
		for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
			if (strncmp(at, names[i], strlen(names[i])) == 0)
				paths_add_value(p, at + strlen(names[i]));
		}
		at = strchr(at, '&');
	}
}

bool nbd_uri_has_relative_path(const char *uri)
{
	char *list[8];
	struct paths p = { .list = list, .max = sizeof(list) / sizeof(list[0]) };
	bool relative = false;

	paths_add_uri(&p, uri);
	for (unsigned i = 0; i < p.nr; i++) {
		relative |= list[i][0] != '/';
		free(list[i]);
	}
	return relative;
}

unsigned nbd_address_paths(const struct nbd_address *a, char *paths[], unsigned max)
{
	struct paths p = { .list = paths, .max = max };
	const char *home = getenv("HOME");
	char dir[4096];

	if (a->uri)
		paths_add_uri(&p, a->uri);
	paths_add(&p, a->path);
	paths_add(&p, a->tls_certificates);
	paths_add(&p, a->tls_psk_file);
	if (home && snprintf(dir, sizeof(dir), "%s/.pki", home) < (int)sizeof(dir))
		paths_add(&p, dir);
	if (home && snprintf(dir, sizeof(dir), "%s/.config/pki", home) < (int)sizeof(dir))
		paths_add(&p, dir);
	return p.nr;
}

/* ---- its words ------------------------------------------------------------ */

/* A URI without the password that may stand before the host. */
static void describe_uri(const char *uri, char *buf, size_t len)
{
	const char *user = strstr(uri, "://"), *end, *at, *colon;

	user = user ? user + strlen("://") : uri;
	end = user + strcspn(user, "/?#");
	at = memrchr(user, '@', (size_t)(end - user));
	colon = at ? memchr(user, ':', (size_t)(at - user)) : NULL;
	if (colon)
		snprintf(buf, len, "%.*s***%s", (int)(colon + 1 - uri), uri, at);
	else
		snprintf(buf, len, "%s", uri);
}

const char *nbd_address_describe(const struct nbd_address *a, char *buf, size_t len)
{
	const char *export = a->export_name ? a->export_name : "";

	if (a->label)
		snprintf(buf, len, "%s", a->label);
	else if (a->transport == NBD_URI)
		describe_uri(a->uri, buf, len);
	else if (a->transport == NBD_TCP)
		snprintf(buf, len, strchr(a->host, ':') ? "nbd://[%s]:%s/%s" : "nbd://%s:%s/%s",
			 a->host, a->port, export);
	else if (a->transport == NBD_UNIX)
		snprintf(buf, len, "nbd+unix:///%s?socket=%s", export, a->path);
	else if (a->transport == NBD_VSOCK)
		snprintf(buf, len, "nbd+vsock://%u:%u/%s", a->vsock_cid, a->vsock_port, export);
	else
		snprintf(buf, len, "the socket that was handed over");
	return buf;
}

/* Whether it is reached by a host's name or address. */
static bool address_has_host(const struct nbd_address *a)
{
	return a->transport == NBD_TCP ||
	       (a->transport == NBD_URI &&
		(strncmp(a->uri, "nbd:", 4) == 0 || strncmp(a->uri, "nbds:", 5) == 0));
}

static bool copy_part(char *to, size_t len, const char *from, size_t nr)
{
	return nr > 0 && snprintf(to, len, "%.*s", (int)nr, from) < (int)len;
}

/* The host and the port of nbd://[USER[:PASSWORD]@]HOST[:PORT][/EXPORT]. */
static bool uri_host(const char *uri, char *host, size_t host_len, char *port, size_t port_len)
{
	const char *at = strstr(uri, "://"), *end, *user, *colon;
	size_t nr;

	at = at ? at + strlen("://") : uri;
	end = at + strcspn(at, "/?#");
	user = memrchr(at, '@', (size_t)(end - at));
	at = user ? user + 1 : at;
	nr = *at == '[' ? strcspn(at, "]") : 0;
	if (nr && at[nr] != ']')
		return false;
	colon = at + nr < end ? memchr(at + nr, ':', (size_t)(end - at) - nr) : NULL;
	if (colon && !copy_part(port, port_len, colon + 1, (size_t)(end - colon - 1)))
		return false;
	if (!colon)
		snprintf(port, port_len, ADDRESS_DEFAULT_PORT);
	return nr ? copy_part(host, host_len, at + 1, nr - 1) :
		    copy_part(host, host_len, at, (size_t)((colon ? colon : end) - at));
}

bool nbd_address_get_host(const struct nbd_address *a, char *host, size_t host_len, char *port,
			  size_t port_len)
{
	if (a->transport == NBD_TCP)
		return copy_part(host, host_len, a->host, strlen(a->host)) &&
		       copy_part(port, port_len, a->port, strlen(a->port));
	return address_has_host(a) && uri_host(a->uri, host, host_len, port, port_len);
}

static bool describe_unlabelled(const struct nbd_address *a, char *buf, size_t len)
{
	struct nbd_address unlabelled = *a;

	unlabelled.label = NULL;
	nbd_address_describe(&unlabelled, buf, len);
	return a->transport != NBD_NOWHERE && a->transport != NBD_SOCKET;
}

bool nbd_address_is_same_export(const struct nbd_address *a, const struct nbd_address *b)
{
	const char *export_a = a->export_name ? a->export_name : "",
		   *export_b = b->export_name ? b->export_name : "";
	char text_a[ADDRESS_TEXT_BYTES], text_b[ADDRESS_TEXT_BYTES];

	return describe_unlabelled(a, text_a, sizeof(text_a)) &&
	       describe_unlabelled(b, text_b, sizeof(text_b)) && strcmp(text_a, text_b) == 0 &&
	       strcmp(export_a, export_b) == 0;
}

/* ---- checking ------------------------------------------------------------ */

static int check_uri(const struct nbd_address *a, bool *has_tls, struct ub_err *err)
{
	int scheme = uri_scheme(a->uri);

	if (scheme < 0)
		return ub_err_set(err, EINVAL,
				  "%s: not an NBD URI: it begins with nbd://, nbds://, "
				  "nbd+unix://, nbds+unix://, "
				  "nbd+vsock:// or nbds+vsock://",
				  a->uri);
	*has_tls = address_schemes[scheme].has_tls;
	if (address_schemes[scheme].has_socket && !strstr(a->uri, "socket="))
		return ub_err_set(err, EINVAL,
				  "%s: no socket is named: write nbd+unix:///EXPORT?socket=/PATH",
				  a->uri);
	if (nbd_uri_has_relative_path(a->uri))
		return ub_err_set(err, EINVAL,
				  "%s: a path in it does not begin with /: write the whole path",
				  a->uri);
	if (a->export_name)
		return ub_err_set(err, EINVAL,
				  "--export: the URI names the export already: write it there, "
				  "behind the host");
	if (*has_tls && (a->tls == NBD_TLS_OFF || a->tls == NBD_TLS_ALLOW))
		return ub_err_set(err, EINVAL,
				  "--tls %s: the URI asks for TLS (%s): take one of them away",
				  nbd_tls_names[a->tls], address_schemes[scheme].scheme);
	return 0;
}

/* getaddrinfo(3) keeps 16 bits: a larger number would name another port. A name is a service's. */
static int check_port(const char *port, const char *what, struct ub_err *err)
{
	char *end;
	unsigned long value = strtoul(port, &end, 10);

	if (*port && strspn(port, "0123456789") == strlen(port) &&
	    (value < 1 || value > UINT16_MAX || strlen(port) > 9))
		return ub_err_set(err, EINVAL, "%s: %s is no port: give one from 1 to 65535", what,
				  port);
	return 0;
}

/* fe80::/10: the same address is on each network that the machine has. */
static int check_link_local(const char *host, const char *what, struct ub_err *err)
{
	if (strncasecmp(host, "fe", 2) == 0 && strchr("89abAB", host[2]) && host[2] &&
	    strchr(host, ':') && !strchr(host, '%'))
		return ub_err_set(err, EINVAL,
				  "%s: %s is an address of one network: name the interface, such "
				  "as %s%%eth0",
				  what, host, host);
	return 0;
}

static int check_host(const struct nbd_address *a, struct ub_err *err)
{
	const char *what = a->transport == NBD_TCP ? "--tcp" : a->uri, *at;
	char host[1024], port[64];
	int ret;

	if (!address_has_host(a))
		return 0;
	if (a->transport == NBD_URI) {
		at = strstr(what, "://");
		at = at ? at + strlen("://") : what;
		at = memchr(at, ':', strcspn(at, "/?#@[")); /* [: in brackets, as it should be */
		if (at && memchr(at + 1, ':', strcspn(at + 1, "/?#@")))
			return ub_err_set(err, EINVAL,
					  "%s: an IPv6 address has brackets around it: "
					  "nbd://[::1]:10809/EXPORT",
					  what);
	}
	if (!nbd_address_get_host(a, host, sizeof(host), port, sizeof(port)))
		return 0; /* for libnbd to judge */
	ret = check_port(port, what, err);
	return ret ? ret : check_link_local(host, what, err);
}

/* value: NULL: any. */
static bool uri_has(const struct nbd_address *a, const char *name, const char *value)
{
	size_t len = 0;
	const char *found = a->transport == NBD_URI ? nbd_uri_parameter(a->uri, name, &len) : NULL;

	return found && (!value || (len == strlen(value) && strncmp(found, value, len) == 0));
}

/*
 * A certificate is right for a host's name. libnbd verifies nothing where it has none, and the
 * connection would be as good as one to anybody.
 */
static int check_verification(const struct nbd_address *a, struct ub_err *err)
{
	bool has_name = address_has_host(a) || a->tls_hostname || uri_has(a, "tls-hostname", NULL);

	if (has_name || !a->tls_verify || a->tls_psk_file || uri_has(a, "tls-psk-file", NULL) ||
	    uri_has(a, "tls-verify-peer", "false"))
		return 0;
	return ub_err_set(err, EINVAL,
			  "the server's certificate cannot be verified: there is no host's name on "
			  "the way to it. Use "
			  "--tls-psk-file FILE, or --tls-hostname NAME (libnbd 1.22), or "
			  "--no-tls-verify");
}

static int check_file(const char *path, const char *option, bool is_directory, struct ub_err *err)
{
	struct stat st;

	if (!path)
		return 0;
	if (stat(path, &st) < 0 || access(path, R_OK) < 0)
		return ub_err_errno(err, errno, "%s: %s", option, path);
	if (S_ISDIR(st.st_mode) != is_directory)
		return ub_err_set(err, EINVAL, "%s: %s is %s", option, path,
				  is_directory ? "no directory" : "a directory");
	return 0;
}

int nbd_address_check(const struct nbd_address *a, struct ub_err *err)
{
	bool has_tls = false;
	int ret = 0;

	if (a->transport == NBD_URI)
		ret = check_uri(a, &has_tls, err);
	if (ret)
		return ret;
	has_tls |= a->tls == NBD_TLS_REQUIRE || a->tls == NBD_TLS_ALLOW;
	if (a->tls == NBD_TLS_ALLOW && a->tls_verify)
		return ub_err_set(err, EINVAL,
				  "--tls allow cannot verify: whoever is in between need only "
				  "refuse TLS: choose "
				  "--tls require, or --no-tls-verify if that is what you want");
	if (!has_tls && (a->tls_certificates || a->tls_psk_file || a->tls_username ||
			 a->tls_hostname || !a->tls_verify))
		return ub_err_set(err, EINVAL,
				  "TLS is configured and not used: add --tls require, or a URI "
				  "with nbds");
	ret = check_file(a->tls_certificates, "--tls-certificates", true, err);
	if (ret == 0)
		ret = check_file(a->tls_psk_file, "--tls-psk-file", false, err);
	if (ret == 0 && has_tls)
		ret = check_verification(a, err);
	return ret ? ret : check_host(a, err);
}
