/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finds the verb. Also where the same binary becomes a server, a helper or a command. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "keeper/command.h"
#include "keeper/helper.h"
#include "server/server.h"

#include "config.h"

const char *argp_program_version = PACKAGE_STRING;
const char *argp_program_bug_address = NULL;
error_t argp_err_exit_status = UB_EXIT_USAGE;

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} verbs[] = {
	{ "attach", ub_cli_attach },   { "detach", ub_cli_detach },
	{ "list", ub_cli_list },       { "status", ub_cli_status },
	{ "info", ub_cli_info },       { "recover", ub_cli_recover },
	{ "upgrade", ub_cli_upgrade }, { "stats", ub_cli_stats },
	{ "metrics", ub_cli_metrics }, { "set", ub_cli_set },
	{ "resize", ub_cli_resize },   { "migrate", ub_cli_migrate },
	{ "fenced", ub_cli_fenced },   { "features", ub_cli_features },
};

int ub_main(int argc, char **argv)
{
	static char verb_name[64];

	if (argc > 1 && strcmp(argv[1], UB_SERVER_VERB) == 0)
		return ub_server_main();
	if (argc > 1 && strcmp(argv[1], UB_HELPER_VERB) == 0)
		return ub_helper_main(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], UB_COMMAND_VERB) == 0)
		return ub_command_main(argc - 1, argv + 1);
	for (unsigned i = 0; argc > 1 && i < UB_ARRAY_SIZE(verbs); i++) {
		if (strcmp(argv[1], verbs[i].name) == 0) {
			/* argp takes the program's name, for its messages, from argv[0]. */
			snprintf(verb_name, sizeof(verb_name), "ublk-bridge %s", verbs[i].name);
			argv[1] = verb_name;
			return verbs[i].run(argc - 1, argv + 1);
		}
	}
	if (argc > 0)
		argv[0] = verb_name;
	strcpy(verb_name, "ublk-bridge");
	return ub_cli_attach(argc, argv);
}
