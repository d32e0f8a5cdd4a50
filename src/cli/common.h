/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the verbs share: their command lines, their errors, and how they print. Control plane. */
#ifndef UB_CLI_COMMON_H
#define UB_CLI_COMMON_H

#include <argp.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* ---- the command line ---------------------------------------------------- */

/*
 * argp_parse(), and two habits more: -h is --help, and an unknown option is answered with the one
 * that is most like it. 0, or another number and *err, unless argp has printed it.
 */
int ub_cli_parse(const struct argp *argp, int argc, char **argv, void *input, struct ub_err *err);

/*
 * The end of an argp parser: the one argument is DEVICE. what: which device is asked for where none
 * is given, "info of". As a parser returns.
 */
int ub_cli_parse_device(int key, const char *arg, const char *what, const char **device,
			struct ub_err *err);

/*
 * The one of `words` (NULL-terminated) that `word` is a misspelling of: it is its beginning, or a
 * letter in three is another. NULL: none is near.
 */
const char *ub_cli_nearest(const char *word, const char *const words[]);

/* "ublk-bridge: TEXT" on stderr; returns status. */
int ub_cli_error(const struct ub_err *err, int status);
/* The exit status of an *err that ub_device_find() or ub_device_find_state() has filled in. */
int ub_cli_find_status(const struct ub_err *err);

/* ---- printing ------------------------------------------------------------ */

enum ub_cli_colour { UB_CLI_PLAIN, UB_CLI_GREEN, UB_CLI_YELLOW, UB_CLI_RED, UB_CLI_BOLD };

/*
 * What switches stdout to this colour; "" where it is no terminal, or NO_COLOR is set.
 * UB_CLI_PLAIN: back to the usual one.
 */
const char *ub_cli_colour(enum ub_cli_colour colour);

/* How wide the terminal is that stdout is; 0: it is none, and nothing is to be cut. */
unsigned ub_cli_columns(void);

/* How many columns a text takes: one a character. */
size_t ub_cli_width(const char *text);
/* Cuts it to so many, between two characters. */
void ub_cli_cut(char *text, size_t columns);

/* "850 ms", "11.4 s", "5 min 3 s", "2 h 5 min", "3 d 4 h". Returns buf. */
const char *ub_cli_duration(uint64_t ms, char *buf, size_t len);

/* An object or an array, as --json prints it. */
void ub_cli_print_json(const json_t *json);

/* ---- the kernel ---------------------------------------------------------- */

/* A number in /sys/block/ublkb<id>; false: there is no disk. */
bool ub_cli_sysfs(uint32_t id, const char *name, uint64_t *value);
/* Which way the bytes go, from the flags that the kernel has of a device. */
const char *ub_cli_data_path(uint64_t flags);

#endif
