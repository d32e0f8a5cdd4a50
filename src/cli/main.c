/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finds the verb. Also where the same binary becomes a server, a helper or a command. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/title.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "cli/hints.h"
#include "keeper/main.h"
#include "helper/helper.h"
#include "server/server.h"

#include <ublk-bridge/message.h>

#include "config.h"

const char *argp_program_version = PACKAGE_STRING;
const char *argp_program_bug_address = NULL;
error_t argp_err_exit_status = UB_EXIT_USAGE;

static int main_help(int argc, char **argv);

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *what;
} verbs[] = {
	{ "attach", ub_cli_attach, "make a device (the verb when none is given)" },
	{ "detach", ub_cli_detach, "write back, and take devices away" },
	{ "list", ub_cli_list, "all ublk devices: their state, size and source" },
	{ "status", ub_cli_status, "whether devices are healthy; exit status 0: they are" },
	{ "info", ub_cli_info, "everything about one device" },
	{ "stats", ub_cli_stats, "what a device has done, how fast, with which latencies" },
	{ "metrics", ub_cli_metrics, "the same of all devices, for Prometheus" },
	{ "set", ub_cli_set, "change timeouts and log level of a device in use" },
	{ "resize", ub_cli_resize, "give a device in use another size" },
	{ "migrate", ub_cli_migrate, "give a device in use another source: NBD or memory" },
	{ "fenced", ub_cli_fenced, "say that an old NBD server can write no more" },
	{ "recover", ub_cli_recover, "start the keeper of a device again" },
	{ "upgrade", ub_cli_upgrade, "have this version serve a device in use" },
	{ "features", ub_cli_features, "what this build and this kernel can do" },
	{ "help", main_help, NULL },
};

const char *const ub_cli_verbs[] = {
	"attach", "detach",  "list",   "status",  "info",    "stats",	 "metrics", "set",
	"resize", "migrate", "fenced", "recover", "upgrade", "features", "help",    NULL,
};

_Static_assert(UB_ARRAY_SIZE(ub_cli_verbs) == UB_ARRAY_SIZE(verbs) + 1, "each verb has a name");

/* With the prompt behind it, one screen: 24 lines of 80 columns. */
static int main_usage(void)
{
	printf("Usage: ublk-bridge [attach] [OPTION...] NBD-URI | [ COMMAND... ] | --mem SIZE\n"
	       "       ublk-bridge VERB [OPTION...] [DEVICE...]\n"
	       "Serve a block device, /dev/ublkbN: an NBD export, or memory.\n");
	for (unsigned i = 0; i < UB_ARRAY_SIZE(verbs) && verbs[i].what; i++)
		printf("  %-9s %s\n", verbs[i].name, verbs[i].what);
	printf("Attach:  -d, --daemon  --name NAME  --id N  -r, --read-only  --queues N\n"
	       "  NBD:   -C, --connections N  --unix SOCKET  --tcp HOST[:PORT]  --export NAME\n"
	       "         --tls MODE  --outage-limit DURATION  --wait DURATION\n"
	       "All options of a verb: ublk-bridge help VERB. The manual: man ublk-bridge\n"
	       "DEVICE: /dev/ublkbN, N or a NAME; SIZE: 64M, 1.5G; DURATION: 30s, 5m, 200ms\n"
	       "Exit status: 0 done, 1 failed, 2 wrong usage, 3 busy, 4 not healthy (status)\n");
	return UB_EXIT_DONE;
}

/* Its number in the table, or -1. */
static int main_find(const char *name)
{
	for (unsigned i = 0; i < UB_ARRAY_SIZE(verbs); i++) {
		if (strcmp(name, verbs[i].name) == 0)
			return (int)i;
	}
	return -1;
}

static int main_hint(const char *word, const char *next)
{
	struct ub_err err = { 0 };

	ub_cli_hint(word, next, false, ub_cli_verbs, &err);
	return ub_cli_error(&err, UB_EXIT_USAGE);
}

static int main_run(int verb, int argc, char **argv)
{
	static char name[64];

	/* argp takes the program's name, for its messages, from argv[0]. */
	snprintf(name, sizeof(name), "ublk-bridge %s", verbs[verb].name);
	argv[0] = name;
	return verbs[verb].run(argc, argv);
}

/* "help", "help VERB": argv[0] is the verb. */
static int main_help(int argc, char **argv)
{
	static char help[] = "--help";
	int verb = argc > 1 && argv[1][0] != '-' ? main_find(argv[1]) : -1;

	if (argc < 2 || argv[1][0] == '-' || strcmp(argv[1], "help") == 0)
		return main_usage();
	if (verb < 0)
		return main_hint(argv[1], NULL);
	argv[0] = argv[1];
	argv[1] = help;
	return main_run(verb, 2, argv);
}

static bool main_is_help(const char *word)
{
	return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "-?") == 0;
}

int ub_main(int argc, char **argv)
{
	static char name[] = "ublk-bridge attach";
	int verb;

	if (argc > 1 && strcmp(argv[1], UB_SERVER_VERB) == 0) {
		ub_title_take(argc, argv);
		return ub_server_main();
	}
	if (argc > 1 && strcmp(argv[1], UB_HELPER_VERB) == 0)
		return ub_helper_main(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], UB_COMMAND_VERB) == 0)
		return ub_command_main(argc - 1, argv + 1);
	verb = argc > 1 ? main_find(argv[1]) : -1;
	if (verb >= 0)
		return main_run(verb, argc - 1, argv + 1);
	if (argc > 1 && main_is_help(argv[1]))
		return main_usage();
	if (argc == 2 && strcmp(argv[1], "version") == 0) {
		puts(argp_program_version);
		return UB_EXIT_DONE;
	}
	/* Before anything else of the line is looked at: the rest was meant for a verb. */
	if (argc > 1 && argv[1][0] != '-' && strcmp(argv[1], "[") != 0 && !ub_cli_is_uri(argv[1]))
		return main_hint(argv[1], argv[2]);
	if (argc > 0)
		argv[0] = name;
	return ub_cli_attach(argc, argv);
}
