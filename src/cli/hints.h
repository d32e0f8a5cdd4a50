/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A word that is neither verb nor URI: what was meant by it. Control plane; looks at files only. */
#ifndef UB_CLI_HINTS_H
#define UB_CLI_HINTS_H

#include <stdbool.h>

#include "base/err.h"

/* Whether it is a URI that names an NBD server, such as nbd+unix:///?socket=PATH. */
bool ub_cli_is_uri(const char *word);

/*
 * Says what `word` is (a file, a socket, HOST:PORT, a device, a size, nearly a verb), and what is
 * to be typed for it. next: the word behind it, NULL: there is none. is_named: something that is to
 * be served was named already. verbs: all of them, NULL-terminated. Returns -EINVAL with *err.
 */
int ub_cli_hint(const char *word, const char *next, bool is_named, const char *const verbs[],
		struct ub_err *err);

#endif
