/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading how an NBD server is named. The words are those of nbdublk and nbdcopy, where they have
 * them.
 */
#include "cli/nbd-options.h"

#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/size.h"

/* IANA has given it to NBD. */
#define NBD_DEFAULT_PORT "10809"

enum {
	NBD_OPT_TCP = 512,
	NBD_OPT_UNIX,
	NBD_OPT_VSOCK,
	NBD_OPT_FD,
	NBD_OPT_COMMAND,
	NBD_OPT_ACTIVATION,
	NBD_OPT_RESTART,
	NBD_OPT_EXPORT,
	NBD_OPT_TLS,
	NBD_OPT_TLS_CERTIFICATES,
	NBD_OPT_TLS_PSK_FILE,
	NBD_OPT_TLS_USERNAME,
	NBD_OPT_TLS_HOSTNAME,
	NBD_OPT_TLS_VERIFY,
	NBD_OPT_NO_TLS_VERIFY,
	NBD_OPT_OUTAGE_LIMIT,
	NBD_OPT_STALL_TIMEOUT,
	NBD_OPT_FENCE,
	NBD_OPT_FENCE_TIMEOUT,
	NBD_OPT_FENCE_COMMAND,
	NBD_OPT_WAIT,
	NBD_OPT_AUTO_RESIZE,
};

static const struct argp_option nbd_argp_options[] = {
	{ NULL, 0, NULL, 0, "An NBD server, where no URI and no [ COMMAND ] names it:", 2 },
	{ "tcp", NBD_OPT_TCP, "HOST[:PORT]", 0, "A host and a port (default: 10809)", 2 },
	{ "unix", NBD_OPT_UNIX, "SOCKET", 0, "A unix socket", 2 },
	{ "vsock", NBD_OPT_VSOCK, "CID PORT", 0, "A virtual machine's socket", 2 },
	{ "fd", NBD_OPT_FD, "N", 0, "A connected socket that you pass on; when it ends, I/O fails",
	  2 },
	{ "command", NBD_OPT_COMMAND, "COMMAND ARGS...", 0,
	  "Start this server (to the end of the line), its stdin and stdout are the connection",
	  2 },
	{ "systemd-socket-activation", NBD_OPT_ACTIVATION, "COMMAND ARGS...", 0,
	  "The same as [ COMMAND ARGS... ], to the end of the line", 2 },
	{ "restart-command", NBD_OPT_RESTART, NULL, 0, "Start the command again when it dies", 2 },
	{ NULL, 0, NULL, 0, "The export and the way to it:", 3 },
	{ "export", NBD_OPT_EXPORT, "NAME", 0, "The export's name (default: the empty one)", 3 },
	{ "connections", 'C', "N", 0, "Connections, if the server allows several (default: 1)", 3 },
	{ "tls", NBD_OPT_TLS, "MODE", 0,
	  "off, allow or require (default: as the URI says, else off)", 3 },
	{ "tls-certificates", NBD_OPT_TLS_CERTIFICATES, "DIR", 0,
	  "Where ca-cert.pem and the like are", 3 },
	{ "tls-psk-file", NBD_OPT_TLS_PSK_FILE, "FILE", 0,
	  "Pre-shared keys instead of certificates", 3 },
	{ "tls-username", NBD_OPT_TLS_USERNAME, "NAME", 0,
	  "The user name of the pre-shared key (default: $LOGNAME)", 3 },
	{ "tls-hostname", NBD_OPT_TLS_HOSTNAME, "NAME", 0,
	  "The name in the server's certificate (default: the host)", 3 },
	{ "tls-verify", NBD_OPT_TLS_VERIFY, NULL, 0,
	  "Verify the server's certificate (the default)", 3 },
	{ "no-tls-verify", NBD_OPT_NO_TLS_VERIFY, NULL, 0, "Do not verify the server's certificate",
	  3 },
	{ NULL, 0, NULL, 0,
	  "When the server goes away (DURATION: seconds, or with ms, s, m, h):", 4 },
	{ "outage-limit", NBD_OPT_OUTAGE_LIMIT, "DURATION", 0,
	  "How long I/O waits for the server before it fails (default: none, it waits)", 4 },
	{ "stall-timeout", NBD_OPT_STALL_TIMEOUT, "DURATION", 0,
	  "How long a connection may be silent before another is tried (default: 30s)", 4 },
	{ "fence", NBD_OPT_FENCE, "POLICY", 0,
	  "When writes of a lost connection count as over: after a time (time, the default), or "
	  "also when the server has closed it (close)",
	  4 },
	{ "fence-timeout", NBD_OPT_FENCE_TIMEOUT, "DURATION", 0,
	  "How long newer writes to the same blocks wait for those at most; 0: not at all "
	  "(default: 30s)",
	  4 },
	{ "fence-command", NBD_OPT_FENCE_COMMAND, "COMMAND", 0,
	  "Run when they wait: exit status 0 means that the old server can write no more", 4 },
	{ "auto-resize", NBD_OPT_AUTO_RESIZE, NULL, 0,
	  "Grow the device when its export has grown (seen at a reconnect; Linux 6.16)", 4 },
	{ "wait", NBD_OPT_WAIT, "DURATION", 0,
	  "Keep trying to reach the server before attaching (default: 0)", 4 },
	{ 0 },
};

static int nbd_set_string(struct ub_cli_nbd *n, char **field, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return ub_err_errno(n->err, ENOMEM, "%s", value);
	free(*field);
	*field = copy;
	return 0;
}

/* The keeper leaves the working directory. */
static int nbd_set_path(struct ub_cli_nbd *n, char **field, const char *value)
{
	char path[4096], cwd[2048];

	if (*value == '/')
		return nbd_set_string(n, field, value);
	if (!getcwd(cwd, sizeof(cwd)))
		return ub_err_errno(n->err, errno, "the working directory");
	if (snprintf(path, sizeof(path), "%s/%s", cwd, value) >= (int)sizeof(path))
		return ub_err_set(n->err, ENAMETOOLONG, "%s: too long a path", value);
	return nbd_set_string(n, field, path);
}

static void nbd_name(struct ub_cli_nbd *n, enum nbd_transport transport)
{
	n->options.address.transport = transport;
	n->nr_named++;
}

/* --tcp HOST PORT, as nbdublk(1) has it; the next word may as well be another one. */
static bool nbd_is_port(const char *word)
{
	return word && *word &&
	       (strspn(word, "0123456789") == strlen(word) || strcmp(word, "nbd") == 0 ||
		getservbyname(word, "tcp"));
}

/* "HOST", "HOST:PORT", "[ADDRESS]:PORT" as in a URI; an address of IPv6 may stand alone, too. */
static int nbd_take_tcp(struct ub_cli_nbd *n, const char *arg, struct argp_state *state)
{
	const char *next = state->next < state->argc ? state->argv[state->next] : NULL;
	const char *bracket = *arg == '[' ? strchr(arg, ']') : NULL;
	const char *colon = strchr(bracket ? bracket : arg, ':');
	const char *port = NBD_DEFAULT_PORT;
	int ret = nbd_set_string(n, &n->options.address.host, bracket ? arg + 1 : arg);

	nbd_name(n, NBD_TCP);
	if (ret == 0 && bracket)
		n->options.address.host[bracket - arg - 1] = '\0';
	if (colon && (bracket || colon == strrchr(arg, ':'))) {
		port = colon + 1;
		if (ret == 0 && !bracket)
			n->options.address.host[colon - arg] = '\0';
	} else if (nbd_is_port(next)) {
		port = next;
		state->next++;
	}
	if (ret == 0 && (!*port || !*n->options.address.host))
		return ub_err_set(n->err, EINVAL,
				  "--tcp: '%s' is not HOST or HOST:PORT, such as localhost:10809",
				  arg);
	return ret ? ret : nbd_set_string(n, &n->options.address.port, port);
}

static int nbd_take_vsock(struct ub_cli_nbd *n, const char *cid, struct argp_state *state)
{
	const char *port = state->next < state->argc ? state->argv[state->next] : "-";
	uint64_t value;
	int ret = ub_number_parse(cid, "--vsock CID", 0, UINT32_MAX, &value, n->err);

	if (ret)
		return ret;
	if (*port == '-')
		return ub_err_set(n->err, EINVAL,
				  "--vsock takes two words, a CID and a port, such as --vsock 2 "
				  "10809");
	state->next++;
	n->options.address.vsock_cid = (uint32_t)value;
	ret = ub_number_parse(port, "--vsock PORT", 0, UINT32_MAX, &value, n->err);
	n->options.address.vsock_port = (uint32_t)value;
	nbd_name(n, NBD_VSOCK);
	return ret;
}

static int nbd_take_fd(struct ub_cli_nbd *n, const char *arg)
{
	int is_listening = 0, type = 0, ret;
	socklen_t len = sizeof(type);
	uint64_t value;

	ret = ub_number_parse(arg, "--fd", 0, INT32_MAX, &value, n->err);
	if (ret)
		return ret;
	n->fd = (int)value;
	if (getsockopt(n->fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return ub_err_errno(n->err, errno, "--fd %d", n->fd);
	len = sizeof(is_listening);
	if (type != SOCK_STREAM ||
	    getsockopt(n->fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &len) < 0 || is_listening)
		return ub_err_set(n->err, EINVAL, "--fd %d: not a connected stream socket", n->fd);
	nbd_name(n, NBD_SOCKET);
	return 0;
}

/* Everything up to the end of the line is the command's. */
static int nbd_take_rest(struct ub_cli_nbd *n, enum ub_command_kind kind, char *first,
			 struct argp_state *state)
{
	char **words = calloc((size_t)(state->argc - state->next) + 2, sizeof(*words));
	int nr = 0;

	if (!words)
		return ub_err_errno(n->err, ENOMEM, "the command");
	if (strcmp(first, "--") != 0)
		words[nr++] = first;
	while (state->next < state->argc)
		words[nr++] = state->argv[state->next++];
	free(n->command);
	n->command = words;
	n->kind = kind;
	n->nr_named++;
	return nr ? 0 : ub_err_set(n->err, EINVAL, "no command is given");
}

static int nbd_take_tls(struct ub_cli_nbd *n, const char *arg)
{
	static const struct {
		const char *name;
		enum nbd_tls tls;
	} modes[] = { { "off", NBD_TLS_OFF },
		      { "allow", NBD_TLS_ALLOW },
		      { "require", NBD_TLS_REQUIRE } };

	for (unsigned i = 0; i < UB_ARRAY_SIZE(modes); i++) {
		if (strcmp(arg, modes[i].name) == 0) {
			n->options.address.tls = modes[i].tls;
			return 0;
		}
	}
	return ub_err_set(n->err, EINVAL, "--tls: '%s' is none of off, allow and require", arg);
}

static int nbd_take_fence(struct ub_cli_nbd *n, const char *arg)
{
	if (strcmp(arg, "time") == 0)
		n->options.fence_policy = NBD_FENCE_TIME;
	else if (strcmp(arg, "close") == 0)
		n->options.fence_policy = NBD_FENCE_CLOSE;
	else
		return ub_err_set(n->err, EINVAL, "--fence: '%s' is neither time nor close", arg);
	return 0;
}

static int nbd_take_fence_command(struct ub_cli_nbd *n, const char *arg)
{
	if (!*arg)
		return ub_err_set(n->err, EINVAL, "--fence-command: no command is given");
	return nbd_set_string(n, &n->options.fence_command, arg);
}

static int nbd_take_duration(struct ub_cli_nbd *n, int key, const char *arg)
{
	int ret;

	switch (key) {
	case NBD_OPT_OUTAGE_LIMIT:
		if (strcmp(arg, "none") == 0) {
			n->options.outage_limit_ms = NBD_NO_LIMIT;
			return 0;
		}
		return ub_duration_parse(arg, "--outage-limit", &n->options.outage_limit_ms,
					 n->err);
	case NBD_OPT_STALL_TIMEOUT:
		ret = ub_duration_parse(arg, "--stall-timeout", &n->options.stall_timeout_ms,
					n->err);
		if (ret == 0 && n->options.stall_timeout_ms < NBD_MIN_STALL_MS)
			return ub_err_set(n->err, ERANGE,
					  "--stall-timeout: %s is too short: %d ms is the least",
					  arg, NBD_MIN_STALL_MS);
		return ret;
	case NBD_OPT_FENCE_TIMEOUT:
		return ub_duration_parse(arg, "--fence-timeout", &n->options.fence_timeout_ms,
					 n->err);
	default:
		return ub_duration_parse(arg, "--wait", &n->options.wait_ms, n->err);
	}
}

/*
 * A device that has moved there must be able to come back to it, and so must the next server
 * process.
 */
static int nbd_refuse_ready_made(struct ub_cli_nbd *n, int key)
{
	if (!n->is_destination || (key != NBD_OPT_FD && key != NBD_OPT_COMMAND))
		return 0;
	return ub_err_set(n->err, EINVAL,
			  "%s is no destination: its connection comes ready made, and cannot be "
			  "made again; give %s",
			  key == NBD_OPT_FD ? "--fd" : "--command",
			  key == NBD_OPT_FD ? "a URI, --unix or --tcp" :
					      "[ COMMAND ARGS... ] or a URI");
}

static int nbd_take_server(struct ub_cli_nbd *n, int key, char *arg, struct argp_state *state)
{
	if (nbd_refuse_ready_made(n, key) != 0)
		return -EINVAL;
	switch (key) {
	case NBD_OPT_TCP:
		return nbd_take_tcp(n, arg, state);
	case NBD_OPT_UNIX:
		nbd_name(n, NBD_UNIX);
		return nbd_set_path(n, &n->options.address.path, arg);
	case NBD_OPT_VSOCK:
		return nbd_take_vsock(n, arg, state);
	case NBD_OPT_FD:
		return nbd_take_fd(n, arg);
	case NBD_OPT_COMMAND:
		return nbd_take_rest(n, UB_COMMAND_CONNECTED, arg, state);
	default:
		return nbd_take_rest(n, UB_COMMAND_ACTIVATED, arg, state);
	}
}

static int nbd_take_option(struct ub_cli_nbd *n, int key, char *arg)
{
	uint64_t value = 0;
	int ret;

	switch (key) {
	case NBD_OPT_RESTART:
		n->restart_command = true;
		return 0;
	case NBD_OPT_AUTO_RESIZE:
		n->options.auto_resize = true;
		return 0;
	case NBD_OPT_EXPORT:
		return nbd_set_string(n, &n->options.address.export_name, arg);
	case 'C':
		ret = ub_number_parse(arg, "--connections", 1, NBD_MAX_CONNECTIONS, &value, n->err);
		n->options.nr_connections = (unsigned)value;
		return ret;
	case NBD_OPT_TLS:
		return nbd_take_tls(n, arg);
	case NBD_OPT_FENCE:
		return nbd_take_fence(n, arg);
	case NBD_OPT_FENCE_COMMAND:
		return nbd_take_fence_command(n, arg);
	case NBD_OPT_TLS_CERTIFICATES:
		return nbd_set_path(n, &n->options.address.tls_certificates, arg);
	case NBD_OPT_TLS_PSK_FILE:
		return nbd_set_path(n, &n->options.address.tls_psk_file, arg);
	case NBD_OPT_TLS_USERNAME:
		return nbd_set_string(n, &n->options.address.tls_username, arg);
	case NBD_OPT_TLS_HOSTNAME:
		return nbd_set_string(n, &n->options.address.tls_hostname, arg);
	case NBD_OPT_TLS_VERIFY:
	case NBD_OPT_NO_TLS_VERIFY:
		n->options.address.tls_verify = key == NBD_OPT_TLS_VERIFY;
		return 0;
	default:
		return nbd_take_duration(n, key, arg);
	}
}

static const char *nbd_option_name(int key)
{
	for (unsigned i = 0; i < UB_ARRAY_SIZE(nbd_argp_options); i++) {
		if (nbd_argp_options[i].key == key)
			return nbd_argp_options[i].name;
	}
	return "an option";
}

static error_t nbd_parse(int key, char *arg, struct argp_state *state)
{
	struct ub_cli_nbd *n = state->input;

	if (key != 'C' && (key < NBD_OPT_TCP || key > NBD_OPT_AUTO_RESIZE))
		return ARGP_ERR_UNKNOWN;
	if (!n->option)
		n->option = nbd_option_name(key);
	if (key >= NBD_OPT_TCP && key <= NBD_OPT_ACTIVATION)
		return -nbd_take_server(n, key, arg, state);
	return -nbd_take_option(n, key, arg);
}

const struct argp ub_cli_nbd_argp = { .options = nbd_argp_options, .parser = nbd_parse };

int ub_cli_nbd_take_command(struct ub_cli_nbd *n, int *argc, char **argv)
{
	int first = 1, last, rest;

	while (first < *argc && strcmp(argv[first], "[") != 0)
		first++;
	if (first >= *argc)
		return 0;
	for (last = *argc - 1; last > first && strcmp(argv[last], "]") != 0; last--)
		;
	if (last <= first + 1)
		return ub_err_set(n->err, EINVAL,
				  last == first ? "'[' without a ']' behind the command" :
						  "there is no command between '[' and ']'");
	n->command = calloc((size_t)(last - first), sizeof(*n->command));
	if (!n->command)
		return ub_err_errno(n->err, ENOMEM, "the command");
	memcpy(n->command, argv + first + 1, (size_t)(last - first - 1) * sizeof(*argv));
	n->kind = UB_COMMAND_ACTIVATED;
	n->nr_named++;
	rest = *argc - last - 1;
	/* the NULL, too */
	memmove(argv + first, argv + last + 1, (size_t)(rest + 1) * sizeof(*argv));
	*argc = first + rest;
	return 0;
}

int ub_cli_nbd_take_uri(struct ub_cli_nbd *n, const char *uri)
{
	int ret = nbd_set_string(n, &n->options.address.uri, uri);

	nbd_name(n, NBD_URI);
	/* A scheme is the same in capitals (RFC 3986), and libnbd takes it in small letters. */
	for (char *c = n->options.address.uri; ret == 0 && *c && *c != ':'; c++)
		*c = (char)tolower((unsigned char)*c);
	return ret;
}

int ub_cli_nbd_check(struct ub_cli_nbd *n)
{
	char label[80];

	if (n->option && !n->nr_named)
		return ub_err_set(n->err, EINVAL,
				  "--%s needs an NBD server, such as nbd://HOST/EXPORT: it has no "
				  "meaning for memory",
				  n->option);
	if (n->restart_command && !n->command)
		return ub_err_set(n->err, EINVAL,
				  "--restart-command: there is no command to be started");
	if (n->command) {
		n->options.address.transport =
			n->kind == UB_COMMAND_ACTIVATED ? NBD_UNIX : NBD_SOCKET;
		n->options.restarts = n->kind == UB_COMMAND_CONNECTED && n->restart_command;
		snprintf(label, sizeof(label), "[ %.70s ]", n->command[0]);
		if (nbd_set_string(n, &n->options.address.label, label) != 0)
			return -ENOMEM;
	}
	return n->nr_named ? nbd_options_check(&n->options, n->err) : 0;
}

void ub_cli_nbd_destroy(struct ub_cli_nbd *n)
{
	nbd_options_destroy(&n->options);
	free(n->command);
	n->command = NULL;
}
