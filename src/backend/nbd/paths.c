/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files that an NBD export's name names. Control plane. Specification: the NBD URI, doc/uri.md.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/nbd/options.h"

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

unsigned nbd_options_paths(const struct nbd_options *o, char *paths[], unsigned max)
{
	struct paths p = { .list = paths, .max = max };
	const char *home = getenv("HOME");
	char dir[4096];

	if (o->uri)
		paths_add_uri(&p, o->uri);
	paths_add(&p, o->path);
	paths_add(&p, o->tls_certificates);
	paths_add(&p, o->tls_psk_file);
	if (home && snprintf(dir, sizeof(dir), "%s/.pki", home) < (int)sizeof(dir))
		paths_add(&p, dir);
	if (home && snprintf(dir, sizeof(dir), "%s/.config/pki", home) < (int)sizeof(dir))
		paths_add(&p, dir);
	return p.nr;
}
