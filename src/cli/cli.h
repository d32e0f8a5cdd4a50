/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The verbs of the command line, one file each. Exit statuses as in err.h. */
#ifndef UB_CLI_CLI_H
#define UB_CLI_CLI_H

/* argv[0] is the verb. They print their errors. */
int ub_cli_attach(int argc, char **argv);
int ub_cli_detach(int argc, char **argv);
int ub_cli_list(int argc, char **argv);
int ub_cli_status(int argc, char **argv);
int ub_cli_info(int argc, char **argv);
int ub_cli_recover(int argc, char **argv);
int ub_cli_upgrade(int argc, char **argv);
int ub_cli_stats(int argc, char **argv);
int ub_cli_metrics(int argc, char **argv);
int ub_cli_set(int argc, char **argv);
int ub_cli_resize(int argc, char **argv);
int ub_cli_migrate(int argc, char **argv);
int ub_cli_fenced(int argc, char **argv);
int ub_cli_features(int argc, char **argv);

/* The names of all verbs, as --help has them; NULL-terminated. */
extern const char *const ub_cli_verbs[];

/* The whole program: finds the verb (attach when none is named) and runs it. */
int ub_main(int argc, char **argv);

#endif
