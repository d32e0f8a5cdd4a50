/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The back end's connections, as its keeper shall know them. Any thread. */
#include "backend/sockets.h"

#include <pthread.h>

#include <ublk-bridge/backend.h>

#define SOCKETS_MAX 256 /* those beyond have no duplicate, and are reset when this process dies */

static struct {
	pthread_mutex_t lock;
	ub_sockets_tell *tell;
	uint32_t last_id;
	struct {
		uint32_t id; /* 0: free */
		int fd;
		const struct ub_backend *backend;
	} held[SOCKETS_MAX];
} sockets = { .lock = PTHREAD_MUTEX_INITIALIZER };

unsigned ub_sockets_count(void)
{
	unsigned nr = 0;

	pthread_mutex_lock(&sockets.lock);
	for (unsigned i = 0; i < SOCKETS_MAX; i++)
		nr += sockets.held[i].id != 0;
	pthread_mutex_unlock(&sockets.lock);
	return nr;
}

void ub_sockets_set_listener(ub_sockets_tell *tell)
{
	pthread_mutex_lock(&sockets.lock);
	sockets.tell = tell;
	for (unsigned i = 0; i < SOCKETS_MAX && tell; i++) {
		if (sockets.held[i].id)
			tell(sockets.held[i].id, sockets.held[i].fd,
			     sockets.held[i].backend->is_destination);
	}
	pthread_mutex_unlock(&sockets.lock);
}

bool ub_sockets_have_listener(void)
{
	bool has;

	pthread_mutex_lock(&sockets.lock);
	has = sockets.tell != NULL;
	pthread_mutex_unlock(&sockets.lock);
	return has;
}

uint32_t ub_backend_hold_socket(const struct ub_backend *be, int fd)
{
	uint32_t id = 0;

	pthread_mutex_lock(&sockets.lock);
	for (unsigned i = 0; i < SOCKETS_MAX && !id; i++) {
		if (sockets.held[i].id)
			continue;
		id = ++sockets.last_id ? sockets.last_id : ++sockets.last_id;
		sockets.held[i].id = id;
		sockets.held[i].fd = fd;
		sockets.held[i].backend = be;
		if (sockets.tell)
			sockets.tell(id, fd, be->is_destination);
	}
	pthread_mutex_unlock(&sockets.lock);
	return id;
}

/* Under the lock. */
static void sockets_drop(unsigned i)
{
	uint32_t id = sockets.held[i].id;

	sockets.held[i].id = 0;
	if (sockets.tell)
		sockets.tell(id, -1, false);
}

void ub_sockets_forget(const struct ub_backend *be)
{
	pthread_mutex_lock(&sockets.lock);
	for (unsigned i = 0; i < SOCKETS_MAX; i++) {
		if (sockets.held[i].id && sockets.held[i].backend == be)
			sockets_drop(i);
	}
	pthread_mutex_unlock(&sockets.lock);
}

void ub_backend_drop_socket(uint32_t id)
{
	pthread_mutex_lock(&sockets.lock);
	for (unsigned i = 0; i < SOCKETS_MAX && id; i++) {
		if (sockets.held[i].id == id)
			sockets_drop(i);
	}
	pthread_mutex_unlock(&sockets.lock);
}
