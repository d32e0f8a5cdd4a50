/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What ps(1) shows of a process: its command line, which it may write over. Its comm, by which
 * programs find it, stays. The main thread.
 */
#ifndef UB_BASE_TITLE_H
#define UB_BASE_TITLE_H

/* Takes the room that the command line's words have: nobody may read them afterwards. */
void ub_title_take(int argc, char **argv);

/* Nothing happens where no room was taken; what has no room in it is cut. */
void ub_title_set(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
