/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connector: one thread a back end that makes connections, compares what answers with the
 * export that the device was made from, hands ready ones to their queues, and frees those that
 * ended. It also tells the operator. What blocks here (a look-up of a name, a certificate's file)
 * delays no I/O: whoever waits for a range looks by itself whether that has ended.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <ublk-bridge/page.h>

#include "backend/nbd/connector.h"
#include "backend/nbd/fence.h"
#include "backend/nbd/library.h"
#include "backend/nbd/outage.h"
#include "backend/nbd/reserve.h"
#include "backend/nbd/say.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/socket.h"

#define CONNECTOR_STACK_BYTES  (512U << 10)
#define CONNECTOR_ATTEMPT_MS   15000 /* to connect and to negotiate */
#define CONNECTOR_MIN_DELAY_MS 100
#define CONNECTOR_MAX_DELAY_MS 5000
/* of a connection that was lost without having been of any use */
#define CONNECTOR_SHORT_LIFE_MS 1000
#define CONNECTOR_KNOCK_MS	2000 /* without a greeting, after a connection that we have reset */
#define CONNECTOR_END_TRIES	50   /* of 10 ms: a look-up of a name cannot be interrupted */

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

/* ---- connections that ended ---------------------------------------------- */

/* All I/O fails from now on: there is nothing to wait for. */
static void connector_fail(struct nbd_backend *be, const char *why)
{
	atomic_store_explicit(&be->has_failed, true, memory_order_release);
	nbd_say_failed(be, why);
	nbd_conns_kick(be);
}

/* Its conn has it no more. True if that leaves the conn without a connection. */
static bool connector_forget_link(struct nbd_link *link)
{
	struct nbd_conn *conn = link->conn;

	if (conn->given == link) {
		conn->given = nbd_link_state(link) == NBD_LINK_UNUSED ? link->replaced : NULL;
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
	else if (be->options.address.transport == NBD_SOCKET && !be->options.restarts)
		connector_fail(be, "its connection was handed over ready made, and cannot be made "
				   "again");
	else
		nbd_say_lost(be, link);
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

static void connector_take_retired(struct nbd_backend *be)
{
	struct nbd_link *link = nbd_link_take_retired(be);

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

		if (nbd_link_is_fenced(link) || !link->engine->is_idle(link)) {
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

const struct nbd_engine *nbd_connector_engine(const struct nbd_address *a)
{
	(void)a; /* there is one, and it can do everything */
	return &nbd_engine_libnbd;
}

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
		nbd_session_close(a->handle, false);
	a->handle = NULL;
	ub_stat_add(&be->backend->stats->failed_attempts, 1);
	/*
	 * One that was given up because it was silent may have died since, which nobody has seen.
	 */
	if (nbd_nr_given(be) == 0 && atomic_load(&be->backend->is_destination))
		atomic_fetch_add_explicit(&be->nr_losses, 1, memory_order_acq_rel);
	if (nbd_nr_given(be) == 0)
		nbd_outage_note(be);
	connector_back_off(conn);
	if (nbd_nr_given(be) == 0 || be->said_stalled)
		nbd_say_why(be, why);
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
		nbd_session_close(handle, true);
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
	link = nbd_link_create(conn, nbd_connector_engine(&be->options.address), handle, &now);
	if (!link) {
		connector_attempt_failed(conn, "no memory for the connection");
		return;
	}
	link->replaced = conn->given;
	conn->given = link;
	nbd_conn_give(link);
	if (!link->replaced)
		nbd_say_online(be);
	nbd_say_grown(be, &now);
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

	if (be->options.address.transport == NBD_SOCKET) {
		fd = atomic_exchange_explicit(&be->next_socket, -1, memory_order_acq_rel);
		if (fd < 0) {
			a->not_before_ms = UINT64_MAX; /* until one comes */
			return;
		}
	}
	a->seq = atomic_load_explicit(&be->fence.seq, memory_order_acquire);
	a->deadline_ms = ub_now_ms() + CONNECTOR_ATTEMPT_MS;
	a->knock_ms = conn->old.len ? ub_now_ms() + CONNECTOR_KNOCK_MS : 0;
	a->handle = nbd_session_start(&be->options.address,
				      nbd_connector_engine(&be->options.address)
					      ->wants_structured_replies,
				      fd, &err);
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
		return conn->index == 0 && conn->be->options.address.transport != NBD_SOCKET &&
		       atomic_load_explicit(&conn->be->fence.nr_unproven, memory_order_acquire);
	if (!conn->given)
		return true;
	if (conn->given->replaced)
		return false;
	/*
	 * One that is not safe for several connections has no other while this one may still be at
	 * work.
	 */
	return (nbd_conn_is_stalled(conn) && conn->be->first.multi_conn) ||
	       conn->given->size_bytes <
		       atomic_load_explicit(&conn->be->wanted_bytes, memory_order_acquire);
}

/* Whether every queue's thread runs. */
static bool connector_has_queues(struct nbd_backend *be)
{
	unsigned nr = atomic_load_explicit(&be->nr_started, memory_order_acquire);

	return nr && nr == atomic_load_explicit(&be->nr_queues, memory_order_acquire);
}

/* The first time that a new server process of a live device looks for connections. */
static void connector_begin_recovered(struct nbd_backend *be)
{
	be->has_said_recovered = true;
	nbd_say_recovered(be);
	if (be->options.address.transport == NBD_SOCKET && !be->options.restarts)
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
		connector_begin_recovered(be);
	if (be->options.address.transport == NBD_SOCKET && atomic_load(&be->next_socket) >= 0)
		be->conns[0].attempt.not_before_ms = 0;
	for (unsigned i = 0; i < be->nr_conns; i++) {
		struct nbd_conn *conn = &be->conns[i];

		if (connector_must_end(be))
			return;
		if (conn_wants_link(conn) && now >= conn->attempt.not_before_ms)
			connector_attempt_start(conn);
	}
}

/* ---- a turn -------------------------------------------------------------- */

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

/* ---- the end ------------------------------------------------------------- */

static void connector_free_links(struct nbd_link *link)
{
	while (link) {
		struct nbd_link *next = link->next;

		nbd_link_free(link);
		link = next;
	}
}

void nbd_connector_free(struct nbd_backend *be)
{
	int fd = atomic_exchange_explicit(&be->next_socket, -1, memory_order_acq_rel);

	ub_close(&fd);
	for (unsigned i = 0; i < be->nr_conns && be->conns; i++) {
		struct nbd_conn *conn = &be->conns[i];

		if (conn->attempt.handle)
			nbd_session_close(conn->attempt.handle, false);
		ub_close(&conn->knock_fd);
		if (!conn->given)
			continue;
		/* a last word, if it can be said at once */
		conn->given->engine->bye(conn->given);
		if (conn->given->replaced)
			nbd_link_free(conn->given->replaced);
		nbd_link_free(conn->given);
	}
	connector_free_links(be->ended);
	free(be->own_ledger);
	pthread_mutex_destroy(&be->fence_lock);
	pthread_mutex_destroy(&be->works_lock);
	pthread_mutex_destroy(&be->outage_lock);
	free(be->conns);
	ub_close(&be->wake_fd);
	nbd_options_destroy(&be->options);
	free(be);
}

void nbd_connector_take_all(struct nbd_backend *be)
{
	for (struct nbd_link *link = nbd_link_take_retired(be), *next; link; link = next) {
		next = link->next;
		connector_forget_link(link);
		link->next = be->ended;
		be->ended = link;
	}
}

/* ---- the thread ---------------------------------------------------------- */

static void *connector_main(void *arg)
{
	struct nbd_backend *be = arg;
	struct connector_polls polls;

	prctl(PR_SET_NAME, "ublk-connector");
	nbd_reserve_prepare_connector();
	while (!connector_must_end(be)) {
		nbd_say_losses(be);
		connector_take_retired(be);
		if (atomic_exchange(&be->must_tell_ranges, false))
			ub_backend_report_ranges(be->backend);
		nbd_say_stalled(be);
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
		nbd_connector_free(be);
	}
	return NULL;
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
	nbd_wake_connector(be);
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
