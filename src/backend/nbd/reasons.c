/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libnbd's errors of a connection, said once and with the remedy. Any thread; knows no handle. */
#include "backend/nbd/session.h"

#include <stdio.h>
#include <string.h>

static const char *reason_behind(const char *text, const char *what)
{
	const char *found = strstr(text, what);

	return found ? found + strlen(what) : NULL;
}

/* "connect: HOST:PORT: could not connect to remote host: WHY" */
static bool reason_tcp(const char *text, char *buf, size_t len)
{
	static const char end[] = ": could not connect to remote host";
	const char *stop = strstr(text, end), *why, *port, *host = text;

	if (!stop)
		return false;
	while ((why = reason_behind(host, "connect: ")) && why < stop)
		host = why;
	for (port = stop; port > host && port[-1] != ':'; port--)
		;
	why = stop + strlen(end);
	why += strncmp(why, ": ", 2) == 0 ? 2 : 0;
	if (port == host || !*why)
		return false;
	if (strcmp(why, "Connection refused") == 0)
		snprintf(buf, len, "%s: no server listens on %.*s port %.*s", why,
			 (int)(port - 1 - host), host, (int)(stop - port), port);
	else
		snprintf(buf, len, "%.*s: %s", (int)(stop - host), host, why);
	return true;
}

/* "connect: WHY": of a unix socket, which is named by whoever says it. */
static bool reason_unix(const char *text, char *buf, size_t len)
{
	const char *why = strncmp(text, "connect: ", 9) == 0 ? text + 9 : NULL;

	if (!why)
		return false;
	if (strcmp(why, "Connection refused") == 0)
		snprintf(buf, len, "%s: no server listens on that socket", why);
	else if (strcmp(why, "No such file or directory") == 0)
		snprintf(buf, len, "%s: there is no such socket", why);
	else
		snprintf(buf, len, "%s", why);
	return true;
}

/* "getaddrinfo: hostname "HOST" port "PORT": WHY" */
static bool reason_name(const char *text, char *buf, size_t len)
{
	const char *host = reason_behind(text, "getaddrinfo: hostname \""), *why;

	if (!host)
		return false;
	why = reason_behind(host, "\": ");
	if (!why)
		return false;
	snprintf(buf, len, "the name '%.*s' cannot be resolved: %s", (int)strcspn(host, "\""), host,
		 why);
	return true;
}

/* "handshake: server has no export named 'NAME': No such file or directory" */
static bool reason_export(const char *text, char *buf, size_t len)
{
	const char *name = reason_behind(text, "server has no export named '"), *end;

	if (!name)
		return false;
	end = strstr(name, "': ");
	if (*name == '\'')
		snprintf(buf, len,
			 "no export is named, and the server has no default one: 'nbdinfo --list' "
			 "shows those that it has");
	else
		snprintf(buf, len,
			 "the server has no export named '%.*s': 'nbdinfo --list' shows those that "
			 "it has",
			 (int)(end ? (size_t)(end - name) : strcspn(name, "'")), name);
	return true;
}

static bool reason_tls(const char *text, char *buf, size_t len)
{
	if (!strstr(text, "server refused TLS"))
		return false;
	snprintf(buf, len,
		 "the server does not offer TLS, and the connection requires it (nbds:, --tls): "
		 "without TLS it is nbd:, or --tls=off");
	return true;
}

const char *nbd_reason_in_words(const char *text, char *buf, size_t len)
{
	if (reason_tcp(text, buf, len) || reason_unix(text, buf, len) ||
	    reason_name(text, buf, len) || reason_export(text, buf, len) ||
	    reason_tls(text, buf, len))
		return buf;
	return text;
}
