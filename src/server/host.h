/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the server is for its back ends, a migration's destination included: it takes what they
 * report, and passes on to the keeper what that is to know. And where the server's log goes. The
 * main thread's, but for what is marked.
 */
#ifndef UB_SERVER_HOST_H
#define UB_SERVER_HOST_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include <ublk-bridge/backend.h>

#include "base/err.h"
#include "server/sockets.h"

struct server;
struct ub_stats_page;

struct server_host {
	struct ub_host host; /* for ub_backend_config */
	struct server *server;
	int event_fd; /* readable: the health has changed */
	/* What a keeper cannot be told is noted there; NULL: it is not mapped. Any thread reads. */
	struct ub_stats_page *_Atomic stats;
	struct ub_sockets sockets;
	/* What the device's back end said of itself last: its threads write it, seldom. */
	pthread_mutex_t lock;
	enum ub_health health;
	char why[200];
};

/* Before anything is logged, and before a back end is open: both go to the keeper from now on. */
void ub_server_host_init(struct server_host *h, struct server *s);
/* In the loop: a back end that has failed ends an attach. 0 or -errno with *err. */
int ub_server_host_watch(struct server_host *h, struct ub_err *err);

/* The connections there are, and those to come, are told to a keeper. False: there is none. */
void ub_server_host_set_keeper(struct server_host *h, bool has_keeper);

/* What the device's back end said of itself last, and why: len bytes of it. Any thread. */
enum ub_health ub_server_host_health(struct server_host *h, char *why, size_t len);

#endif
