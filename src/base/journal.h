/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lines for systemd's journal, with fields. libsystemd is loaded when it is wanted, because the
 * same program is a server that keeps all it has in locked memory. Built without it, there is no
 * journal. The log's writing thread.
 */
#ifndef UB_BASE_JOURNAL_H
#define UB_BASE_JOURNAL_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Whether there is a journal to be written to, and libsystemd. Control plane; what is loaded stays.
 */
bool ub_journal_open(void);

/* Whether stderr is the journal's: systemd has started us. */
bool ub_journal_is_stderr(void);

/*
 * priority: of syslog(3). device, name: NULL where there is none. False: it was not taken, and is
 * to go elsewhere.
 */
bool ub_journal_send(int priority, const char *message, const char *device, const char *name);

/*
 * Tells systemd, if it has started this process, which process is the service's from now on:
 * sd_notify(3).
 */
void ub_journal_main_pid(pid_t pid);

#endif
