/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A small poll(2) loop for the control plane. One thread owns each; knows nobody. */
#include "loop.h"

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
	struct pollfd fds[UB_LOOP_MAX];

	for (unsigned i = 0; i < UB_LOOP_MAX; i++)
		fds[i] = (struct pollfd){ .fd = loop->sources[i].fd, .events = POLLIN };
	if (poll(fds, UB_LOOP_MAX, timeout_ms) <= 0)
		return;
	for (unsigned i = 0; i < UB_LOOP_MAX; i++) {
		struct ub_loop_source *source = &loop->sources[i];

		/* An earlier callback may have taken this source out, or another in. */
		if (fds[i].revents && source->fd >= 0 && source->fd == fds[i].fd)
			source->ready(source->arg);
	}
}

uint64_t ub_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}
