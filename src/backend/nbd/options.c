/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How an NBD export is named: defaults, JSON, and what goes together. Control plane. */
#include "backend/nbd/options.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

/* ---- the members, as JSON has them --------------------------------------- */

static const char *const option_transports[] = {
	[NBD_NOWHERE] = "nowhere", [NBD_URI] = "uri",	  [NBD_TCP] = "tcp",
	[NBD_UNIX] = "unix",	   [NBD_VSOCK] = "vsock", [NBD_SOCKET] = "socket",
};

static const char *const option_tls[] = {
	[NBD_TLS_UNSET] = "unset",
	[NBD_TLS_OFF] = "off",
	[NBD_TLS_ALLOW] = "allow",
	[NBD_TLS_REQUIRE] = "require",
};

static const char *const option_fence[] = {
	[NBD_FENCE_TIME] = "time",
	[NBD_FENCE_CLOSE] = "close",
};

#define NBD_DEFAULT_PORT  "10809"
#define OPTION_TEXT_BYTES 4096 /* more than a path or a URI has */
#define OPTION_AT(field)  offsetof(struct nbd_options, field)

/* is_more: a program that does not know it serves the export all the same. */
static const struct {
	const char *key;
	size_t offset;
	bool is_more;
} option_strings[] = {
	{ "uri", OPTION_AT(uri), false },
	{ "host", OPTION_AT(host), false },
	{ "port", OPTION_AT(port), false },
	{ "path", OPTION_AT(path), false },
	{ "export", OPTION_AT(export_name), false },
	{ "tls-certificates", OPTION_AT(tls_certificates), false },
	{ "tls-psk-file", OPTION_AT(tls_psk_file), false },
	{ "tls-username", OPTION_AT(tls_username), false },
	{ "tls-hostname", OPTION_AT(tls_hostname), false },
	{ "label", OPTION_AT(label), false },
	{ "fence-command", OPTION_AT(fence_command), true },
};

/* enum: an index of `names`. */
static const struct {
	const char *key;
	size_t offset;
	const char *const *names;
	unsigned nr_names;
	enum { OPTION_ENUM, OPTION_BOOL, OPTION_U32, OPTION_U64 } type;
	bool is_more;
} option_values[] = {
	{ "transport", OPTION_AT(transport), option_transports, UB_ARRAY_SIZE(option_transports),
	  OPTION_ENUM, false },
	{ "tls", OPTION_AT(tls), option_tls, UB_ARRAY_SIZE(option_tls), OPTION_ENUM, false },
	{ "tls-verify", OPTION_AT(tls_verify), NULL, 0, OPTION_BOOL, false },
	{ "vsock-cid", OPTION_AT(vsock_cid), NULL, 0, OPTION_U32, false },
	{ "vsock-port", OPTION_AT(vsock_port), NULL, 0, OPTION_U32, false },
	{ "connections", OPTION_AT(nr_connections), NULL, 0, OPTION_U32, false },
	{ "outage-limit-ms", OPTION_AT(outage_limit_ms), NULL, 0, OPTION_U64, false },
	{ "stall-timeout-ms", OPTION_AT(stall_timeout_ms), NULL, 0, OPTION_U64, false },
	{ "fence", OPTION_AT(fence_policy), option_fence, UB_ARRAY_SIZE(option_fence), OPTION_ENUM,
	  true },
	{ "fence-timeout-ms", OPTION_AT(fence_timeout_ms), NULL, 0, OPTION_U64, false },
	{ "wait-ms", OPTION_AT(wait_ms), NULL, 0, OPTION_U64, false },
	{ "auto-resize", OPTION_AT(auto_resize), NULL, 0, OPTION_BOOL, false },
	{ "restarts", OPTION_AT(restarts), NULL, 0, OPTION_BOOL, false },
};

_Static_assert(sizeof(enum nbd_transport) == sizeof(uint32_t) &&
		       sizeof(enum nbd_tls) == sizeof(uint32_t) &&
		       sizeof(enum nbd_fence) == sizeof(uint32_t),
	       "enums are read and written as 32 bits");

void nbd_options_init(struct nbd_options *o)
{
	*o = (struct nbd_options){
		.tls_verify = true,
		.outage_limit_ms = NBD_NO_LIMIT,
		.stall_timeout_ms = NBD_DEFAULT_STALL_MS,
		.fence_timeout_ms = NBD_DEFAULT_FENCE_MS,
	};
}

static char **option_string(struct nbd_options *o, size_t offset)
{
	return (char **)((char *)o + offset);
}

void nbd_options_destroy(struct nbd_options *o)
{
	for (unsigned i = 0; i < UB_ARRAY_SIZE(option_strings); i++) {
		free(*option_string(o, option_strings[i].offset));
		*option_string(o, option_strings[i].offset) = NULL;
	}
}

/* ---- JSON ---------------------------------------------------------------- */

static uint64_t value_get(const struct nbd_options *o, unsigned i)
{
	const void *at = (const char *)o + option_values[i].offset;
	uint32_t word;
	uint64_t value;

	switch (option_values[i].type) {
	case OPTION_BOOL:
		return *(const bool *)at;
	case OPTION_U64:
		memcpy(&value, at, sizeof(value));
		return value;
	default:
		memcpy(&word, at, sizeof(word));
		return word;
	}
}

static void value_set(struct nbd_options *o, unsigned i, uint64_t value)
{
	void *at = (char *)o + option_values[i].offset;
	uint32_t word = (uint32_t)value;

	switch (option_values[i].type) {
	case OPTION_BOOL:
		*(bool *)at = value != 0;
		break;
	case OPTION_U64:
		memcpy(at, &value, sizeof(value));
		break;
	default:
		memcpy(at, &word, sizeof(word));
	}
}

static json_t *value_to_json(unsigned i, uint64_t value)
{
	if (option_values[i].type == OPTION_ENUM)
		return json_string(option_values[i].names[value]);
	if (option_values[i].type == OPTION_BOOL)
		return json_boolean(value);
	return json_integer((json_int_t)value); /* "no limit" is -1 there */
}

/* Those members of which `which` has a bit. All of them or nothing: NULL. */
enum { OPTIONS_NEEDED = 1 << 0, OPTIONS_MORE = 1 << 1 };

static char *options_to_json(const struct nbd_options *o, unsigned which)
{
	json_t *object = json_object();
	struct nbd_options defaults;
	char *text = NULL;
	int ret = 0;

	nbd_options_init(&defaults);
	for (unsigned i = 0; i < UB_ARRAY_SIZE(option_strings); i++) {
		const char *string = *(char *const *)((const char *)o + option_strings[i].offset);

		if (string && (which & (option_strings[i].is_more ? OPTIONS_MORE : OPTIONS_NEEDED)))
			ret |= json_object_set_new(object, option_strings[i].key,
						   json_string(string));
	}
	for (unsigned i = 0; i < UB_ARRAY_SIZE(option_values); i++) {
		if (value_get(o, i) != value_get(&defaults, i) &&
		    (which & (option_values[i].is_more ? OPTIONS_MORE : OPTIONS_NEEDED)))
			ret |= json_object_set_new(object, option_values[i].key,
						   value_to_json(i, value_get(o, i)));
	}
	if (ret == 0)
		text = json_dumps(object, JSON_COMPACT);
	json_decref(object);
	return text;
}

char *nbd_options_to_json(const struct nbd_options *o)
{
	return options_to_json(o, OPTIONS_NEEDED | OPTIONS_MORE);
}

int nbd_options_to_two_json(const struct nbd_options *o, char **needed, char **more)
{
	*needed = options_to_json(o, OPTIONS_NEEDED);
	*more = options_to_json(o, OPTIONS_MORE);
	if (*needed && *more)
		return 0;
	free(*needed);
	free(*more);
	*needed = *more = NULL;
	return -ENOMEM;
}

static bool value_from_json(struct nbd_options *o, unsigned i, const json_t *json)
{
	const char *name = json_string_value(json);

	switch (option_values[i].type) {
	case OPTION_ENUM:
		for (unsigned n = 0; name && n < option_values[i].nr_names; n++) {
			if (strcmp(name, option_values[i].names[n]) == 0) {
				value_set(o, i, n);
				return true;
			}
		}
		return false;
	case OPTION_BOOL:
		value_set(o, i, json_is_true(json));
		return json_is_boolean(json);
	case OPTION_U32:
		value_set(o, i, (uint64_t)json_integer_value(json));
		return json_is_integer(json) && json_integer_value(json) >= 0 &&
		       json_integer_value(json) <= UINT32_MAX;
	default:
		value_set(o, i, (uint64_t)json_integer_value(json));
		return json_is_integer(json) && json_integer_value(json) >= -1;
	}
}

static bool member_from_json(struct nbd_options *o, const char *key, const json_t *json,
			     bool *is_known)
{
	*is_known = true;
	for (unsigned i = 0; i < UB_ARRAY_SIZE(option_strings); i++) {
		char **string = option_string(o, option_strings[i].offset);

		if (strcmp(key, option_strings[i].key) != 0)
			continue;
		if (!json_is_string(json) || *string)
			return false; /* the parser has refused members that come twice */
		*string = strdup(json_string_value(json));
		return *string != NULL;
	}
	for (unsigned i = 0; i < UB_ARRAY_SIZE(option_values); i++) {
		if (strcmp(key, option_values[i].key) == 0)
			return value_from_json(o, i, json);
	}
	*is_known = false;
	return false;
}

static int options_read_json(struct nbd_options *o, const char *json, bool ignores_unknown,
			     struct ub_err *err)
{
	json_error_t why;
	json_t *object = json_loads(json, JSON_REJECT_DUPLICATES, &why), *value;
	const char *key;
	bool is_known;
	int ret = 0;

	if (!json_is_object(object)) {
		json_decref(object);
		return ub_err_set(err, EINVAL, "the NBD options are no JSON object: %s",
				  object ? "something else" : why.text);
	}
	json_object_foreach(object, key, value)
	{
		if (!member_from_json(o, key, value, &is_known) && (is_known || !ignores_unknown)) {
			ret = ub_err_set(err, EINVAL,
					 "the NBD options' member '%.40s' is not understood", key);
			break;
		}
	}
	json_decref(object);
	return ret;
}

int nbd_options_from_json(struct nbd_options *o, const char *json, struct ub_err *err)
{
	nbd_options_init(o);
	return options_read_json(o, json, false, err);
}

int nbd_options_add_json(struct nbd_options *o, const char *more, struct ub_err *err)
{
	return options_read_json(o, more, true, err);
}

/* ---- checking ------------------------------------------------------------ */

/*
 * JSON, which carries the options to the server, and NBD's export names are UTF-8. A name that
 * cannot be carried must be refused: without it the default export would be served.
 */
static int check_strings(const struct nbd_options *o, struct ub_err *err)
{
	for (unsigned i = 0; i < UB_ARRAY_SIZE(option_strings); i++) {
		const char *string = *(char *const *)((const char *)o + option_strings[i].offset);
		json_t *json = string ? json_string(string) : NULL;

		if (string && !json)
			return ub_err_set(err, EILSEQ, "the NBD %s '%.200s' is not UTF-8",
					  option_strings[i].key, string);
		json_decref(json);
	}
	return 0;
}

static const struct {
	const char *scheme;
	bool has_tls, has_socket;
} option_schemes[] = {
	{ "nbd:", false, false },	{ "nbds:", true, false },
	{ "nbd+unix:", false, true },	{ "nbds+unix:", true, true },
	{ "nbd+vsock:", false, false }, { "nbds+vsock:", true, false },
};

/* The index of a URI's scheme; -1: none of NBD's. */
static int uri_scheme(const char *uri)
{
	for (unsigned i = 0; i < UB_ARRAY_SIZE(option_schemes); i++) {
		if (strncmp(uri, option_schemes[i].scheme, strlen(option_schemes[i].scheme)) == 0)
			return (int)i;
	}
	return -1;
}

static int check_uri(const struct nbd_options *o, bool *has_tls, struct ub_err *err)
{
	int scheme = uri_scheme(o->uri);

	if (scheme < 0)
		return ub_err_set(err, EINVAL,
				  "%s: not an NBD URI: it begins with nbd://, nbds://, "
				  "nbd+unix://, nbds+unix://, "
				  "nbd+vsock:// or nbds+vsock://",
				  o->uri);
	*has_tls = option_schemes[scheme].has_tls;
	if (option_schemes[scheme].has_socket && !strstr(o->uri, "socket="))
		return ub_err_set(err, EINVAL,
				  "%s: no socket is named: write nbd+unix:///EXPORT?socket=/PATH",
				  o->uri);
	if (nbd_uri_has_relative_path(o->uri))
		return ub_err_set(err, EINVAL,
				  "%s: a path in it does not begin with /: write the whole path",
				  o->uri);
	if (o->export_name)
		return ub_err_set(err, EINVAL,
				  "--export: the URI names the export already: write it there, "
				  "behind the host");
	if (*has_tls && (o->tls == NBD_TLS_OFF || o->tls == NBD_TLS_ALLOW))
		return ub_err_set(err, EINVAL,
				  "--tls %s: the URI asks for TLS (%s): take one of them away",
				  option_tls[o->tls], option_schemes[scheme].scheme);
	return 0;
}

/* Whether it is reached by a host's name or address. */
static bool options_have_host(const struct nbd_options *o)
{
	return o->transport == NBD_TCP ||
	       (o->transport == NBD_URI &&
		(strncmp(o->uri, "nbd:", 4) == 0 || strncmp(o->uri, "nbds:", 5) == 0));
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

static int check_address(const struct nbd_options *o, struct ub_err *err)
{
	const char *what = o->transport == NBD_TCP ? "--tcp" : o->uri, *at;
	char host[1024], port[64];
	int ret;

	if (!options_have_host(o))
		return 0;
	if (o->transport == NBD_URI) {
		at = strstr(what, "://");
		at = at ? at + strlen("://") : what;
		at = memchr(at, ':', strcspn(at, "/?#@[")); /* [: in brackets, as it should be */
		if (at && memchr(at + 1, ':', strcspn(at + 1, "/?#@")))
			return ub_err_set(err, EINVAL,
					  "%s: an IPv6 address has brackets around it: "
					  "nbd://[::1]:10809/EXPORT",
					  what);
	}
	if (!nbd_options_get_address(o, host, sizeof(host), port, sizeof(port)))
		return 0; /* for libnbd to judge */
	ret = check_port(port, what, err);
	return ret ? ret : check_link_local(host, what, err);
}

/* value: NULL: any. */
static bool uri_has(const struct nbd_options *o, const char *name, const char *value)
{
	size_t len = 0;
	const char *found = o->transport == NBD_URI ? nbd_uri_parameter(o->uri, name, &len) : NULL;

	return found && (!value || (len == strlen(value) && strncmp(found, value, len) == 0));
}

/*
 * A certificate is right for a host's name. libnbd verifies nothing where it has none, and the
 * connection would be as good as one to anybody.
 */
static int check_verification(const struct nbd_options *o, struct ub_err *err)
{
	bool has_name = options_have_host(o) || o->tls_hostname || uri_has(o, "tls-hostname", NULL);

	if (has_name || !o->tls_verify || o->tls_psk_file || uri_has(o, "tls-psk-file", NULL) ||
	    uri_has(o, "tls-verify-peer", "false"))
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

int nbd_options_check(const struct nbd_options *o, struct ub_err *err)
{
	bool has_tls = false;
	int ret = check_strings(o, err);

	if (ret == 0 && o->transport == NBD_URI)
		ret = check_uri(o, &has_tls, err);
	if (ret)
		return ret;
	has_tls |= o->tls == NBD_TLS_REQUIRE || o->tls == NBD_TLS_ALLOW;
	if (o->tls == NBD_TLS_ALLOW && o->tls_verify)
		return ub_err_set(err, EINVAL,
				  "--tls allow cannot verify: whoever is in between need only "
				  "refuse TLS: choose "
				  "--tls require, or --no-tls-verify if that is what you want");
	if (!has_tls && (o->tls_certificates || o->tls_psk_file || o->tls_username ||
			 o->tls_hostname || !o->tls_verify))
		return ub_err_set(err, EINVAL,
				  "TLS is configured and not used: add --tls require, or a URI "
				  "with nbds");
	ret = check_file(o->tls_certificates, "--tls-certificates", true, err);
	if (ret == 0)
		ret = check_file(o->tls_psk_file, "--tls-psk-file", false, err);
	if (ret == 0 && has_tls)
		ret = check_verification(o, err);
	return ret ? ret : check_address(o, err);
}

const char *nbd_fence_name(enum nbd_fence policy)
{
	return option_fence[policy];
}

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

const char *nbd_options_describe(const struct nbd_options *o, char *buf, size_t len)
{
	const char *export = o->export_name ? o->export_name : "";

	if (o->label)
		snprintf(buf, len, "%s", o->label);
	else if (o->transport == NBD_URI)
		describe_uri(o->uri, buf, len);
	else if (o->transport == NBD_TCP)
		snprintf(buf, len, strchr(o->host, ':') ? "nbd://[%s]:%s/%s" : "nbd://%s:%s/%s",
			 o->host, o->port, export);
	else if (o->transport == NBD_UNIX)
		snprintf(buf, len, "nbd+unix:///%s?socket=%s", export, o->path);
	else if (o->transport == NBD_VSOCK)
		snprintf(buf, len, "nbd+vsock://%u:%u/%s", o->vsock_cid, o->vsock_port, export);
	else
		snprintf(buf, len, "the socket that was handed over");
	return buf;
}

static bool copy_part(char *to, size_t len, const char *from, size_t nr)
{
	return nr > 0 && snprintf(to, len, "%.*s", (int)nr, from) < (int)len;
}

/* The host and the port of nbd://[USER[:PASSWORD]@]HOST[:PORT][/EXPORT]. */
static bool uri_address(const char *uri, char *host, size_t host_len, char *port, size_t port_len)
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
		snprintf(port, port_len, NBD_DEFAULT_PORT);
	return nr ? copy_part(host, host_len, at + 1, nr - 1) :
		    copy_part(host, host_len, at, (size_t)((colon ? colon : end) - at));
}

bool nbd_options_get_address(const struct nbd_options *o, char *host, size_t host_len, char *port,
			     size_t port_len)
{
	if (o->transport == NBD_TCP)
		return copy_part(host, host_len, o->host, strlen(o->host)) &&
		       copy_part(port, port_len, o->port, strlen(o->port));
	return options_have_host(o) && uri_address(o->uri, host, host_len, port, port_len);
}

static bool describe_unlabelled(const struct nbd_options *o, char *buf, size_t len)
{
	struct nbd_options unlabelled = *o;

	unlabelled.label = NULL;
	nbd_options_describe(&unlabelled, buf, len);
	return o->transport != NBD_NOWHERE && o->transport != NBD_SOCKET;
}

bool nbd_options_are_one_export(const struct nbd_options *a, const struct nbd_options *b)
{
	const char *export_a = a->export_name ? a->export_name : "",
		   *export_b = b->export_name ? b->export_name : "";
	char text_a[OPTION_TEXT_BYTES], text_b[OPTION_TEXT_BYTES];

	return describe_unlabelled(a, text_a, sizeof(text_a)) &&
	       describe_unlabelled(b, text_b, sizeof(text_b)) && strcmp(text_a, text_b) == 0 &&
	       strcmp(export_a, export_b) == 0;
}
