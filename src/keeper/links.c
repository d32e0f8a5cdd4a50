/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Holding servers' connections, and resetting those of dead ones. The keeper's main thread. */
#include "keeper/links.h"

#include <errno.h>
#include <stddef.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/socket.h"

#define LINKS_LOOK_MS 50 /* how often at those whose other end has not read all */

/* ---- those that are held ------------------------------------------------- */

static void links_remove(struct ub_links *l, unsigned i)
{
	ub_close(&l->held[i].fd);
	l->held[i] = l->held[--l->nr];
}

static struct ub_link *links_find(struct ub_links *l, pid_t pid, uint32_t id)
{
	for (unsigned i = 0; i < l->nr; i++) {
		if (l->held[i].pid == pid && l->held[i].id == id)
			return &l->held[i];
	}
	return NULL;
}

/* It has its reset: from now on the other end has all that it will ever get. */
static void links_conn_is_reset(struct ub_ledger_conn *conn)
{
	atomic_store_explicit(&conn->reset_ms, ub_now_ms(), memory_order_relaxed);
	atomic_store_explicit(&conn->state, UB_CONN_RESET, memory_order_release);
}

static void links_set_timer(struct ub_links *l, bool is_on)
{
	const struct timespec look = { .tv_nsec = is_on ? LINKS_LOOK_MS * 1000000L : 0 };
	const struct itimerspec timer = { .it_interval = look, .it_value = look };

	timerfd_settime(l->timer_fd, 0, &timer, NULL);
}

static void links_look(void *arg)
{
	struct ub_links *l = arg;
	bool is_over = true;
	uint64_t ignored;

	if (read(l->timer_fd, &ignored, sizeof(ignored)) != (ssize_t)sizeof(ignored))
		return;
	for (unsigned i = l->nr; i-- > 0;) {
		struct ub_link *link = &l->held[i];

		if (!link->lost)
			continue;
		if (!ub_socket_reset(link->fd, link->kind)) {
			is_over = false;
			continue;
		}
		links_conn_is_reset(link->lost);
		links_remove(l, i);
	}
	if (is_over)
		links_set_timer(l, false);
}

int ub_links_open(struct ub_links *l, struct ub_loop *loop, struct ub_err *err)
{
	l->loop = loop;
	l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (l->timer_fd < 0)
		return ub_err_errno(err, errno, "a timer");
	ub_loop_add(loop, l->timer_fd, links_look, l);
	return 0;
}

void ub_links_add(struct ub_links *l, pid_t pid, uint32_t id, int fd)
{
	if (l->nr == UB_LINKS_MAX) {
		ub_close(&fd);
		return;
	}
	l->held[l->nr++] =
		(struct ub_link){ .pid = pid, .id = id, .fd = fd, .kind = ub_socket_kind(fd) };
}

void ub_links_drop(struct ub_links *l, pid_t pid, uint32_t id)
{
	struct ub_link *link = links_find(l, pid, id);

	if (link)
		links_remove(l, (unsigned)(link - l->held));
}

/* ---- a process that is dead ---------------------------------------------- */

static bool links_conn_is_open(const struct ub_ledger_conn *conn, unsigned *state)
{
	*state = atomic_load_explicit(&conn->state, memory_order_acquire);
	return *state == UB_CONN_OPEN || *state == UB_CONN_LOST;
}

/* An entry of a dead process's. True: it is over. */
static bool links_conn_died(struct ub_ledger_conn *conn, unsigned state, struct ub_link *link)
{
	if (!link)
		return true;
	/* At one that was LOST its process has looked, and has shut it down since. */
	if (state == UB_CONN_OPEN && ub_socket_is_closed_by_peer(link->fd, link->kind))
		atomic_fetch_or(&conn->flags, UB_CONN_CLOSED);
	if (ub_socket_reset(link->fd, link->kind))
		return true;
	link->lost = conn;
	atomic_store_explicit(&conn->state, UB_CONN_LOST, memory_order_release);
	return false;
}

static void links_side_died(struct ub_links *l, unsigned side, pid_t pid)
{
	for (unsigned i = 0; i < l->ledger->nr_conns; i++) {
		struct ub_ledger_conn *conn = ub_ledger_conn(l->ledger, side, i);
		unsigned state;

		if (!links_conn_is_open(conn, &state) || conn->pid != pid)
			continue;
		if (links_conn_died(conn, state, links_find(l, pid, conn->id)))
			links_conn_is_reset(conn);
		else
			links_set_timer(l, true);
	}
}

void ub_links_server_died(struct ub_links *l, pid_t pid)
{
	for (unsigned side = 0; side < UB_LEDGER_SIDES && l->ledger; side++)
		links_side_died(l, side, pid);
	/* Those whose entry is over now, and those that have none. */
	for (unsigned i = l->nr; i-- > 0;) {
		if (l->held[i].pid != pid || l->held[i].lost)
			continue;
		ub_socket_reset(l->held[i].fd, l->held[i].kind);
		links_remove(l, i);
	}
}

void ub_links_inherit(struct ub_links *l, pid_t live_pid)
{
	for (unsigned i = 0; i < UB_LEDGER_SIDES * l->ledger->nr_conns; i++) {
		struct ub_ledger_conn *conn =
			ub_ledger_conn(l->ledger, i / l->ledger->nr_conns, i % l->ledger->nr_conns);
		unsigned state;

		if (links_conn_is_open(conn, &state) && conn->pid != live_pid)
			links_conn_is_reset(conn);
	}
}

void ub_links_clear(struct ub_links *l)
{
	while (l->nr)
		links_remove(l, l->nr - 1);
	if (l->timer_fd >= 0)
		links_set_timer(l, false);
	l->ledger = NULL;
}
