/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server's main thread: waits for what the keeper says (words.c), what the device says
 * (serve.c), and visitors (visitor.c), while the queue threads serve. It does nothing on its own
 * account.
 */
#include "server/server.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <ublk-bridge/message.h>

#include "backend/backend.h"
#include "backend/names.h"
#include "base/cleanup.h"
#include "base/node.h"
#include "base/step.h"
#include "server/isolate.h"
#include "server/state.h"
#include "server/words.h"

/* how often a standby without a keeper looks whether there is still a device */
#define SERVER_STALE_MS 1000

static void server_destroy(struct server *s)
{
	/* Its parts hang on each other, and on threads: the process's end takes them all. */
	if (ub_move_is_on(s))
		_exit(s->status);
	ub_device_close(&s->device);
	ub_backend_close(s->backend);
	atomic_store(&s->host.stats, NULL);
	if (s->stats)
		munmap(s->stats, s->stats_bytes);
	if (s->ledger)
		munmap(s->ledger, s->ledger_bytes);
	free(s->affinity);
	ub_close(&s->visitor_fd);
	ub_close(&s->listen_fd);
	ub_close(&s->store_fd);
	ub_close(&s->stats_fd);
	ub_close(&s->arena_fd);
	ub_close(&s->ledger_fd);
	ub_close(&s->served_pidfd);
	ub_rings_let_go(&s->served_rings);
}

/* A standby without a keeper: when the device is gone, nobody will come for it. */
static void server_look_whether_stale(struct server *s)
{
	if (!ub_node_is_known(UB_NODE_CHAR, s->device.config.dev_id))
		ub_server_over(s, UB_EXIT_DONE);
}

static void server_wait(struct server *s)
{
	bool is_alone = !s->has_keeper && s->phase == SERVER_READY;
	int move_ms = ub_move_wait_ms(s), yield_ms = ub_yield_wait_ms(s),
	    wait_ms = is_alone ? SERVER_STALE_MS : move_ms;

	ub_loop_once(&s->loop,
		     yield_ms >= 0 && (wait_ms < 0 || yield_ms < wait_ms) ? yield_ms : wait_ms);
	if (move_ms >= 0)
		ub_move_step(s);
	ub_yield_step(s);
	if (is_alone && s->phase == SERVER_READY && !s->has_keeper)
		server_look_whether_stale(s);
}

static void server_init(struct server *s)
{
	s->keeper_fd = UB_SERVER_SOCKET_FD;
	s->has_keeper = true;
	ub_names_set_keeper(s->keeper_fd);
	s->keeper_version = UB_MESSAGE_VERSION; /* it has executed its own binary */
	s->backend = &s->first_backend;
	ub_move_init(&s->move, ub_words_migration_is_over);
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		s->kept.fds[i] = -1;
	s->listen_fd = s->visitor_fd = s->store_fd = s->stats_fd = s->arena_fd = s->ledger_fd = -1;
	s->served_pidfd = -1;
	ub_server_host_init(&s->host, s);
	ub_loop_init(&s->loop);
}

int ub_server_main(void)
{
	static struct server server;
	struct server *s = &server;
	struct ub_err err = { 0 };

	server_init(s);
	prctl(PR_SET_NAME, UB_SERVER_COMM);
	ub_isolate();
	s->hear_keeper = ub_words_hear;
	ub_loop_add(&s->loop, s->keeper_fd, s->hear_keeper, s);
	if (ub_server_host_watch(&s->host, &err) || ub_step("server-hello", &err))
		ub_server_fail(s, &err);
	else if (ub_message_send_hello(s->keeper_fd) < 0)
		return UB_EXIT_FAILED;
	while (s->phase != SERVER_OVER)
		server_wait(s);
	server_destroy(s);
	return s->status;
}
