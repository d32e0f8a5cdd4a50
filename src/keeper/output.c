/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A child's output, as lines of the log. The keeper's main thread. */
#include "keeper/output.h"

#include <string.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/text.h"

#define OUTPUT_READS 16 /* of one turn of the loop: there are others */

static void output_say(struct ub_output *o)
{
	unsigned dropped;
	bool is_first = false, pass = ub_log_limit_pass(&o->log, ub_now_ms(), &dropped, &is_first);
	size_t who = strlen(o->who);

	o->line[o->len] = '\0';
	o->len = 0;
	ub_text_clean(o->line);
	/* Many begin with their name themselves. */
	if (pass && strncmp(o->line, o->who, who) == 0 && o->line[who] == ':')
		ub_log(UB_LOG_NOTICE, "%s", o->line);
	else if (pass && o->line[0])
		ub_log(UB_LOG_NOTICE, "%s: %s", o->who, o->line);
	if (is_first)
		ub_log(UB_LOG_WARNING, "%s says too much: the rest is dropped", o->who);
}

bool ub_output_read(struct ub_output *o, int fd)
{
	unsigned left = OUTPUT_READS;
	char text[256];
	ssize_t n = -1;

	while (left-- && (n = read(fd, text, sizeof(text))) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			if (text[i] == '\n' || o->len == sizeof(o->line) - 1)
				output_say(o);
			if (text[i] != '\n')
				o->line[o->len++] = text[i];
		}
	}
	return n != 0;
}

void ub_output_end(struct ub_output *o)
{
	if (o->len)
		output_say(o);
}
