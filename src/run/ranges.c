/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ledger, read. Any thread; control plane. */
#include "run/ranges.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/nbd/options.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/size.h"
#include "run/state.h"

static uint64_t ranges_get(const _Atomic uint64_t *word)
{
	return atomic_load_explicit(word, memory_order_acquire);
}

/* What nobody knows the end of is the whole device. */
static uint64_t ranges_bytes(uint64_t start, uint64_t end, uint64_t size_bytes)
{
	end = end < size_bytes ? end : size_bytes;
	return start < end ? end - start : 0;
}

static void ranges_take(const struct ub_ledger_range *range, uint64_t size_bytes, uint64_t now_ms,
			struct ub_ranges *r)
{
	uint64_t clock_ms = range->clock_ms, age_ms = now_ms > clock_ms ? now_ms - clock_ms : 0;

	r->nr++;
	r->bytes += ranges_bytes(range->start, range->end, size_bytes);
	if (!clock_ms) {
		r->nr_no_clock++;
		return;
	}
	if (age_ms > r->oldest_ms)
		r->oldest_ms = age_ms;
	if (age_ms < r->timeout_ms && r->timeout_ms - age_ms > r->left_ms)
		r->left_ms = r->timeout_ms - age_ms;
}

void ub_ranges_read(struct ub_ledger *page, unsigned side, uint64_t size_bytes, uint64_t now_ms,
		    struct ub_ranges *r)
{
	const struct ub_ledger_side *s;

	*r = (struct ub_ranges){ 0 };
	if (!page)
		return;
	s = ub_ledger_side(page, side);
	r->timeout_ms = ranges_get(&s->timeout_ms);
	r->event = ranges_get(&s->events);
	r->nr_waiting = ranges_get(&s->waiting);
	r->nr_late = ranges_get(&s->warned);
	r->nr_losses = ranges_get(&s->nr_losses);
	r->lost_bytes = ranges_get(&s->lost_bytes);
	r->last_loss_unix_s = ranges_get(&s->last_loss_unix_s);
	for (unsigned i = 0; i < page->nr_ranges; i++) {
		const struct ub_ledger_range *range = ub_ledger_range(page, side, i);

		if (atomic_load_explicit(&range->state, memory_order_acquire) != UB_RANGE_FREE)
			ranges_take(range, size_bytes, now_ms, r);
	}
	for (unsigned i = 0; i < page->nr_conns; i++) {
		const struct ub_ledger_conn *conn = ub_ledger_conn(page, side, i);

		if (atomic_load_explicit(&conn->state, memory_order_acquire) == UB_CONN_OPEN)
			r->unflushed_bytes += ranges_get(&conn->unflushed_bytes);
	}
}

void ub_ranges_read_sent(struct ub_ledger *page, unsigned side, uint64_t size_bytes, unsigned *nr,
			 uint64_t *bytes)
{
	*nr = 0;
	*bytes = 0;
	for (unsigned i = 0; page && i < page->nr_queues * page->nr_slots; i++) {
		const struct ub_ledger_sent *sent = ub_ledger_sent(page, side, 0, i);

		if (atomic_load_explicit(&sent->state, memory_order_acquire) != UB_SENT)
			continue;
		++*nr;
		*bytes += ranges_bytes(sent->start, sent->end, size_bytes);
	}
}

void ub_ranges_read_other(struct ub_ledger *page, unsigned side, uint64_t size_bytes,
			  uint64_t now_ms, struct ub_ranges *r)
{
	uint64_t bytes;
	unsigned nr;

	ub_ranges_read(page, side, size_bytes, now_ms, r);
	ub_ranges_read_sent(page, side, size_bytes, &nr, &bytes);
	r->nr += nr;
	r->nr_no_clock += nr;
	r->bytes += bytes;
}

/* ---- words and JSON ------------------------------------------------------ */

const char *ub_ranges_describe(const struct ub_ranges *r, char *buf, size_t len)
{
	char size[32];

	snprintf(buf, len, "%u range%s of %s%s", r->nr, r->nr == 1 ? "" : "s",
		 ub_size_format(r->bytes, size, sizeof(size)), r->nr == 1 ? "" : " together");
	return buf;
}

const char *ub_ranges_describe_end(const struct ub_ranges *r, char *buf, size_t len)
{
	if (r->nr_no_clock)
		snprintf(buf, len, "nobody knows for how long: the server has not been seen since");
	else
		snprintf(buf, len, "for %.1f s at the most", (double)r->left_ms / 1000);
	return buf;
}

enum ub_ranges_wait_state ub_ranges_wait(struct ub_ranges_wait *w, const struct ub_ranges *r,
					 uint64_t now_ms)
{
	if (!r->nr || !r->timeout_ms) {
		*w = (struct ub_ranges_wait){ 0 };
		return UB_RANGES_OVER;
	}
	if (!w->began_ms)
		w->began_ms = now_ms;
	if (r->nr_no_clock < r->nr)
		w->no_clock_ms = 0;
	else if (!w->no_clock_ms)
		w->no_clock_ms = now_ms;
	if (now_ms - w->began_ms > 2 * r->timeout_ms ||
	    (w->no_clock_ms && now_ms - w->no_clock_ms > r->timeout_ms))
		return UB_RANGES_TOO_LONG;
	return UB_RANGES_WAIT;
}

enum ub_ranges_wait_state ub_ranges_wait_other(struct ub_ranges_wait *w, const struct ub_ranges *r,
					       uint64_t now_ms, uint32_t dev_id)
{
	enum ub_ranges_wait_state state = ub_ranges_wait(w, r, now_ms);
	char what[80];

	if (state != UB_RANGES_TOO_LONG)
		return state;
	ub_log(UB_LOG_WARNING,
	       "/dev/ublkb%u goes, and %s may still be written where it was migrated from, or to",
	       dev_id, ub_ranges_describe(r, what, sizeof(what)));
	return UB_RANGES_OVER;
}

const char *ub_ranges_describe_wait(const struct ub_ranges *r, char *buf, size_t len)
{
	char what[80], end[80];

	snprintf(buf, len, "%s may still be written by lost connections, %s",
		 ub_ranges_describe(r, what, sizeof(what)),
		 ub_ranges_describe_end(r, end, sizeof(end)));
	return buf;
}

const char *ub_ranges_describe_rest(struct ub_ledger *page, uint64_t size_bytes, char *buf,
				    size_t len)
{
	struct ub_ranges sides[UB_LEDGER_SIDES];
	unsigned nr;

	for (unsigned i = 0; i < UB_LEDGER_SIDES; i++)
		ub_ranges_read_other(page, i, size_bytes, 0, &sides[i]);
	nr = sides[0].nr + sides[1].nr;
	buf[0] = '\0';
	if (nr)
		snprintf(buf, len, "%u range%s, %llu bytes of the old server may still be written",
			 nr, nr == 1 ? "" : "s",
			 (unsigned long long)(sides[0].bytes + sides[1].bytes));
	return buf;
}

static json_t *ranges_integer(uint64_t value)
{
	return json_integer((json_int_t)value);
}

static json_t *ranges_fence(const struct ub_ranges *r, const struct nbd_options *o)
{
	json_t *fence = json_object();
	bool has_clock = r->nr > r->nr_no_clock;

	if (o)
		json_object_set_new(fence, "policy", json_string(nbd_fence_name(o->fence_policy)));
	json_object_set_new(fence, "timeout_ms",
			    ranges_integer(o ? o->fence_timeout_ms : r->timeout_ms));
	if (o)
		json_object_set_new(fence, "command",
				    o->fence_command ? json_string(o->fence_command) : json_null());
	json_object_set_new(fence, "ranges", json_integer(r->nr));
	json_object_set_new(fence, "bytes", ranges_integer(r->bytes));
	json_object_set_new(fence, "waiting", ranges_integer(r->nr_waiting));
	json_object_set_new(fence, "late", ranges_integer(r->nr_late));
	json_object_set_new(fence, "oldest_ms",
			    has_clock ? ranges_integer(r->oldest_ms) : json_null());
	json_object_set_new(fence, "deadline_ms",
			    r->nr && !r->nr_no_clock ? ranges_integer(r->left_ms) : json_null());
	return fence;
}

static json_t *ranges_losses(const struct ub_ranges *r)
{
	json_t *last = r->last_loss_unix_s ? ranges_integer(r->last_loss_unix_s) : json_null();

	return json_pack("{s:I, s:I, s:o}", "count", (json_int_t)r->nr_losses, "bytes",
			 (json_int_t)r->lost_bytes, "last_unix", last);
}

void ub_ranges_to_json(const struct ub_ranges *r, const struct nbd_options *o, json_t *object)
{
	json_object_set_new(object, "fence", r ? ranges_fence(r, o) : json_null());
	json_object_set_new(object, "unflushed_bytes",
			    r ? ranges_integer(r->unflushed_bytes) : json_null());
	json_object_set_new(object, "losses", r ? ranges_losses(r) : json_null());
}

/* ---- another process's --------------------------------------------------- */

/* The descriptors of a process that are of interest: -1: it has none. */
struct view_files {
	int ledger_fd, stats_fd;
	bool has_device; /* its end of the device: it is the server */
};

static void view_look_at(int dir_fd, const char *name, const char *node, struct view_files *files)
{
	char link[64];
	ssize_t n = readlinkat(dir_fd, name, link, sizeof(link) - 1);

	link[n > 0 ? n : 0] = '\0';
	if (files->ledger_fd < 0 && strcmp(link, "/memfd:" UB_LEDGER_MEMFD " (deleted)") == 0)
		files->ledger_fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
	else if (files->stats_fd < 0 && strcmp(link, "/memfd:" UB_STATS_MEMFD " (deleted)") == 0)
		files->stats_fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
	else if (strcmp(link, node) == 0)
		files->has_device = true;
}

static void view_find_files(pid_t pid, uint32_t dev_id, struct view_files *files)
{
	char path[32], node[32];
	struct dirent *entry;
	DIR *dir;

	*files = (struct view_files){ -1, -1, false };
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	snprintf(node, sizeof(node), "/dev/ublkc%u", dev_id);
	dir = pid > 1 ? opendir(path) : NULL;
	while (dir && (entry = readdir(dir)))
		view_look_at(dirfd(dir), entry->d_name, node, files);
	if (dir)
		closedir(dir);
}

static void *view_map(int fd, size_t min_bytes, size_t *len_bytes)
{
	struct stat st;
	void *page;

	if (fd < 0 || fstat(fd, &st) < 0 || (size_t)st.st_size < min_bytes)
		return NULL;
	*len_bytes = (size_t)st.st_size;
	page = mmap(NULL, *len_bytes, PROT_READ, MAP_SHARED, fd, 0);
	return page == MAP_FAILED ? NULL : page;
}

static int view_open(struct view_files *files, struct ub_ledger_view *view)
{
	cleanup_fd int ledger_fd = files->ledger_fd, stats_fd = files->stats_fd;
	size_t stats_bytes;

	view->page = view_map(ledger_fd, UB_LEDGER_HEAD_BYTES, &view->len_bytes);
	view->stats = view_map(stats_fd, sizeof(*view->stats), &stats_bytes);
	view->stats_bytes = view->stats ? stats_bytes : 0;
	if (!view->page || !view->stats)
		return -ENOENT;
	/* Its geometry is its own. */
	return ub_ledger_check(view->page, view->len_bytes, view->page->nr_queues,
			       view->page->nr_slots);
}

int ub_ledger_view_open(const struct ub_state *state, struct ub_ledger_view *view)
{
	struct view_files files;
	int ret;

	*view = (struct ub_ledger_view){ 0 };
	view_find_files(ub_rundir_is_held(state->name) ? state->keeper_pid : 0, state->dev_id,
			&files);
	ret = view_open(&files, view);
	if (ret == 0)
		return 0;
	ub_ledger_view_close(view);
	view_find_files(state->server_pid, state->dev_id, &files);
	ret = view_open(&files, view);
	/* Numbers are used again, and another device's ledger is none. */
	if (ret == 0 && !files.has_device)
		ret = -ENOENT;
	if (ret)
		ub_ledger_view_close(view);
	return ret;
}

unsigned ub_ledger_view_side(const struct ub_ledger_view *view)
{
	return view->page ? ub_stat_side(view->stats) : 0;
}

void ub_ledger_view_read(const struct ub_ledger_view *view, uint64_t size_bytes,
			 struct ub_ranges *r)
{
	ub_ranges_read(view->page, ub_ledger_view_side(view), size_bytes, ub_now_ms(), r);
}

void ub_ledger_view_read_other(const struct ub_ledger_view *view, uint64_t size_bytes,
			       struct ub_ranges *r)
{
	ub_ranges_read_other(view->page, !ub_ledger_view_side(view), size_bytes, ub_now_ms(), r);
}

void ub_ledger_view_close(struct ub_ledger_view *view)
{
	if (view->page)
		munmap(view->page, view->len_bytes);
	if (view->stats)
		munmap(view->stats, view->stats_bytes);
	*view = (struct ub_ledger_view){ 0 };
}
