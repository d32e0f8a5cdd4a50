/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Scope-bound cleanup and the few helpers that every file wants. Any thread. */
#ifndef UB_BASE_CLEANUP_H
#define UB_BASE_CLEANUP_H

#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#define UB_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define ub_container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static inline void ub_cleanup_freep(void *p)
{
	free(*(void **)p);
}

static inline void ub_cleanup_fdp(const int *fd)
{
	if (*fd >= 0)
		close(*fd); /* never retried: on Linux the descriptor is gone even after EINTR */
}

#define cleanup_free __attribute__((cleanup(ub_cleanup_freep)))
#define cleanup_fd   __attribute__((cleanup(ub_cleanup_fdp)))

/* Hands a descriptor or pointer over to a new owner, out of its cleanup's reach. */
static inline int ub_steal_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

static inline void ub_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

#endif
