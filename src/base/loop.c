/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A small poll(2) loop for the control plane. One thread owns each; knows nobody. */
#include "base/loop.h"

#include <assert.h>
#include <poll.h>
#include <time.h>

void ub_loop_init(struct ub_loop *loop)
{
	for (unsigned i = 0; i < UB_LOOP_MAX; i++)
		loop->sources[i].fd = -1;
}

void ub_loop_add(struct ub_loop *loop, int fd, void (*ready)(void *arg), void *arg)
{
	for (unsigned i = 0; i < UB_LOOP_MAX; i++) {
		if (loop->sources[i].fd < 0) {
			loop->sources[i] = (struct ub_loop_source){ fd, ready, arg };
			return;
		}
	}
	assert(!"a free place in the loop");
}

void ub_loop_remove(struct ub_loop *loop, int fd)
{
	for (unsigned i = 0; i < UB_LOOP_MAX; i++) {
		if (fd >= 0 && loop->sources[i].fd == fd)
			loop->sources[i].fd = -1;
	}
}

void ub_loop_once(struct ub_loop *loop, int timeout_ms)
{
	struct ub_loop_source *sources[UB_LOOP_MAX];
	struct pollfd fds[UB_LOOP_MAX];
	unsigned nr = 0;

	/*
	 * Only those that there are: poll(2) refuses more entries than a process may have
	 * descriptors.
	 */
	for (unsigned i = 0; i < UB_LOOP_MAX; i++) {
		if (loop->sources[i].fd < 0)
			continue;
		sources[nr] = &loop->sources[i];
		fds[nr++] = (struct pollfd){ .fd = loop->sources[i].fd, .events = POLLIN };
	}
	if (poll(fds, nr, timeout_ms) <= 0)
		return;
	for (unsigned i = 0; i < nr; i++) {
		/* An earlier callback may have taken this source out, or another in. */
		if (fds[i].revents && sources[i]->fd == fds[i].fd)
			sources[i]->ready(sources[i]->arg);
	}
}

uint64_t ub_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

uint64_t ub_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}
