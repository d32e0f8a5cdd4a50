/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading /proc/PID/mountinfo (proc(5)). Any thread; knows nobody. */
#ifndef UB_BASE_MOUNTINFO_H
#define UB_BASE_MOUNTINFO_H

/* Turns what mountinfo writes for spaces and the like ("\\040") back, in place. Returns path. */
char *ub_mountinfo_unescape(char *path);

#endif
