/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state of a migration's layer, and who is told of it. Queues' threads, and the main thread. */
#include "backend/mirror/internal.h"

#include <errno.h>
#include <sys/eventfd.h>

void mirror_tell(struct mirror *m)
{
	eventfd_write(m->config.event_fd, 1);
}

bool mirror_set_state(struct mirror *m, enum ub_mirror_state state)
{
	bool changes;
	int was;

	pthread_mutex_lock(&m->lock);
	was = mirror_get_state(m);
	changes = was < (int)state || (was == UB_MIRROR_IN_STEP && state == UB_MIRROR_OUT);
	if (changes)
		atomic_store_explicit(&m->state, (int)state, memory_order_release);
	pthread_mutex_unlock(&m->lock);
	if (changes)
		mirror_tell(m);
	return changes;
}

bool mirror_resume_locked(struct mirror *m, enum ub_mirror_state from)
{
	if (mirror_get_state(m) != (int)from)
		return false;
	atomic_store_explicit(&m->state, UB_MIRROR_COPYING, memory_order_release);
	return true;
}

void mirror_resume(struct mirror *m, enum ub_mirror_state from)
{
	bool is_news;

	pthread_mutex_lock(&m->lock);
	is_news = mirror_resume_locked(m, from);
	pthread_mutex_unlock(&m->lock);
	if (is_news)
		mirror_tell(m);
}

void mirror_fail(struct mirror *m, int32_t res, bool is_source)
{
	int none = 0;

	atomic_compare_exchange_strong(&m->error, &none, is_source ? res : -res);
	mirror_set_state(m, UB_MIRROR_FAILED);
}

void mirror_copier_kick(struct mirror *m)
{
	if (atomic_exchange_explicit(&m->is_kicked, true, memory_order_acq_rel))
		return;
	ub_queue_post(m->queues[0].source->queue, &m->kick_msg);
}

void mirror_dest_failed(struct mirror *m, int32_t res)
{
	if (res == -ENOLINK) {
		if (mirror_set_state(m, UB_MIRROR_OUT))
			mirror_copier_kick(m);
	} else if (mirror_get_state(m) != UB_MIRROR_STOPPED) {
		mirror_fail(m, res, false);
	}
}
