/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Logging that never blocks its caller.
 *
 * In the keeper, lines go into a bounded buffer that a thread of its own writes to stderr or
 * syslog; in the server they go to the keeper as datagrams. A full buffer drops lines and says
 * later how many.
 */
#ifndef UB_BASE_LOG_H
#define UB_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#define UB_LOG_LINE_BYTES 512

enum ub_log_level {
	UB_LOG_ERROR,
	UB_LOG_WARNING,
	UB_LOG_NOTICE, /* what an operator wants to see */
	UB_LOG_DEBUG,  /* --verbose */
};

/* Any thread. A level above the current one costs a load and a branch. */
void ub_log(enum ub_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void ub_log_set_level(enum ub_log_level level); /* the most talkative one that is kept */
enum ub_log_level ub_log_get_level(void);

/* "error", "warning", "notice", "debug". */
const char *ub_log_level_name(enum ub_log_level level);
/* The reverse. 0, or -EINVAL: no such level. */
int ub_log_level_parse(const char *name, enum ub_log_level *level);

/* Starts the writing thread, towards stderr. 0 or -errno. Once a process. */
int ub_log_start_thread(void);

/* The thread writes to the journal, or else to syslog, from now on: a daemon's stderr is gone. */
void ub_log_to_syslog(void);

/*
 * Likewise, to the journal, if stderr is nothing else. What the journal does not take still goes to
 * stderr.
 */
void ub_log_to_journal(void);

/*
 * The device that this process is about, and its name: from now on a line of the thread that does
 * not name it begins with it, and the journal has both as fields. Once a process.
 */
void ub_log_set_device(const char *device, const char *name);

/*
 * Lines go to sink(level, line), which must not block: false counts the line as dropped. NULL:
 * none.
 */
void ub_log_to_sink(bool (*sink)(enum ub_log_level level, const char *line));

#define UB_LOG_LIMIT_LINES 50
#define UB_LOG_LIMIT_MS	   10000

/* So many lines in so long a time; zero it. One thread's. */
struct ub_log_limit {
	uint64_t began_ms;
	unsigned nr, nr_dropped;
};

/*
 * Counts a line: false: it is to be dropped. *dropped: how many were dropped in a time that is
 * over, to be told now (else 0); is_first: this is the first one that is dropped.
 */
bool ub_log_limit_pass(struct ub_log_limit *limit, uint64_t now_ms, unsigned *dropped,
		       bool *is_first);

/* Waits until what was logged is written, at most half a second. Before a process ends. */
void ub_log_flush(void);

#endif
