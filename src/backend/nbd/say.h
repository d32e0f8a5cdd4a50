/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the operator is told of a back end's connections: its health, its outages, and why it is not
 * reached. The connector's, but for what is marked: what has been said already is in the back end.
 */
#ifndef UB_BACKEND_NBD_SAY_H
#define UB_BACKEND_NBD_SAY_H

#include "backend/nbd/nbd.h"

/* An outage has begun at since_ms (ub_now_ms()), or goes on. */
void nbd_say_offline_since(struct nbd_backend *be, uint64_t since_ms);
/* All I/O fails from now on: there is nothing to wait for. */
void nbd_say_failed(struct nbd_backend *be, const char *why);
/* Until it is connected again a new server process is as offline as it would be after an outage. */
void nbd_say_recovered(struct nbd_backend *be);
/* Why it is still offline, when that is another reason than before. */
void nbd_say_why(struct nbd_backend *be, const char *why);
/* The link has ended, and its conn has no other. */
void nbd_say_lost(struct nbd_backend *be, const struct nbd_link *link);
/* A connection is there (again). */
void nbd_say_online(struct nbd_backend *be);
/* Looks whether connections give no answer, and says so once. */
void nbd_say_stalled(struct nbd_backend *be);
/*
 * Connections ended with answered changes that were not flushed. Nobody hears of it from the
 * server.
 */
void nbd_say_losses(struct nbd_backend *be);
/* A connection's export is larger than the device: says so once, and tells the core. */
void nbd_say_grown(struct nbd_backend *be, const struct nbd_export *now);

/* Any thread: backend.h, describe_outage(). */
void nbd_say_describe_outage(struct nbd_backend *be, char *buf, size_t len);

#endif
