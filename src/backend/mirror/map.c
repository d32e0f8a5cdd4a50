/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the destination lacks, and what it may forget: bitmaps of clusters. Queues' threads. */
#include "backend/mirror/internal.h"

#define MAP_MAX_RUN 32768U /* clusters: how long a run of dirty ones is matters no more then */

/* ---- what the destination may forget ------------------------------------- */

/*
 * A server that dies, and is started again, has what it was told to flush, and of the rest what it
 * likes. This counts whenever one may have died.
 */
uint64_t mirror_losses(const struct mirror *m)
{
	struct ub_backend *dest = m->config.dest;

	return dest->ops->nr_losses ? dest->ops->nr_losses(dest) : 0;
}

/* All of these under the lock. */
static void unsafe_add(struct mirror_unsafe *u, uint64_t first, uint64_t end)
{
	bool is_empty = u->first == u->end;

	ub_bitmap_set(&u->map, first, end - first);
	u->first = is_empty || first < u->first ? first : u->first;
	u->end = is_empty || end > u->end ? end : u->end;
}

/* The next ones of them, behind *end, which is 0 at first. False: there are no more. */
static bool unsafe_next(const struct mirror_unsafe *u, uint64_t *first, uint64_t *end)
{
	bool is_set = false;

	*end = *end < u->first ? u->first : *end;
	while (*end < u->end && !is_set) {
		*first = *end;
		*end += ub_bitmap_run(&u->map, *first, u->end - *first, &is_set);
	}
	return is_set;
}

static void unsafe_clear(struct mirror_unsafe *u)
{
	if (u->first < u->end)
		ub_bitmap_clear(&u->map, u->first, u->end - u->first);
	u->first = u->end = 0;
}

/* ---- dirty clusters ------------------------------------------------------ */

/* Under the lock. */
static uint64_t dirty_count(const struct mirror *m, uint64_t first, uint64_t count)
{
	uint64_t nr = 0;

	while (count) {
		bool value;
		uint64_t run = ub_bitmap_run(&m->dirty, first, count, &value);

		nr += value ? run : 0;
		first += run;
		count -= run;
	}
	return nr;
}

/* Under the lock. */
static void dirty_add(struct mirror *m, uint64_t first, uint64_t count)
{
	m->nr_dirty += count - dirty_count(m, first, count);
	ub_bitmap_set(&m->dirty, first, count);
}

/* Under the lock. */
static void dirty_add_unsafe(struct mirror *m, struct mirror_unsafe *u)
{
	uint64_t first, end = 0;

	while (unsafe_next(u, &first, &end))
		dirty_add(m, first, end - first);
	unsafe_clear(u);
}

void mirror_dirty_note(struct mirror *m)
{
	uint64_t bytes, size = m->backend->limits.size_bytes;

	pthread_mutex_lock(&m->lock);
	bytes = m->nr_dirty << m->cluster_shift;
	pthread_mutex_unlock(&m->lock);
	ub_stat_set(&m->config.stats->dirty_bytes, bytes < size ? bytes : size);
}

void mirror_dirty_set(struct mirror *m, uint64_t start, uint64_t end)
{
	uint64_t first = start >> m->cluster_shift,
		 count = ((end - 1) >> m->cluster_shift) + 1 - first;

	pthread_mutex_lock(&m->lock);
	dirty_add(m, first, count);
	mirror_resume_locked(m, UB_MIRROR_IN_STEP);
	pthread_mutex_unlock(&m->lock);
	if (mirror_get_state(m) == UB_MIRROR_COPYING)
		mirror_copier_kick(m);
}

bool mirror_dirty_clear(struct mirror *m, uint64_t start, uint64_t end, uint64_t losses)
{
	uint64_t cluster = 1ULL << m->cluster_shift;
	uint64_t first = (start + cluster - 1) >> m->cluster_shift;
	uint64_t last =
		end >= m->backend->limits.size_bytes ? m->nr_clusters : end >> m->cluster_shift;
	bool is_there;

	pthread_mutex_lock(&m->lock);
	is_there = losses == mirror_losses(m);
	if (is_there)
		unsafe_add(&m->unsafe, start >> m->cluster_shift,
			   ((end - 1) >> m->cluster_shift) + 1);
	if (is_there && first < last) {
		m->nr_dirty -= dirty_count(m, first, last - first);
		ub_bitmap_clear(&m->dirty, first, last - first);
	}
	pthread_mutex_unlock(&m->lock);
	return is_there;
}

void mirror_look_for_losses(struct mirror *m)
{
	uint64_t losses = mirror_losses(m);
	bool is_news = false;

	pthread_mutex_lock(&m->lock);
	if (losses != m->losses) {
		m->losses = losses;
		dirty_add_unsafe(m, &m->unsafe);
		dirty_add_unsafe(m, &m->pending);
		is_news = m->nr_dirty && mirror_resume_locked(m, UB_MIRROR_IN_STEP);
	}
	pthread_mutex_unlock(&m->lock);
	if (is_news)
		mirror_tell(m);
}

bool mirror_dirty_find(struct mirror *m, uint64_t *first, uint64_t *count)
{
	bool found = false;

	pthread_mutex_lock(&m->lock);
	for (unsigned pass = 0; pass < 2 && m->nr_dirty && !found; pass++) {
		uint64_t at = pass == 0 && m->cursor < m->nr_clusters ? m->cursor : 0;

		while (at < m->nr_clusters && !found) {
			bool is_dirty;
			uint64_t left = m->nr_clusters - at;
			uint64_t run =
				ub_bitmap_run(&m->dirty, at,
					      left < MAP_MAX_RUN ? left : MAP_MAX_RUN, &is_dirty);

			found = is_dirty;
			*first = at;
			*count = run;
			at += run;
		}
	}
	pthread_mutex_unlock(&m->lock);
	return found;
}

/* ---- the destination is flushed ------------------------------------------ */

void mirror_flush_begins(struct mirror *m)
{
	struct mirror_unsafe none;

	m->synced_ms = ub_now_ms();
	m->flush_losses = m->losses;
	mirror_look_for_losses(m); /* if there is one, this flush comes too early */
	pthread_mutex_lock(&m->lock);
	none = m->pending;
	m->pending = m->unsafe;
	m->unsafe = none;
	pthread_mutex_unlock(&m->lock);
}

void mirror_flush_ends(struct mirror *m, int32_t res)
{
	uint64_t first, end = 0;

	mirror_look_for_losses(m);
	pthread_mutex_lock(&m->lock);
	while (res < 0 && unsafe_next(&m->pending, &first, &end))
		unsafe_add(&m->unsafe, first, end);
	unsafe_clear(&m->pending);
	pthread_mutex_unlock(&m->lock);
}
