/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a server is told to serve: CONFIG and SERVE. The keeper's main thread. */
#ifndef UB_KEEPER_BRIEF_H
#define UB_KEEPER_BRIEF_H

#include "base/err.h"

struct ub_keeper;
struct ub_server;

/*
 * What is to be opened; with what is known of it when the server is a standby. 0 or -errno with
 * *err.
 */
int ub_brief_send_config(struct ub_keeper *k, struct ub_server *server, struct ub_err *err);
/* The device, and the descriptors of what servers share. 0 or -errno with *err. */
int ub_brief_send_serve(struct ub_keeper *k, struct ub_server *server, struct ub_err *err);

#endif
