/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Holding a server's connections, and seeing them end. The keeper's main thread. */
#include "keeper/links.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/log.h"

#define LINKS_READS 64 /* of what the other end still says, at a time: it may never stop */

void ub_links_add(struct ub_links *f, uint32_t id, int fd)
{
	if (f->nr == UB_LINKS_MAX) {
		f->has_lost = true;
		ub_close(&fd);
		return;
	}
	f->held[f->nr].id = id;
	f->held[f->nr].is_cut = false;
	f->held[f->nr++].fd = fd;
}

static void links_remove(struct ub_links *f, unsigned i)
{
	ub_close(&f->held[i].fd);
	f->held[i] = f->held[--f->nr];
}

void ub_links_drop(struct ub_links *f, uint32_t id)
{
	for (unsigned i = 0; i < f->nr; i++) {
		if (f->held[i].id == id) {
			links_remove(f, i);
			return;
		}
	}
}

/* An end that nobody at the other one has to know of: a time-out, no route. */
static bool links_is_closed_here(int fd)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_state == TCP_CLOSE;
}

/* Whether the other end has closed its side, or sent a reset. */
static bool links_is_closed(struct ub_links *f, unsigned i)
{
	unsigned left = LINKS_READS;
	char scrap[4096];
	ssize_t n;

	if (f->held[i].is_cut)
		return false;
	do {
		n = recv(f->held[i].fd, scrap, sizeof(scrap), MSG_DONTWAIT);
	} while ((n > 0 || (n < 0 && errno == EINTR)) && --left);
	/* Any other error than these is our own side's view, and told once: then it looks like a close. */
	f->held[i].is_cut = n < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNRESET && errno != EPIPE;
	return n == 0 || (n < 0 && (errno == ECONNRESET || errno == EPIPE));
}

void ub_links_begin(struct ub_links *f, uint64_t timeout_ms, bool is_blind)
{
	f->has_lost |= is_blind;
	f->deadline_ms = ub_now_ms() + timeout_ms;
	for (unsigned i = f->nr; i-- > 0;) {
		/* Closed before we have closed it: by a reset, if that is still to be heard, or by a time-out. */
		bool was_closed = links_is_closed_here(f->held[i].fd);
		char scrap;

		if (was_closed && !(recv(f->held[i].fd, &scrap, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET))
			f->held[i].is_cut = true;
		else if (was_closed)
			links_remove(f, i);
		else
			shutdown(f->held[i].fd, SHUT_WR); /* no half-sent request can be completed any more */
	}
}

bool ub_links_passed(struct ub_links *f)
{
	static const struct linger reset = { .l_onoff = 1, .l_linger = 0 };

	for (unsigned i = f->nr; i-- > 0;) {
		if (links_is_closed(f, i))
			links_remove(f, i);
	}
	if (f->nr == 0 && !f->has_lost)
		return true;
	if (ub_now_ms() < f->deadline_ms)
		return false;
	if (f->nr)
		ub_log(UB_LOG_WARNING,
		       "%u connections of the dead server were not closed by the other end in time: they are reset, and "
		       "writes that are still executed there may land on newer data",
		       f->nr);
	for (unsigned i = 0; i < f->nr; i++)
		setsockopt(f->held[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	ub_links_clear(f);
	return true;
}

void ub_links_clear(struct ub_links *f)
{
	while (f->nr)
		links_remove(f, f->nr - 1);
	f->has_lost = false;
}
