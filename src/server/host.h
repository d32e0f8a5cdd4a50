/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the server is for its back ends: it takes what they report, and passes on to the keeper what
 * that is to know. And where the server's log goes. The main thread's, but for what is marked.
 */
#ifndef UB_SERVER_HOST_H
#define UB_SERVER_HOST_H

#include <stdbool.h>
#include <stddef.h>

#include <ublk-bridge/backend.h>

#include "base/err.h"

struct server;
struct ub_stats_page;

/* Before anything is logged, and before a back end is open: both go to the keeper from now on. */
void ub_host_init(struct server *s);
/* In the loop: a back end that has failed ends an attach. 0 or -errno with *err. */
int ub_host_watch(struct server *s, struct ub_err *err);

/* The connections there are, and those to come, are told to a keeper. False: there is none. */
void ub_host_set_keeper(bool has_keeper);

/* The statistics page, for what a keeper cannot be told; NULL: it goes. */
void ub_host_set_stats(struct ub_stats_page *stats);

/* What the device's back end said of itself last, and why: len bytes of it. Any thread. */
enum ub_health ub_host_health(char *why, size_t len);

#endif
