/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A small poll(2) loop for the control plane: a handful of descriptors with callbacks, and waiting
 * for a condition with a time limit. One thread owns it. Nothing is allocated.
 */
#ifndef UB_BASE_LOOP_H
#define UB_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#define UB_LOOP_MAX 32

struct ub_loop {
	struct ub_loop_source {
		int fd; /* -1: free */
		void (*ready)(void *arg);
		void *arg;
	} sources[UB_LOOP_MAX];
};

void ub_loop_init(struct ub_loop *loop);

/* Calls ready(arg) while fd is readable or hung up. ready() may add and remove sources. */
void ub_loop_add(struct ub_loop *loop, int fd, void (*ready)(void *arg), void *arg);
void ub_loop_remove(struct ub_loop *loop, int fd); /* not there: nothing happens */

/* Waits for one round of events, at most timeout_ms (-1: for ever), and runs their callbacks. */
void ub_loop_once(struct ub_loop *loop, int timeout_ms);

/* Milliseconds, and nanoseconds, of the monotonic clock. */
uint64_t ub_now_ms(void);
uint64_t ub_now_ns(void);

#endif
