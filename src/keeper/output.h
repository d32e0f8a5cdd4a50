/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a child of the keeper's prints goes to the log, a line at a time, and not more than is good.
 * The keeper's main thread.
 */
#ifndef UB_KEEPER_OUTPUT_H
#define UB_KEEPER_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/log.h"

#define UB_OUTPUT_LINE_BYTES 256

/* Zero it, and set who. */
struct ub_output {
	char who[80]; /* what the lines begin with: "fence command" */
	char line[UB_OUTPUT_LINE_BYTES];
	size_t len;
	struct ub_log_limit log;
};

/*
 * Logs what is there to be read, from a descriptor that does not block; it stays the caller's.
 * False: all who could write have gone.
 */
bool ub_output_read(struct ub_output *output, int fd);
/* The child has ended: a last line without an end is one, too. */
void ub_output_end(struct ub_output *output);

#endif
