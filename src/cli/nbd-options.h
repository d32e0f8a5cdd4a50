/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The options that name an NBD server, for the verbs that take one. Control plane. */
#ifndef UB_CLI_NBD_OPTIONS_H
#define UB_CLI_NBD_OPTIONS_H

#include <argp.h>
#include <stdbool.h>

#include "backend/nbd/options.h"
#include "base/err.h"

/* How the server is started, where it is. */
enum ub_command_kind {
	UB_COMMAND_NONE,
	UB_COMMAND_ACTIVATED, /* [ COMMAND ]: it is handed a listening socket */
	UB_COMMAND_CONNECTED, /* --command: its stdin and stdout are the connection */
};

struct ub_cli_nbd {
	struct nbd_options options;
	enum ub_command_kind kind;
	char **command; /* the command line's own, NULL-terminated; NULL: none */
	bool restart_command;
	int fd;		    /* of --fd; -1: none */
	unsigned nr_named;  /* servers */
	const char *option; /* the first option of NBD's that was given; NULL: none */
	/* set by the verb: of a migration. What comes ready made, and only once, is refused */
	bool is_destination;
	struct ub_err *err;
};

/*
 * A child of a verb's argp; its input is the struct. Errors are in *err, and the parser returns
 * their code.
 */
extern const struct argp ub_cli_nbd_argp;

/*
 * Takes "[ COMMAND ARGS… ]" out of the command line before argp looks at it. 0 or -EINVAL with
 * *err.
 */
int ub_cli_nbd_take_command(struct ub_cli_nbd *nbd, int *argc, char **argv);

/* A word that is no option: a URI. 0 or -EINVAL with *err. */
int ub_cli_nbd_take_uri(struct ub_cli_nbd *nbd, const char *uri);

/* What is left to be checked when all has been read. 0 or -EINVAL with *err. */
int ub_cli_nbd_check(struct ub_cli_nbd *nbd);

/* Frees what was taken; the words of the command stay the command line's. */
void ub_cli_nbd_destroy(struct ub_cli_nbd *nbd);

#endif
