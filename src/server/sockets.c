/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The back ends' connections, as the keeper shall know them. Any thread. */
#include "server/sockets.h"

#include <ublk-bridge/backend.h>

void ub_sockets_init(struct ub_sockets *sockets)
{
	pthread_mutex_init(&sockets->lock, NULL);
}

unsigned ub_sockets_count(struct ub_sockets *sockets)
{
	unsigned nr = 0;

	pthread_mutex_lock(&sockets->lock);
	for (unsigned i = 0; i < UB_SOCKETS_MAX; i++)
		nr += sockets->held[i].id != 0;
	pthread_mutex_unlock(&sockets->lock);
	return nr;
}

void ub_sockets_set_listener(struct ub_sockets *sockets, ub_sockets_tell *tell, void *arg)
{
	pthread_mutex_lock(&sockets->lock);
	sockets->tell = tell;
	sockets->arg = arg;
	for (unsigned i = 0; i < UB_SOCKETS_MAX && tell; i++) {
		if (sockets->held[i].id)
			tell(arg, sockets->held[i].id, sockets->held[i].fd,
			     sockets->held[i].backend->is_destination);
	}
	pthread_mutex_unlock(&sockets->lock);
}

bool ub_sockets_have_listener(struct ub_sockets *sockets)
{
	bool has;

	pthread_mutex_lock(&sockets->lock);
	has = sockets->tell != NULL;
	pthread_mutex_unlock(&sockets->lock);
	return has;
}

uint32_t ub_sockets_hold(struct ub_sockets *sockets, const struct ub_backend *be, int fd)
{
	uint32_t id = 0;

	pthread_mutex_lock(&sockets->lock);
	for (unsigned i = 0; i < UB_SOCKETS_MAX && !id; i++) {
		if (sockets->held[i].id)
			continue;
		id = ++sockets->last_id ? sockets->last_id : ++sockets->last_id;
		sockets->held[i].id = id;
		sockets->held[i].fd = fd;
		sockets->held[i].backend = be;
		if (sockets->tell)
			sockets->tell(sockets->arg, id, fd, be->is_destination);
	}
	pthread_mutex_unlock(&sockets->lock);
	return id;
}

/* Under the lock. */
static void sockets_drop(struct ub_sockets *sockets, unsigned i)
{
	uint32_t id = sockets->held[i].id;

	sockets->held[i].id = 0;
	if (sockets->tell)
		sockets->tell(sockets->arg, id, -1, false);
}

void ub_sockets_forget(struct ub_sockets *sockets, const struct ub_backend *be)
{
	pthread_mutex_lock(&sockets->lock);
	for (unsigned i = 0; i < UB_SOCKETS_MAX; i++) {
		if (sockets->held[i].id && sockets->held[i].backend == be)
			sockets_drop(sockets, i);
	}
	pthread_mutex_unlock(&sockets->lock);
}

void ub_sockets_drop(struct ub_sockets *sockets, uint32_t id)
{
	pthread_mutex_lock(&sockets->lock);
	for (unsigned i = 0; i < UB_SOCKETS_MAX && id; i++) {
		if (sockets->held[i].id == id)
			sockets_drop(sockets, i);
	}
	pthread_mutex_unlock(&sockets->lock);
}
