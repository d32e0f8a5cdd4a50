/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connector: one thread a back end that makes connections, compares what answers with the
 * export that the device was made from, hands ready ones to their queues, and frees those that
 * ended. It also tells the operator. What blocks here (a look-up of a name, a certificate's file)
 * delays no I/O: whoever waits for a range looks by itself whether that has ended.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <ublk-bridge/page.h>

#include "backend/nbd/nbd.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/socket.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define CONNECTOR_STACK_BYTES  (512U << 10)
#define CONNECTOR_ATTEMPT_MS   15000 /* to connect and to negotiate */
#define NS_PER_MS	       1000000ULL
#define CONNECTOR_MIN_DELAY_MS 100
#define CONNECTOR_MAX_DELAY_MS 5000
/* of a connection that was lost without having been of any use */
#define CONNECTOR_SHORT_LIFE_MS 1000
#define CONNECTOR_KNOCK_MS	2000 /* without a greeting, after a connection that we have reset */
#define CONNECTOR_END_TRIES	50   /* of 10 ms: a look-up of a name cannot be interrupted */

/* ---- links --------------------------------------------------------------- */

static uint64_t connector_stall_ms(const struct nbd_backend *be)
{
	return atomic_load_explicit(&be->stall_timeout_ms, memory_order_relaxed);
}

struct nbd_link *nbd_link_create(struct nbd_conn *conn, struct nbd_handle *handle,
				 const struct nbd_export *export)
{
	struct nbd_link *link = calloc(1, sizeof(*link));
	int fd = dup(nbd.aio_get_fd(handle));

	if (!link || fd < 0) {
		free(link);
		if (fd >= 0)
			close(fd);
		nbd.close(handle);
		return NULL;
	}
	link->conn = conn;
	link->handle = handle;
	link->fd = fd;
	link->is_tls = export->has_tls;
	link->has_structured_replies = export->has_structured_replies;
	link->has_status = export->can_status;
	link->max_payload_bytes = export->max_payload_bytes;
	link->size_bytes = export->size_bytes;
	atomic_store_explicit(&conn->be->seen_bytes, export->size_bytes, memory_order_relaxed);
	link->made_ms = ub_now_ms();
	link->entry = -1;
	link->kind = ub_socket_kind(fd);
	if (link->kind == UB_CONN_TCP)
		ub_socket_get_ends(fd, &link->ends);
	nbd_session_tune(fd, connector_stall_ms(conn->be), conn->be->send_bytes);
	link->held_id = ub_backend_hold_socket(conn->be->backend, fd);
	atomic_store_explicit(&conn->be->latency_ns, nbd_session_latency_ns(fd),
			      memory_order_relaxed);
	return link;
}

void nbd_link_free(struct nbd_link *link)
{
	nbd.close(link->handle);
	ub_host_drop_socket(link->conn->be->host, link->held_id);
	close(link->fd);
	free(link);
}

/* A half more or less: many devices of one server shall not come back all at once. */
static uint64_t connector_jitter(struct nbd_backend *be, uint64_t ms)
{
	return ms - ms / 4 + (uint64_t)rand_r(&be->seed) % (ms / 2 + 1);
}

static void connector_back_off(struct nbd_conn *conn)
{
	struct nbd_attempt *a = &conn->attempt;

	a->delay_ms = a->delay_ms ? 2 * a->delay_ms : CONNECTOR_MIN_DELAY_MS;
	if (a->delay_ms > CONNECTOR_MAX_DELAY_MS)
		a->delay_ms = CONNECTOR_MAX_DELAY_MS;
	a->not_before_ms = ub_now_ms() + connector_jitter(conn->be, a->delay_ms);
}

/* ---- what the operator is told ------------------------------------------- */

static unsigned connector_nr_given(const struct nbd_backend *be)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < be->nr_conns; i++)
		nr += be->conns[i].given != NULL;
	return nr;
}

/* An outage begins, or goes on. */
static void connector_is_offline(struct nbd_backend *be, uint64_t since_ms)
{
	if (be->offline_since_ms)
		return;
	be->offline_since_ms = since_ms;
	ub_stat_outage_begins(be->backend->stats, since_ms * NS_PER_MS);
}

/* All I/O fails from now on: there is nothing to wait for. */
static void connector_fail(struct nbd_backend *be, const char *why)
{
	char text[NBD_WHY_BYTES + 64];

	snprintf(text, sizeof(text), "%s: failed: %s", be->server, why);
	atomic_store_explicit(&be->has_failed, true, memory_order_release);
	connector_is_offline(be, ub_now_ms()); /* for good */
	ub_backend_report(be->backend, UB_HEALTH_FAILED, text);
	nbd_engine_kick_all(be);
}

/* Says why it is still offline, when that is another reason than before. */
static void connector_say_why(struct nbd_backend *be, const char *why)
{
	bool is_new = strcmp(be->last_why, why) != 0;

	pthread_mutex_lock(&be->outage_lock);
	be->nr_tries++;
	if (!be->tried_since_ms)
		be->tried_since_ms = be->offline_since_ms ? be->offline_since_ms : ub_now_ms();
	if (is_new)
		snprintf(be->last_why, sizeof(be->last_why), "%s", why);
	pthread_mutex_unlock(&be->outage_lock);
	if (is_new)
		ub_log(UB_LOG_WARNING, "%s: not reached: %s; retrying", be->server, why);
}

static void connector_forget_why(struct nbd_backend *be)
{
	pthread_mutex_lock(&be->outage_lock);
	be->last_why[0] = '\0';
	be->nr_tries = 0;
	be->tried_since_ms = 0;
	pthread_mutex_unlock(&be->outage_lock);
}

void nbd_connector_describe_outage(struct nbd_backend *be, char *buf, size_t len)
{
	buf[0] = '\0';
	pthread_mutex_lock(&be->outage_lock);
	if (be->nr_tries) {
		uint64_t ms = ub_now_ms() - be->tried_since_ms;

		snprintf(buf, len, "not reached for %llu.%llu s, %u %s: %s",
			 (unsigned long long)ms / 1000, (unsigned long long)ms % 1000 / 100,
			 be->nr_tries, be->nr_tries == 1 ? "try" : "tries", be->last_why);
	}
	pthread_mutex_unlock(&be->outage_lock);
}

static void connector_say_lost(struct nbd_backend *be, const struct nbd_link *link)
{
	char text[NBD_WHY_BYTES + 256];

	if (connector_nr_given(be) > 0) {
		ub_log(UB_LOG_NOTICE,
		       "%s: connection %u of %u is lost: %s; the others go on, and it is made "
		       "again",
		       be->server, link->conn->index + 1, be->nr_conns, link->why);
		return;
	}
	connector_is_offline(be, ub_now_ms());
	snprintf(text, sizeof(text), "%s: offline: %s; I/O waits, retrying", be->server, link->why);
	ub_backend_report(be->backend, UB_HEALTH_OFFLINE, text);
}

static void connector_say_online(struct nbd_backend *be)
{
	char text[320];
	uint64_t ms;

	if (!be->offline_since_ms)
		return;
	ms = ub_now_ms() - be->offline_since_ms;
	be->offline_since_ms = 0;
	ub_stat_outage_ends(be->backend->stats, ub_now_ms() * NS_PER_MS);
	connector_forget_why(be);
	snprintf(text, sizeof(text),
		 "%s: online again after %llu.%llu s; %u requests were sent again", be->server,
		 (unsigned long long)(ms / 1000), (unsigned long long)(ms % 1000 / 100),
		 be->nr_again);
	if (be->lost_bytes)
		snprintf(text + strlen(text), sizeof(text) - strlen(text),
			 "; %llu bytes had been answered and not flushed, and may be gone",
			 (unsigned long long)be->lost_bytes);
	be->nr_again = 0;
	be->lost_bytes = 0;
	ub_backend_report(be->backend, UB_HEALTH_ONLINE, text);
}

static void connector_say_stalled(struct nbd_backend *be)
{
	unsigned nr_online = 0, nr_stalled = 0, which = 0;
	char text[256];
	bool stalled;

	for (unsigned i = 0; i < be->nr_conns; i++) {
		nr_online += atomic_load_explicit(&be->conns[i].is_online, memory_order_acquire);
		if (!atomic_load_explicit(&be->conns[i].is_stalled, memory_order_acquire))
			continue;
		nr_stalled++;
		which = i;
	}
	if (nr_stalled && nr_online && !be->said_slow)
		ub_log(UB_LOG_NOTICE,
		       "%s: connection %u of %u gives no answer for %llu s; the others go on, and "
		       "it is made again",
		       be->server, which + 1, be->nr_conns,
		       (unsigned long long)connector_stall_ms(be) / 1000);
	be->said_slow = nr_stalled;
	/* While one of them works it is no outage. */
	stalled = nr_stalled && !nr_online;
	if (stalled && !be->said_stalled) {
		snprintf(text, sizeof(text), "%s: stalled: no answer for %llu s; %s", be->server,
			 (unsigned long long)connector_stall_ms(be) / 1000,
			 be->first.multi_conn ?
				 "another connection is tried" :
				 "after as long again it is given up, and made anew");
		connector_is_offline(be, ub_now_ms() - connector_stall_ms(be));
		ub_backend_report(be->backend, UB_HEALTH_OFFLINE, text);
	}
	if (!stalled && be->said_stalled && connector_nr_given(be) > 0)
		connector_say_online(be);
	be->said_stalled = stalled;
}

/* ---- connections that ended ---------------------------------------------- */

/*
 * Connections ended with answered changes that were not flushed. Nobody hears of it from the
 * server.
 */
static void connector_say_losses(struct nbd_backend *be)
{
	uint64_t bytes = atomic_exchange(&be->unsaid_lost_bytes, 0);

	if (!bytes)
		return;
	be->lost_bytes += bytes;
	ub_log(UB_LOG_WARNING,
	       "%s: a connection ended with %llu bytes answered and not flushed: if the server "
	       "died with it, it may have lost "
	       "them, and says nothing of it",
	       be->server, (unsigned long long)bytes);
}

/* Its conn has it no more. True if that leaves the conn without a connection. */
static bool connector_forget_link(struct nbd_link *link)
{
	struct nbd_conn *conn = link->conn;

	if (conn->given == link) {
		conn->given = link->unused ? link->replaced : NULL;
		return !conn->given;
	}
	if (conn->given && conn->given->replaced == link)
		conn->given->replaced = NULL;
	return false;
}

/* A conn without a connection: what does that mean for the whole? */
static void connector_lost(struct nbd_backend *be, const struct nbd_link *link)
{
	struct nbd_attempt *a = &link->conn->attempt;
	int phase = NBD_ATTACHING;

	/*
	 * At once; but a server that greets, and then fails on whatever it is asked, is not to be
	 * hammered.
	 */
	a->was_useless =
		(!link->has_answered && ub_now_ms() - link->made_ms < CONNECTOR_SHORT_LIFE_MS) ||
		(link->nr_got_again && !link->nr_done_again);
	if (a->was_useless)
		connector_back_off(link->conn);
	else
		a->not_before_ms = a->delay_ms = 0;
	if (atomic_load_explicit(&be->has_failed, memory_order_acquire) ||
	    atomic_load(&be->is_leaving))
		return;
	if (atomic_compare_exchange_strong(&be->phase, &phase, NBD_LOST) || phase == NBD_LOST)
		connector_fail(be, link->why);
	else if (be->options.transport == NBD_SOCKET && !be->options.restarts)
		connector_fail(be, "its connection was handed over ready made, and cannot be made "
				   "again");
	else
		connector_say_lost(be, link);
}

static void connector_take_link_back(struct nbd_backend *be, struct nbd_link *link)
{
	link->next = be->ended;
	be->ended = link;
	be->nr_again += link->nr_again;
	link->conn->old = link->ends;
	if (link->is_closed_by_peer || link->is_polite)
		link->conn->old.len = 0; /* the server knows */
	if (connector_forget_link(link))
		connector_lost(be, link);
}

/* What was retired since the last time, oldest first. */
static struct nbd_link *connector_pop_retired(struct nbd_backend *be)
{
	struct nbd_link *link = atomic_exchange_explicit(&be->retired, NULL, memory_order_acquire);
	struct nbd_link *oldest = NULL;

	while (link) {
		struct nbd_link *next = link->next;

		link->next = oldest;
		oldest = link;
		link = next;
	}
	return oldest;
}

static void connector_take_retired(struct nbd_backend *be)
{
	struct nbd_link *link = connector_pop_retired(be);

	while (link) {
		struct nbd_link *next = link->next;

		connector_take_link_back(be, link);
		link = next;
	}
}

/* Those that neither the ring nor the fence needs any more. */
static void connector_free_ended(struct nbd_backend *be)
{
	struct nbd_link **at = &be->ended;

	while (*at) {
		struct nbd_link *link = *at;

		if (atomic_load_explicit(&link->is_lost_yet, memory_order_acquire) ||
		    atomic_load_explicit(&link->nr_armed, memory_order_acquire)) {
			at = &link->next;
			continue;
		}
		*at = link->next;
		nbd_link_free(link);
	}
}

/*
 * A name server or a file may have kept the thread for so long that all that it worked for has
 * gone, `backend` too.
 */
static bool connector_must_end(const struct nbd_backend *be)
{
	return atomic_load_explicit(&be->must_end, memory_order_acquire);
}

/* ---- new connections ----------------------------------------------------- */

/*
 * A server with one place for clients that has not heard of the last connection's end accepts no
 * other, though its kernel does.
 */
static void connector_look_whether_to_knock(struct nbd_conn *conn)
{
	struct nbd_attempt *a = &conn->attempt;

	if (!a->knock_ms || ub_now_ms() < a->knock_ms)
		return;
	a->knock_ms = 0;
	if (!nbd.aio_is_negotiating(a->handle) && !nbd.aio_is_connecting(a->handle))
		return;
	ub_close(&conn->knock_fd);
	conn->knock_fd = ub_socket_knock(&conn->old);
	ub_log(UB_LOG_DEBUG,
	       "%s: it greets nobody: perhaps it has not heard of the last connection's end (%d)",
	       conn->be->server, conn->knock_fd);
}

static void connector_attempt_failed(struct nbd_conn *conn, const char *why)
{
	struct nbd_backend *be = conn->be;
	struct nbd_attempt *a = &conn->attempt;

	ub_close(&conn->knock_fd);
	if (a->handle)
		nbd.close(a->handle);
	a->handle = NULL;
	ub_stat_add(&be->backend->stats->failed_attempts, 1);
	/*
	 * One that was given up because it was silent may have died since, which nobody has seen.
	 */
	if (connector_nr_given(be) == 0 && atomic_load(&be->backend->is_destination))
		atomic_fetch_add_explicit(&be->nr_losses, 1, memory_order_acq_rel);
	if (connector_nr_given(be) == 0)
		nbd_engine_note_outage(be);
	connector_back_off(conn);
	if (connector_nr_given(be) == 0 || be->said_stalled)
		connector_say_why(be, why);
}

static void connector_say_grown(struct nbd_backend *be, const struct nbd_export *now)
{
	uint64_t size_bytes = atomic_load_explicit(&be->size_bytes, memory_order_acquire),
		 block = be->limits.logical_block_bytes;

	if (now->size_bytes / block * block <= size_bytes)
		return;
	if (now->size_bytes != be->said_grown_bytes)
		ub_log(UB_LOG_NOTICE,
		       "%s: the export has grown from %llu to %llu bytes: the device %s",
		       be->server, (unsigned long long)size_bytes,
		       (unsigned long long)now->size_bytes,
		       be->options.auto_resize ?
			       "follows" :
			       "keeps its size (ublk-bridge resize makes it larger)");
	be->said_grown_bytes = now->size_bytes;
	ub_backend_report_grown(be->backend);
}

/* The session is ready: is it the export that the device was made from? */
static void connector_attempt_ready(struct nbd_conn *conn)
{
	struct nbd_backend *be = conn->be;
	struct nbd_attempt *a = &conn->attempt;
	struct nbd_handle *handle = a->handle;
	struct ub_limits limits = be->limits;
	struct nbd_export now;
	struct nbd_link *link;
	struct ub_err err;

	ub_close(&conn->knock_fd);
	conn->old.len = 0;
	nbd_fence_prove(be, a->seq);
	if (atomic_load(&be->is_leaving)) { /* that was all that it was for */
		nbd.aio_disconnect(handle, 0);
		nbd.close(handle);
		a->handle = NULL;
		connector_back_off(conn);
		return;
	}
	limits.size_bytes = atomic_load_explicit(&be->size_bytes, memory_order_acquire);
	if (nbd_session_export(handle, &now, &err) != 0 ||
	    nbd_export_compare(&be->first, &now, &limits, be->nr_conns, &err) != 0) {
		nbd.aio_disconnect(handle, 0);
		connector_attempt_failed(conn, err.text);
		return;
	}
	a->handle = NULL;
	link = nbd_link_create(conn, handle, &now);
	if (!link) {
		connector_attempt_failed(conn, "no memory for the connection");
		return;
	}
	link->replaced = conn->given;
	conn->given = link;
	nbd_engine_give(link);
	if (!link->replaced)
		connector_say_online(be);
	connector_say_grown(be, &now);
	for (unsigned i = 0; i < be->nr_conns; i++) { /* the server is there for the others, too */
		if (!be->conns[i].attempt.was_useless)
			be->conns[i].attempt.not_before_ms = 0;
	}
	/* Not what it was made for: the next one will hardly be another, yet. */
	if (now.size_bytes < atomic_load_explicit(&be->wanted_bytes, memory_order_acquire))
		connector_back_off(conn);
}

static void connector_attempt_continue(struct nbd_conn *conn, short revents)
{
	struct ub_err err;
	int ret = nbd_session_continue(conn->attempt.handle, revents, &err);

	if (connector_must_end(conn->be))
		return;
	if (ret == 0 && ub_now_ms() >= conn->attempt.deadline_ms)
		ret = ub_err_set(&err, ETIMEDOUT,
				 "cannot connect: the server did not negotiate within %d s",
				 CONNECTOR_ATTEMPT_MS / 1000);
	if (ret < 0)
		connector_attempt_failed(conn, err.text);
	else if (ret == 1)
		connector_attempt_ready(conn);
}

static void connector_attempt_start(struct nbd_conn *conn)
{
	struct nbd_backend *be = conn->be;
	struct nbd_attempt *a = &conn->attempt;
	struct ub_err err;
	int fd = -1;

	if (be->options.transport == NBD_SOCKET) {
		fd = atomic_exchange_explicit(&be->next_socket, -1, memory_order_acq_rel);
		if (fd < 0) {
			a->not_before_ms = UINT64_MAX; /* until one comes */
			return;
		}
	}
	a->seq = atomic_load_explicit(&be->fence.seq, memory_order_acquire);
	a->deadline_ms = ub_now_ms() + CONNECTOR_ATTEMPT_MS;
	a->knock_ms = conn->old.len ? ub_now_ms() + CONNECTOR_KNOCK_MS : 0;
	a->handle = nbd_session_start(&be->options, fd, &err);
	if (connector_must_end(be))
		return;
	if (a->handle)
		/* a quick server's is ready already: no event follows */
		connector_attempt_continue(conn, 0);
	else
		connector_attempt_failed(conn, err.text);
}

static bool conn_wants_link(const struct nbd_conn *conn)
{
	if (conn->attempt.handle)
		return false;
	/* No connection is needed any more but for a sign of life, which ranges wait for. */
	if (atomic_load(&conn->be->is_leaving))
		return conn->index == 0 && conn->be->options.transport != NBD_SOCKET &&
		       atomic_load_explicit(&conn->be->fence.nr_unproven, memory_order_acquire);
	if (!conn->given)
		return true;
	if (conn->given->replaced)
		return false;
	/*
	 * One that is not safe for several connections has no other while this one may still be at
	 * work.
	 */
	return (atomic_load_explicit(&conn->is_stalled, memory_order_acquire) &&
		conn->be->first.multi_conn) ||
	       conn->given->size_bytes <
		       atomic_load_explicit(&conn->be->wanted_bytes, memory_order_acquire);
}

/* Whether every queue's thread runs. */
static bool connector_has_queues(struct nbd_backend *be)
{
	unsigned nr = atomic_load_explicit(&be->nr_started, memory_order_acquire);

	return nr && nr == atomic_load_explicit(&be->nr_queues, memory_order_acquire);
}

/* Until it is connected again it is as offline as it would be after an outage. */
static void connector_say_recovered(struct nbd_backend *be)
{
	char text[256];

	be->has_said_recovered = true;
	connector_is_offline(be, ub_now_ms());
	snprintf(text, sizeof(text),
		 "%s: offline: this server process is new; I/O waits, connecting", be->server);
	ub_backend_report(be->backend, UB_HEALTH_OFFLINE, text);
	if (be->options.transport == NBD_SOCKET && !be->options.restarts)
		connector_fail(be, "its connection was handed over ready made, and cannot be made "
				   "again");
}

static void connector_start_attempts(struct nbd_backend *be)
{
	uint64_t now = ub_now_ms();

	if (!connector_has_queues(be) ||
	    atomic_load_explicit(&be->has_failed, memory_order_acquire))
		return;
	if (be->is_recovered && !be->has_said_recovered)
		connector_say_recovered(be);
	if (be->options.transport == NBD_SOCKET && atomic_load(&be->next_socket) >= 0)
		be->conns[0].attempt.not_before_ms = 0;
	for (unsigned i = 0; i < be->nr_conns; i++) {
		struct nbd_conn *conn = &be->conns[i];

		if (connector_must_end(be))
			return;
		if (conn_wants_link(conn) && now >= conn->attempt.not_before_ms)
			connector_attempt_start(conn);
	}
}

/* ---- the thread ---------------------------------------------------------- */

struct connector_polls {
	struct pollfd fds[1 + NBD_MAX_CONNECTIONS];
	unsigned nr;
	struct nbd_conn *conns[NBD_MAX_CONNECTIONS]; /* of fds[1], … */
	unsigned nr_conns;
	uint64_t until_ms;
};

static void polls_until(struct connector_polls *p, uint64_t ms)
{
	if (ms < p->until_ms)
		p->until_ms = ms;
}

static void connector_collect(struct nbd_backend *be, struct connector_polls *p)
{
	bool has_failed = atomic_load_explicit(&be->has_failed, memory_order_acquire);
	uint64_t fence_ms = nbd_fence_next_ms(be);

	p->nr = 1;
	p->nr_conns = 0;
	p->until_ms = UINT64_MAX;
	p->fds[0] = (struct pollfd){ .fd = be->wake_fd, .events = POLLIN };
	for (unsigned i = 0; i < be->nr_conns; i++) {
		struct nbd_conn *conn = &be->conns[i];

		if (conn->attempt.handle) {
			p->fds[p->nr].fd =
				nbd_session_events(conn->attempt.handle, &p->fds[p->nr].events);
			p->fds[p->nr++].revents = 0;
			p->conns[p->nr_conns++] = conn;
			polls_until(p, conn->attempt.deadline_ms);
			if (conn->attempt.knock_ms)
				polls_until(p, conn->attempt.knock_ms);
		} else if (!has_failed && conn_wants_link(conn)) {
			polls_until(p, conn->attempt.not_before_ms);
		}
	}
	if (fence_ms != UINT64_MAX)
		polls_until(p, ub_now_ms() + fence_ms + 1);
}

static void connector_wait(struct nbd_backend *be, struct connector_polls *p)
{
	uint64_t now = ub_now_ms();
	eventfd_t ignored;
	int timeout = -1;

	if (p->until_ms != UINT64_MAX && connector_has_queues(be))
		timeout = p->until_ms <= now		? 0 :
			  p->until_ms - now > INT32_MAX ? INT32_MAX :
							  (int)(p->until_ms - now);
	if (poll(p->fds, p->nr, timeout) < 0)
		return;
	if (p->fds[0].revents)
		eventfd_read(be->wake_fd, &ignored);
	for (unsigned i = 0; i < p->nr_conns && !connector_must_end(be); i++) {
		connector_look_whether_to_knock(p->conns[i]);
		if (p->fds[1 + i].revents || ub_now_ms() >= p->conns[i]->attempt.deadline_ms)
			connector_attempt_continue(p->conns[i], p->fds[1 + i].revents);
	}
}

int nbd_thread_use_reserve(bool use)
{
	struct sched_param param = { .sched_priority = use ? sched_get_priority_min(SCHED_RR) : 0 };

	/*
	 * The page allocator stops all others at a watermark, and a real-time thread at half of it.
	 */
	return sched_setscheduler(0, use ? SCHED_RR | SCHED_RESET_ON_FORK : SCHED_OTHER, &param) <
			       0 ?
		       -errno :
		       0;
}

/* What this thread needs while memory is short must be there by then: all of its stack. */
static void connector_lock_stack(void)
{
	pthread_attr_t attr;
	size_t bytes;
	void *stack;

	if (pthread_getattr_np(pthread_self(), &attr))
		return;
	if (pthread_attr_getstack(&attr, &stack, &bytes) == 0 && mlock(stack, bytes) < 0)
		ub_log(UB_LOG_DEBUG, "cannot lock the connector's stack: %s", strerror(errno));
	pthread_attr_destroy(&attr);
}

static void *connector_main(void *arg)
{
	struct nbd_backend *be = arg;
	struct connector_polls polls;

	prctl(PR_SET_NAME, "ublk-connector");
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	nbd_thread_use_reserve(true);
	connector_lock_stack();
	while (!connector_must_end(be)) {
		connector_say_losses(be);
		connector_take_retired(be);
		if (atomic_exchange(&be->must_tell_ranges, false))
			ub_backend_report_ranges(be->backend);
		connector_say_stalled(be);
		nbd_fence_tend(be);
		connector_free_ended(be);
		connector_start_attempts(be);
		if (connector_must_end(be))
			break;
		connector_collect(be, &polls);
		connector_wait(be, &polls);
	}
	if (atomic_exchange(&be->is_over, true)) { /* its owner did not wait for this */
		nbd_connector_take_all(be);
		nbd_backend_free(be);
	}
	return NULL;
}

void nbd_connector_wake(struct nbd_backend *be)
{
	if (eventfd_write(be->wake_fd, 1) < 0)
		ub_log(UB_LOG_DEBUG, "the connector cannot be woken: %s", strerror(errno));
}

void nbd_connector_retire(struct nbd_link *link)
{
	struct nbd_backend *be = link->conn->be;
	struct nbd_link *head = atomic_load_explicit(&be->retired, memory_order_relaxed);

	do {
		link->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&be->retired, &head, link,
							memory_order_release,
							memory_order_relaxed));
	nbd_connector_wake(be);
}

int nbd_connector_start(struct nbd_backend *be, struct ub_err *err)
{
	pthread_attr_t attr;
	int ret;

	be->seed = (unsigned)getpid() ^ (unsigned)ub_now_ms();
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, CONNECTOR_STACK_BYTES);
	ret = pthread_create(&be->thread, &attr, connector_main, be);
	pthread_attr_destroy(&attr);
	if (ret)
		return ub_err_errno(err, ret, "cannot start the connector's thread");
	be->has_thread = true;
	return 0;
}

void nbd_connector_stop(struct nbd_backend *be)
{
	const struct timespec pause = { .tv_nsec = 10L * 1000 * 1000 };
	int ret = EBUSY;

	if (!be->has_thread)
		return;
	atomic_store_explicit(&be->must_end, true, memory_order_release);
	nbd_connector_wake(be);
	for (unsigned i = 0; i < CONNECTOR_END_TRIES && ret; i++) {
		ret = pthread_tryjoin_np(be->thread, NULL);
		if (ret)
			nanosleep(&pause, NULL);
	}
	be->has_thread = ret != 0; /* it waits for a name server */
	if (be->has_thread)
		return;
	nbd_connector_take_all(be);
}

void nbd_connector_take_all(struct nbd_backend *be)
{
	for (struct nbd_link *link = connector_pop_retired(be), *next; link; link = next) {
		next = link->next;
		connector_forget_link(link);
		link->next = be->ended;
		be->ended = link;
	}
}
