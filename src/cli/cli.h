/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The verbs of the command line, one file each. Exit statuses as in err.h. */
#ifndef UB_CLI_CLI_H
#define UB_CLI_CLI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* argv[0] is the verb. They print their errors. */
int ub_cli_attach(int argc, char **argv);
int ub_cli_detach(int argc, char **argv);
int ub_cli_list(int argc, char **argv);
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

/* The whole program: finds the verb (attach when none is named) and runs it. */
int ub_main(int argc, char **argv);

/* A number in /sys/block/ublkb<id>; false: there is no disk. */
bool ub_cli_sysfs(uint32_t id, const char *name, uint64_t *value);
/* Which way the bytes go, from the flags that the kernel has of a device. */
const char *ub_cli_data_path(uint64_t flags);

/*
 * The end of an argp parser: the one argument is DEVICE. what: which device is asked for where none
 * is given, "info of". As a parser returns.
 */
int ub_cli_parse_device(int key, const char *arg, const char *what, const char **device,
			struct ub_err *err);

/* "ublk-bridge: TEXT" on stderr; returns status. */
int ub_cli_error(const struct ub_err *err, int status);

#endif
