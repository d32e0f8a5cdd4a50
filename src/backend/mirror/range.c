/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who holds which range, and who waits for one. Queues' threads. */
#include "backend/mirror/internal.h"

#include "base/cleanup.h"

static void ranges_add(struct mirror_ranges *list, struct mirror_range *r)
{
	r->prev = list->last;
	r->next = NULL;
	if (list->last)
		list->last->next = r;
	else
		list->first = r;
	list->last = r;
}

static void ranges_remove(struct mirror_ranges *list, struct mirror_range *r)
{
	if (r->prev)
		r->prev->next = r->next;
	else
		list->first = r->next;
	if (r->next)
		r->next->prev = r->prev;
	else
		list->last = r->prev;
}

bool mirror_ranges_overlap(const struct mirror_ranges *list, const struct mirror_range *r,
			   const struct mirror_range *until)
{
	for (const struct mirror_range *at = list->first; at && at != until; at = at->next) {
		if (at->start < r->end && r->start < at->end)
			return true;
	}
	return false;
}

bool mirror_range_take(struct mirror *m, struct mirror_range *r)
{
	bool is_held;

	pthread_mutex_lock(&m->lock);
	is_held = !mirror_ranges_overlap(&m->held, r, NULL) &&
		  !mirror_ranges_overlap(&m->waiting, r, NULL);
	r->is_held = is_held;
	ranges_add(is_held ? &m->held : &m->waiting, r);
	pthread_mutex_unlock(&m->lock);
	return is_held; /* one that waits may be granted by now: that comes by itself */
}

/* Under the lock: whose turn it is now. */
static void ranges_grant(struct mirror *m)
{
	struct mirror_range *next;

	for (struct mirror_range *r = m->waiting.first; r; r = next) {
		next = r->next;
		if (mirror_ranges_overlap(&m->held, r, NULL) ||
		    mirror_ranges_overlap(&m->waiting, r, r))
			continue;
		ranges_remove(&m->waiting, r);
		r->is_held = true;
		ranges_add(&m->held, r);
		r->next_granted = r->mq->granted;
		r->mq->granted = r;
		if (!r->mq->is_grant_posted) {
			r->mq->is_grant_posted = true;
			ub_queue_post(r->mq->source->queue, &r->mq->grant_msg);
		}
	}
}

void mirror_range_give_back(struct mirror *m, struct mirror_range *r)
{
	pthread_mutex_lock(&m->lock);
	ranges_remove(&m->held, r);
	r->is_held = false;
	if (m->waiting.first)
		ranges_grant(m);
	pthread_mutex_unlock(&m->lock);
}

void mirror_range_shrink(struct mirror *m, struct mirror_range *r, uint64_t end)
{
	pthread_mutex_lock(&m->lock);
	r->end = end;
	if (m->waiting.first)
		ranges_grant(m);
	pthread_mutex_unlock(&m->lock);
}

void mirror_take_granted(struct ub_msg *msg, struct ub_queue *q)
{
	struct mirror_queue *mq = ub_container_of(msg, struct mirror_queue, grant_msg);
	struct mirror_range *oldest = NULL, *r;

	(void)q;
	pthread_mutex_lock(&mq->m->lock);
	mq->is_grant_posted = false;
	for (r = mq->granted; r;) {
		struct mirror_range *next = r->next_granted;

		r->next_granted = oldest;
		oldest = r;
		r = next;
	}
	mq->granted = NULL;
	pthread_mutex_unlock(&mq->m->lock);
	while (oldest) {
		r = oldest;
		oldest = r->next_granted;
		r->granted(r);
	}
}

struct mirror_range *mirror_take_waiting(struct mirror *m, const struct mirror_queue *mq,
					 void (*granted)(struct mirror_range *))
{
	struct mirror_range *taken = NULL, *next;

	pthread_mutex_lock(&m->lock);
	for (struct mirror_range *r = m->waiting.first; r; r = next) {
		next = r->next;
		if (r->mq != mq || r->granted != granted)
			continue;
		ranges_remove(&m->waiting, r);
		r->next_granted = taken;
		taken = r;
	}
	pthread_mutex_unlock(&m->lock);
	return taken;
}
