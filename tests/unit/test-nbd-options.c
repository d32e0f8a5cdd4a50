/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How an NBD export is named: the command line, JSON there and back, what is refused, files, words.
 */
#include "unit.h"

#include <errno.h>
#include <sys/socket.h>

#include "backend/nbd/options.h"
#include "base/cleanup.h"
#include "cli/nbd-options.h"

/* ---- JSON ---------------------------------------------------------------- */

static void assert_reads_back(const struct nbd_options *o)
{
	struct nbd_options again;
	struct ub_err err = { 0 };
	char *json = nbd_options_to_json(o), *twice;

	assert_non_null(json);
	if (nbd_options_from_json(&again, json, &err) != 0)
		fail_msg("%s: %s", json, err.text);
	twice = nbd_options_to_json(&again);
	assert_string_equal(json, twice);
	assert_int_equal(again.address.transport, o->address.transport);
	assert_int_equal(again.address.tls, o->address.tls);
	assert_true(again.outage_limit_ms == o->outage_limit_ms);
	assert_int_equal(again.nr_connections, o->nr_connections);
	free(json);
	free(twice);
	nbd_options_destroy(&again);
}

static void defaults_are_an_empty_object(void **state)
{
	struct nbd_options o;
	char *json;

	(void)state;
	nbd_options_init(&o);
	json = nbd_options_to_json(&o);
	assert_string_equal(json, "{}");
	free(json);
	assert_reads_back(&o);
	assert_true(o.outage_limit_ms == NBD_NO_LIMIT);
	assert_true(o.address.tls_verify);
	assert_int_equal(o.fence_policy, NBD_FENCE_TIME);
	assert_int_equal(o.fence_timeout_ms, 30000);
	assert_null(o.fence_command);
}

static void every_member_reads_back(void **state)
{
	struct nbd_options o, again;
	struct ub_err err;
	char *json;

	(void)state;
	nbd_options_init(&o);
	o.address.transport = NBD_VSOCK;
	o.address.uri = strdup("nbd://host/\"name\"\\ \xc3\xa9");
	o.address.host = strdup("::1");
	o.address.port = strdup("10809");
	o.address.path = strdup("/run/a socket");
	o.address.vsock_cid = UINT32_MAX;
	o.address.vsock_port = 10809;
	o.address.export_name = strdup("");
	o.address.tls = NBD_TLS_REQUIRE;
	o.address.tls_verify = false;
	o.address.tls_certificates = strdup("/etc/pki");
	o.address.tls_psk_file = strdup("/etc/keys");
	o.address.tls_username = strdup("me");
	o.address.label = strdup("[ nbdkit ]");
	o.nr_connections = NBD_MAX_CONNECTIONS;
	o.outage_limit_ms = 0;
	o.stall_timeout_ms = 100;
	o.fence_policy = NBD_FENCE_CLOSE;
	o.fence_timeout_ms = 0;
	o.fence_command = strdup("stonith \"$UBLK_BRIDGE_HOST\"\n");
	o.wait_ms = 8640000000ULL;
	o.restarts = true;
	assert_reads_back(&o);
	json = nbd_options_to_json(&o);
	assert_int_equal(nbd_options_from_json(&again, json, &err), 0);
	assert_string_equal(again.address.uri, o.address.uri);
	assert_string_equal(again.address.host, o.address.host);
	assert_string_equal(again.address.path, o.address.path);
	assert_string_equal(again.address.export_name, "");
	assert_string_equal(again.address.tls_certificates, o.address.tls_certificates);
	assert_string_equal(again.address.tls_psk_file, o.address.tls_psk_file);
	assert_string_equal(again.address.tls_username, "me");
	assert_string_equal(again.address.label, o.address.label);
	assert_int_equal(again.address.vsock_cid, UINT32_MAX);
	assert_false(again.address.tls_verify);
	assert_true(again.restarts);
	assert_int_equal(again.stall_timeout_ms, 100);
	assert_int_equal(again.fence_policy, NBD_FENCE_CLOSE);
	assert_int_equal(again.fence_timeout_ms, 0);
	assert_string_equal(again.fence_command, o.fence_command);
	assert_true(again.wait_ms == o.wait_ms);
	free(json);
	nbd_options_destroy(&o);
	nbd_options_destroy(&again);
}

static void what_is_not_understood_is_refused(void **state)
{
	static const struct {
		const char *json, *says;
	} bad[] = {
		{ "", "no JSON object" },
		{ "[]", "something else" },
		{ "{", "no JSON object" },
		{ "{\"unknown\":1}", "'unknown'" },
		{ "{\"transport\":\"carrier\"}", "'transport'" },
		{ "{\"transport\":1}", "'transport'" },
		{ "{\"tls\":\"perhaps\"}", "'tls'" },
		{ "{\"tls-verify\":1}", "'tls-verify'" },
		{ "{\"fence\":\"none\"}", "'fence'" },
		{ "{\"fence\":1}", "'fence'" },
		{ "{\"fence-command\":true}", "'fence-command'" },
		{ "{\"uri\":null}", "'uri'" },
		{ "{\"uri\":5}", "'uri'" },
		{ "{\"connections\":-1}", "'connections'" },
		{ "{\"connections\":4294967296}", "'connections'" },
		{ "{\"connections\":\"1\"}", "'connections'" },
		{ "{\"wait-ms\":1.5}", "'wait-ms'" },
		{ "{\"wait-ms\":-2}", "'wait-ms'" },
		{ "{\"port\":\"1\",\"port\":\"2\"}", "duplicate" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct ub_err err = { 0 };
		struct nbd_options o;

		if (nbd_options_from_json(&o, bad[i].json, &err) != -EINVAL)
			fail_msg("'%s' is understood", bad[i].json);
		unit_assert_says(err.text, bad[i].says);
		nbd_options_destroy(&o);
	}
}

/*
 * What older programs read of state.json has no member that they would refuse, and together it is
 * everything.
 */
static void other_versions_read_what_they_know(void **state)
{
	struct nbd_options o, again;
	struct ub_err err = { 0 };
	char *needed, *more, *all, *twice;

	(void)state;
	nbd_options_init(&o);
	assert_int_equal(nbd_options_to_two_json(&o, &needed, &more), 0);
	assert_string_equal(needed, "{}");
	assert_string_equal(more, "{}");
	free(needed);
	free(more);
	o.address.transport = NBD_TCP;
	o.address.host = strdup("host");
	o.address.port = strdup("10809");
	o.fence_policy = NBD_FENCE_CLOSE;
	o.fence_timeout_ms = 5000;
	o.fence_command = strdup("true");
	assert_int_equal(nbd_options_to_two_json(&o, &needed, &more), 0);
	assert_string_equal(needed, "{\"host\":\"host\",\"port\":\"10809\",\"transport\":\"tcp\","
				    "\"fence-timeout-ms\":5000}");
	assert_string_equal(more, "{\"fence-command\":\"true\",\"fence\":\"close\"}");
	assert_int_equal(nbd_options_from_json(&again, needed, &err), 0);
	assert_int_equal(again.fence_policy, NBD_FENCE_TIME);
	assert_null(again.fence_command);
	assert_int_equal(nbd_options_add_json(&again, more, &err), 0);
	all = nbd_options_to_json(&o);
	twice = nbd_options_to_json(&again);
	assert_string_equal(all, twice);
	/* A later version's are left out, and what is known must be right all the same. */
	assert_int_equal(nbd_options_add_json(&again, "{\"colour\":[1],\"fence\":\"time\"}", &err),
			 0);
	assert_int_equal(again.fence_policy, NBD_FENCE_TIME);
	assert_int_equal(nbd_options_add_json(&again, "{\"fence\":\"colour\"}", &err), -EINVAL);
	unit_assert_says(err.text, "'fence'");
	free(all);
	free(twice);
	free(needed);
	free(more);
	nbd_options_destroy(&o);
	nbd_options_destroy(&again);
}

/* Whatever bytes come: understood and said again the same, or refused with words. */
static void mutated_json_is_refused_or_understood(void **state)
{
	static const char whole[] =
		"{\"transport\":\"uri\",\"uri\":\"nbd://h\\u00e9/e\",\"tls\":\"require\","
		"\"connections\":4,\"outage-limit-ms\":-1,\"tls-verify\":false,\"wait-ms\":50,"
		"\"fence\":\"close\",\"fence-command\":\"true\"}";
	uint64_t seed = 11;
	unsigned nr_understood = 0;

	(void)state;
	for (unsigned round = 0; round < 20000; round++) {
		char text[sizeof(whole)];
		struct nbd_options o;
		struct ub_err err = { 0 };

		memcpy(text, whole, sizeof(whole));
		for (unsigned i = 0; i < 1 + round % 3; i++)
			text[unit_random(&seed) % (sizeof(text) - 1)] = (char)unit_random(&seed);
		if (nbd_options_from_json(&o, text, &err) == 0) {
			nr_understood++;
			assert_reads_back(&o);
		} else {
			assert_int_equal(err.code, EINVAL);
			assert_true(err.text[0] != '\0');
		}
		nbd_options_destroy(&o);
	}
	assert_true(nr_understood > 100);
}

/* ---- the command line ---------------------------------------------------- */

/*
 * Reads these words as a verb's child does; the result is ub_cli_nbd_check()'s, or the parser's
 * error.
 */
static int parse(struct ub_cli_nbd *n, struct ub_err *err, const char *const words[])
{
	char *argv[24] = { (char *)(uintptr_t) "ublk-bridge" };
	int argc = 1, ret;

	memset(n, 0, sizeof(*n));
	memset(err, 0, sizeof(*err));
	nbd_options_init(&n->options);
	n->fd = -1;
	n->err = err;
	while (*words)
		argv[argc++] = (char *)(uintptr_t)*words++;
	ret = ub_cli_nbd_take_command(n, &argc, argv);
	if (ret == 0)
		ret = -argp_parse(&ub_cli_nbd_argp, argc, argv,
				  ARGP_NO_EXIT | ARGP_NO_ERRS | ARGP_IN_ORDER, NULL, n);
	return ret ? ret : ub_cli_nbd_check(n);
}

#define WORDS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void assert_refused(const char *says, const char *const words[])
{
	struct ub_cli_nbd n;
	struct ub_err err;

	if (parse(&n, &err, words) >= 0)
		fail_msg("%s … is taken", words[0]);
	unit_assert_says(err.text, says);
	ub_cli_nbd_destroy(&n);
}

static void assert_taken(struct ub_cli_nbd *n, const char *const words[])
{
	struct ub_err err;

	if (parse(n, &err, words) != 0)
		fail_msg("%s …: %s", words[0], err.text);
}

static void servers_are_named_in_each_way(void **state)
{
	struct ub_cli_nbd n;
	char buf[80];

	(void)state;
	assert_taken(&n, WORDS("--tcp", "host", "10809", "--export", "e", "-C", "4"));
	assert_int_equal(n.options.address.transport, NBD_TCP);
	assert_int_equal(n.options.nr_connections, 4);
	assert_string_equal(nbd_options_describe(&n.options, buf, sizeof(buf)),
			    "nbd://host:10809/e");
	nbd_options_destroy(&n.options);
	assert_taken(&n, WORDS("--tcp", "::1", "nbd"));
	assert_string_equal(nbd_options_describe(&n.options, buf, sizeof(buf)), "nbd://[::1]:nbd/");
	nbd_options_destroy(&n.options);
	assert_taken(&n, WORDS("--unix", "/run/s", "--outage-limit", "1.5", "--stall-timeout",
			       "200ms", "--fence-timeout", "0", "--wait", "2m"));
	assert_string_equal(nbd_options_describe(&n.options, buf, sizeof(buf)),
			    "nbd+unix:///?socket=/run/s");
	assert_int_equal(n.options.outage_limit_ms, 1500);
	assert_int_equal(n.options.stall_timeout_ms, 200);
	assert_int_equal(n.options.fence_timeout_ms, 0);
	assert_int_equal(n.options.wait_ms, 120000);
	assert_int_equal(n.options.fence_policy, NBD_FENCE_TIME);
	nbd_options_destroy(&n.options);
	assert_taken(&n, WORDS("--unix", "/run/s", "--fence=close", "--fence-command", "stop it"));
	assert_int_equal(n.options.fence_policy, NBD_FENCE_CLOSE);
	assert_int_equal(n.options.fence_timeout_ms, NBD_DEFAULT_FENCE_MS);
	assert_string_equal(n.options.fence_command, "stop it");
	nbd_options_destroy(&n.options);
	assert_taken(&n, WORDS("--unix", "/run/s", "--fence", "close", "--fence=time"));
	assert_int_equal(n.options.fence_policy, NBD_FENCE_TIME);
	nbd_options_destroy(&n.options);
	assert_taken(&n, WORDS("--vsock", "2", "10809"));
	assert_string_equal(nbd_options_describe(&n.options, buf, sizeof(buf)),
			    "nbd+vsock://2:10809/");
	nbd_options_destroy(&n.options);
	assert_taken(&n, WORDS("--restart-command", "--command", "nbdkit", "-s", "memory", "1M"));
	assert_int_equal(n.kind, UB_COMMAND_CONNECTED);
	assert_true(n.options.restarts);
	assert_string_equal(n.command[3], "1M");
	assert_string_equal(nbd_options_describe(&n.options, buf, sizeof(buf)), "[ nbdkit ]");
	ub_cli_nbd_destroy(&n);
}

/* As nbdublk has it, as a URI has it, and with the port that NBD has of IANA. */
static void a_host_is_named_with_or_without_a_port(void **state)
{
	static const struct {
		const char *words[4], *want;
	} cases[] = {
		{ { "--tcp", "host" }, "nbd://host:10809/" },
		{ { "--tcp", "host:10810" }, "nbd://host:10810/" },
		{ { "--tcp=host", "10810" }, "nbd://host:10810/" },
		{ { "--tcp", "[::1]" }, "nbd://[::1]:10809/" },
		{ { "--tcp", "[::1]:10810" }, "nbd://[::1]:10810/" },
		{ { "--tcp", "[::1]", "10810" }, "nbd://[::1]:10810/" },
		{ { "--tcp", "::1" }, "nbd://[::1]:10809/" },
		{ { "--tcp", "host", "--wait=1" }, "nbd://host:10809/" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ub_cli_nbd n;
		char buf[80];

		assert_taken(&n, cases[i].words);
		assert_string_equal(nbd_options_describe(&n.options, buf, sizeof(buf)),
				    cases[i].want);
		ub_cli_nbd_destroy(&n);
	}
}

static void a_scheme_has_no_case(void **state)
{
	struct ub_err err = { 0 };
	struct ub_cli_nbd n = { .fd = -1, .err = &err };

	(void)state;
	nbd_options_init(&n.options);
	assert_int_equal(ub_cli_nbd_take_uri(&n, "NBD+Unix:///Export?socket=/Run/S"), 0);
	assert_string_equal(n.options.address.uri, "nbd+unix:///Export?socket=/Run/S");
	ub_cli_nbd_destroy(&n);
}

static void no_password_is_described(void **state)
{
	static const struct {
		const char *uri, *want;
	} cases[] = {
		{ "nbds://alice@host/e", "nbds://alice@host/e" },
		{ "nbds://alice:secret@host/e", "nbds://alice:***@host/e" },
		{ "nbd+unix://alice:s@e:t@/e?socket=/run/s@x",
		  "nbd+unix://alice:***@/e?socket=/run/s@x" },
		{ "nbd://[::1]:10809/a:b@c", "nbd://[::1]:10809/a:b@c" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char uri[80], buf[80];
		struct nbd_options o = { .address.transport = NBD_URI, .address.uri = uri };

		snprintf(uri, sizeof(uri), "%s", cases[i].uri);
		assert_string_equal(nbd_options_describe(&o, buf, sizeof(buf)), cases[i].want);
	}
}

static void one_export_is_known_in_the_same_words(void **state)
{
	char text[] = "nbd+unix:///?socket=/run/s", socket[] = "/run/s", another[] = "/run/t",
	     label[] = "[ nbdkit ]", export[] = "e";
	struct nbd_options uri = { .address.transport = NBD_URI, .address.uri = text };
	struct nbd_options path = { .address.transport = NBD_UNIX, .address.path = socket },
			   other = path;

	(void)state;
	assert_true(nbd_options_are_one_export(&uri, &uri));
	assert_true(nbd_options_are_one_export(&uri, &path));
	other.address.label = label;
	other.nr_connections = 4;
	assert_true(nbd_options_are_one_export(&path, &other));
	other.address.path = another;
	assert_false(nbd_options_are_one_export(&path, &other));
	other = uri;
	other.address.export_name = export;
	assert_false(nbd_options_are_one_export(&uri, &other));
	other = (struct nbd_options){ .address.transport = NBD_SOCKET };
	assert_false(nbd_options_are_one_export(&other, &other));
}

static void a_command_in_brackets_is_taken_out(void **state)
{
	struct ub_cli_nbd n;

	(void)state;
	assert_taken(&n,
		     WORDS("--export", "e", "[", "nbdkit", "[", "--tcp", "]", "]", "--wait", "1"));
	assert_int_equal(n.kind, UB_COMMAND_ACTIVATED);
	assert_int_equal(n.options.address.transport, NBD_UNIX);
	assert_string_equal(n.command[0], "nbdkit");
	assert_string_equal(n.command[3], "]");
	assert_null(n.command[4]);
	assert_int_equal(n.options.wait_ms, 1000);
	ub_cli_nbd_destroy(&n);
	assert_refused("without a ']'", WORDS("[", "nbdkit"));
	assert_refused("no command between", WORDS("[", "]"));
}

/* Of a URI alone. says: what the refusal has; NULL: there is none. */
static int check_uri_word(const char *uri, const char *says)
{
	struct nbd_options o;
	struct ub_err err = { 0 };
	int ret;

	nbd_options_init(&o);
	o.address.transport = NBD_URI;
	o.address.uri = strdup(uri);
	ret = nbd_options_check(&o, &err);
	if (says)
		unit_assert_says(err.text, says);
	else if (ret)
		fail_msg("%s: %s", uri, err.text);
	nbd_options_destroy(&o);
	return ret;
}

static void bad_options_are_refused_with_a_reason(void **state)
{
	(void)state;
	assert_refused("not HOST or HOST:PORT", WORDS("--tcp", "host:"));
	assert_refused("not HOST or HOST:PORT", WORDS("--tcp", ":10809"));
	assert_refused("not HOST or HOST:PORT", WORDS("--tcp", "[]:10809"));
	assert_refused("99999 is no port", WORDS("--tcp", "host:99999"));
	assert_refused("two words", WORDS("--vsock", "1", "--export"));
	assert_refused("--vsock CID", WORDS("--vsock", "x", "1"));
	assert_refused("--fd 1000", WORDS("--fd", "1000"));
	assert_refused("none of off, allow and require", WORDS("--tls", "maybe"));
	assert_refused("from 1 to 64", WORDS("-C", "0"));
	assert_refused("100 ms is the least", WORDS("--stall-timeout", "99ms"));
	assert_refused("not a duration", WORDS("--wait", "soon"));
	assert_refused("neither time nor close", WORDS("--unix", "/s", "--fence", "never"));
	assert_refused("no command is given", WORDS("--unix", "/s", "--fence-command", ""));
	assert_refused("--fence needs an NBD server, such as", WORDS("--fence", "time"));
	assert_refused("--export needs an NBD server", WORDS("--export", "e", "-C", "2"));
	assert_refused("--connections needs an NBD server", WORDS("-C", "2"));
	assert_refused("no command to be started", WORDS("--restart-command", "--unix", "/s"));
	assert_refused("no command is given", WORDS("--command", "--"));
	assert_refused("cannot verify", WORDS("--unix", "/s", "--tls", "allow"));
	assert_refused("configured and not used", WORDS("--unix", "/s", "--tls-username", "me"));
	assert_refused("configured and not used", WORDS("--unix", "/s", "--no-tls-verify"));
	assert_refused("No such file",
		       WORDS("--unix", "/s", "--tls", "require", "--tls-psk-file", "/none"));
	assert_refused("is a directory",
		       WORDS("--unix", "/s", "--tls", "require", "--tls-psk-file", "/"));
	assert_refused("no directory", WORDS("--unix", "/s", "--tls", "require",
					     "--tls-certificates", "/dev/null"));
}

static void a_port_goes_from_1_to_65535(void **state)
{
	static const char *const wrong[] = { "0", "65536", "76345", "99999", "4294978105" };
	struct ub_cli_nbd n;
	char uri[64];

	(void)state;
	for (size_t i = 0; i < UB_ARRAY_SIZE(wrong); i++) {
		assert_refused("from 1 to 65535", WORDS("--tcp", "::1", wrong[i]));
		snprintf(uri, sizeof(uri), "nbd://[::1]:%s/e", wrong[i]);
		assert_int_equal(check_uri_word(uri, "from 1 to 65535"), -EINVAL);
		snprintf(uri, sizeof(uri), "nbds://host:%s", wrong[i]);
		assert_int_equal(check_uri_word(uri, "from 1 to 65535"), -EINVAL);
	}
	assert_taken(&n, WORDS("--tcp", "host", "65535"));
	ub_cli_nbd_destroy(&n);
	assert_taken(&n, WORDS("--tcp", "host", "nbd")); /* services(5) */
	ub_cli_nbd_destroy(&n);
	assert_taken(&n, WORDS("--tcp", "[::1]", "1"));
	assert_string_equal(n.options.address.host, "::1");
	ub_cli_nbd_destroy(&n);
}

static void an_ipv6_address_is_told_how_it_is_written(void **state)
{
	struct ub_cli_nbd n;

	(void)state;
	assert_int_equal(check_uri_word("nbd://::1:10809/e", "has brackets"), -EINVAL);
	assert_int_equal(check_uri_word("nbd://fe80::1/", "has brackets"), -EINVAL);
	assert_int_equal(check_uri_word("nbd://[fe80::1]/", "name the interface"), -EINVAL);
	assert_refused("fe80::1%eth0", WORDS("--tcp", "fe80::1", "10809"));
	assert_int_equal(check_uri_word("nbd://[fe80::1%25eth0]:1/", NULL), 0);
	assert_int_equal(check_uri_word("nbd://user:word@host:1/a:b:c", NULL), 0);
	assert_taken(&n, WORDS("--tcp", "fe80::1%eth0", "10809"));
	ub_cli_nbd_destroy(&n);
	assert_taken(&n, WORDS("--tcp", "feed.example", "10809"));
	ub_cli_nbd_destroy(&n);
}

/* libnbd compares a certificate with a name, and without one with nothing. */
static void what_cannot_be_verified_is_refused(void **state)
{
	struct ub_cli_nbd n;
	char word[16];
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	snprintf(word, sizeof(word), "%d", fds[0]);
	assert_refused("cannot be verified", WORDS("--unix", "/s", "--tls", "require"));
	assert_refused("cannot be verified", WORDS("--vsock", "2", "10809", "--tls", "require",
						   "--tls-certificates", "/"));
	assert_refused("cannot be verified", WORDS("--fd", word, "--tls", "require"));
	assert_refused("cannot be verified", WORDS("--tls", "require", "--command", "nbdkit"));
	assert_refused("cannot be verified", WORDS("--tls", "require", "[", "nbdkit", "]"));
	assert_int_equal(check_uri_word("nbds+unix:///?socket=/s", "cannot be verified"), -EINVAL);
	assert_int_equal(check_uri_word("nbds+vsock://2/", "cannot be verified"), -EINVAL);
	assert_int_equal(check_uri_word("nbds+unix:///?socket=/s&tls-psk-file=/k", NULL), 0);
	assert_int_equal(check_uri_word("nbds+unix:///?socket=/s&tls-hostname=h", NULL), 0);
	assert_int_equal(check_uri_word("nbds://host/", NULL), 0);
	/* a name that only looks like a parameter */
	assert_int_equal(check_uri_word("nbds+unix:///tls-psk-file=x?socket=/s",
					"cannot be verified"),
			 -EINVAL);
	assert_int_equal(check_uri_word("nbds+unix:///?socket=/s&not-tls-psk-file=/k",
					"cannot be verified"),
			 -EINVAL);
	assert_int_equal(check_uri_word("nbds+unix:///?socket=/s&tls-verify-peer=falsehood",
					"cannot be verified"),
			 -EINVAL);
	assert_taken(&n, WORDS("--unix", "/s", "--tls", "require", "--no-tls-verify"));
	ub_cli_nbd_destroy(&n);
	assert_taken(&n, WORDS("--unix", "/s", "--tls", "require", "--tls-psk-file", "/dev/null"));
	ub_cli_nbd_destroy(&n);
	assert_taken(&n, WORDS("--unix", "/s", "--tls", "require", "--tls-hostname", "name"));
	assert_string_equal(n.options.address.tls_hostname, "name");
	ub_cli_nbd_destroy(&n);
	close(fds[0]);
	close(fds[1]);
}

static void a_descriptor_must_be_a_connected_stream(void **state)
{
	struct ub_cli_nbd n;
	int fds[2], datagrams[2];
	char word[16];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, datagrams), 0);
	snprintf(word, sizeof(word), "%d", fds[0]);
	assert_taken(&n, WORDS("--fd", word));
	assert_int_equal(n.fd, fds[0]);
	assert_int_equal(n.options.address.transport, NBD_SOCKET);
	nbd_options_destroy(&n.options);
	snprintf(word, sizeof(word), "%d", datagrams[0]);
	assert_refused("not a connected stream", WORDS("--fd", word));
	for (unsigned i = 0; i < 2; i++) {
		close(fds[i]);
		close(datagrams[i]);
	}
}

/* ---- URIs and files ------------------------------------------------------ */

static int check_uri(const char *uri, const char *export, enum nbd_tls tls, struct ub_err *err)
{
	struct nbd_options o;
	int ret;

	nbd_options_init(&o);
	o.address.transport = NBD_URI;
	o.address.uri = strdup(uri);
	o.address.export_name = export ? strdup(export) : NULL;
	o.address.tls = tls;
	memset(err, 0, sizeof(*err));
	ret = nbd_options_check(&o, err);
	nbd_options_destroy(&o);
	return ret;
}

static void uris_are_checked(void **state)
{
	struct ub_err err;

	(void)state;
	assert_int_equal(check_uri("nbd://host", NULL, NBD_TLS_UNSET, &err), 0);
	assert_int_equal(check_uri("nbds://host", NULL, NBD_TLS_UNSET, &err), 0);
	assert_int_equal(check_uri("nbd+unix:///e?socket=/s", NULL, NBD_TLS_UNSET, &err), 0);
	assert_int_equal(check_uri("nbds+vsock://2/?tls-verify-peer=false", NULL, NBD_TLS_REQUIRE,
				   &err),
			 0);
	assert_int_equal(check_uri("http://host", NULL, NBD_TLS_UNSET, &err), -EINVAL);
	unit_assert_says(err.text, "not an NBD URI");
	assert_int_equal(check_uri("nbd+unix:///e", NULL, NBD_TLS_UNSET, &err), -EINVAL);
	unit_assert_says(err.text, "no socket is named");
	assert_int_equal(check_uri("nbd://host", "e", NBD_TLS_UNSET, &err), -EINVAL);
	unit_assert_says(err.text, "--export");
	assert_int_equal(check_uri("nbds://host", NULL, NBD_TLS_OFF, &err), -EINVAL);
	unit_assert_says(err.text, "--tls off");
}

static void the_files_that_are_named_are_found(void **state)
{
	struct nbd_options o;
	char *paths[16], *two[2];
	unsigned nr;

	(void)state;
	setenv("HOME", "/home/me", 1);
	nbd_options_init(&o);
	o.address.uri = strdup("nbds+unix:///e?socket=/run/a%20b&tls-certificates=/c&tls-psk-file=/"
			       "k%2&other=/x#socket=/y");
	o.address.path = strdup("/p");
	o.address.tls_certificates = strdup("/d");
	nr = nbd_address_paths(&o.address, paths, 16);
	assert_int_equal(nr, 7);
	assert_string_equal(paths[0], "/run/a b");
	assert_string_equal(paths[1], "/c");
	assert_string_equal(paths[2], "/k%2");
	assert_string_equal(paths[3], "/p");
	assert_string_equal(paths[4], "/d");
	assert_string_equal(paths[5], "/home/me/.pki");
	assert_string_equal(paths[6], "/home/me/.config/pki");
	for (unsigned i = 0; i < nr; i++)
		free(paths[i]);
	assert_int_equal(nbd_address_paths(&o.address, two, 2), 2); /* as many as fit */
	free(two[0]);
	free(two[1]);
	nbd_options_destroy(&o);
}

static void a_description_fits_and_names_no_key(void **state)
{
	struct nbd_options o;
	char buf[16] = "";

	(void)state;
	nbd_options_init(&o);
	o.address.transport = NBD_TCP;
	o.address.host = strdup("a-host-with-a-long-name");
	o.address.port = strdup("1");
	o.address.tls_psk_file = strdup("/secret");
	o.address.tls_username = strdup("alice");
	nbd_options_describe(&o, buf, sizeof(buf));
	assert_string_equal(buf, "nbd://a-host-wi");
	nbd_options_destroy(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults_are_an_empty_object),
		cmocka_unit_test(every_member_reads_back),
		cmocka_unit_test(what_is_not_understood_is_refused),
		cmocka_unit_test(other_versions_read_what_they_know),
		cmocka_unit_test(mutated_json_is_refused_or_understood),
		cmocka_unit_test(servers_are_named_in_each_way),
		cmocka_unit_test(a_host_is_named_with_or_without_a_port),
		cmocka_unit_test(a_scheme_has_no_case),
		cmocka_unit_test(no_password_is_described),
		cmocka_unit_test(one_export_is_known_in_the_same_words),
		cmocka_unit_test(a_command_in_brackets_is_taken_out),
		cmocka_unit_test(bad_options_are_refused_with_a_reason),
		cmocka_unit_test(a_port_goes_from_1_to_65535),
		cmocka_unit_test(an_ipv6_address_is_told_how_it_is_written),
		cmocka_unit_test(what_cannot_be_verified_is_refused),
		cmocka_unit_test(a_descriptor_must_be_a_connected_stream),
		cmocka_unit_test(uris_are_checked),
		cmocka_unit_test(the_files_that_are_named_are_found),
		cmocka_unit_test(a_description_fits_and_names_no_key),
	};

	return cmocka_run_group_tests_name("nbd-options", tests, NULL, NULL);
}
