/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the operator is told of a back end's connections. The connector, but for what is marked. */
#include "backend/nbd/say.h"

#include <stdio.h>
#include <string.h>

#include <ublk-bridge/page.h>

#include "base/log.h"
#include "base/loop.h"

#define NS_PER_MS 1000000ULL

/* ---- an outage ----------------------------------------------------------- */

void nbd_say_offline_since(struct nbd_backend *be, uint64_t since_ms)
{
	if (be->offline_since_ms)
		return;
	be->offline_since_ms = since_ms;
	ub_stat_outage_begins(be->backend->stats, since_ms * NS_PER_MS);
}

void nbd_say_failed(struct nbd_backend *be, const char *why)
{
	char text[NBD_WHY_BYTES + 64];

	snprintf(text, sizeof(text), "%s: failed: %s", be->server, why);
	nbd_say_offline_since(be, ub_now_ms()); /* for good */
	ub_backend_report(be->backend, UB_HEALTH_FAILED, text);
}

void nbd_say_recovered(struct nbd_backend *be)
{
	char text[256];

	nbd_say_offline_since(be, ub_now_ms());
	snprintf(text, sizeof(text),
		 "%s: offline: this server process is new; I/O waits, connecting", be->server);
	ub_backend_report(be->backend, UB_HEALTH_OFFLINE, text);
}

void nbd_say_why(struct nbd_backend *be, const char *why)
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

static void say_forget_why(struct nbd_backend *be)
{
	pthread_mutex_lock(&be->outage_lock);
	be->last_why[0] = '\0';
	be->nr_tries = 0;
	be->tried_since_ms = 0;
	pthread_mutex_unlock(&be->outage_lock);
}

void nbd_say_describe_outage(struct nbd_backend *be, char *buf, size_t len)
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

void nbd_say_lost(struct nbd_backend *be, const struct nbd_link *link)
{
	char text[NBD_WHY_BYTES + 256];

	if (nbd_nr_given(be) > 0) {
		ub_log(UB_LOG_NOTICE,
		       "%s: connection %u of %u is lost: %s; the others go on, and it is made "
		       "again",
		       be->server, link->conn->index + 1, be->nr_conns, link->why);
		return;
	}
	nbd_say_offline_since(be, ub_now_ms());
	snprintf(text, sizeof(text), "%s: offline: %s; I/O waits, retrying", be->server, link->why);
	ub_backend_report(be->backend, UB_HEALTH_OFFLINE, text);
}

void nbd_say_online(struct nbd_backend *be)
{
	char text[320];
	uint64_t ms;

	if (!be->offline_since_ms)
		return;
	ms = ub_now_ms() - be->offline_since_ms;
	be->offline_since_ms = 0;
	ub_stat_outage_ends(be->backend->stats, ub_now_ms() * NS_PER_MS);
	say_forget_why(be);
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

/* ---- what is no outage, or not yet --------------------------------------- */

void nbd_say_stalled(struct nbd_backend *be)
{
	unsigned nr_online = 0, nr_stalled = 0, which = 0;
	char text[256];
	bool stalled;

	for (unsigned i = 0; i < be->nr_conns; i++) {
		nr_online += nbd_conn_is_online(&be->conns[i]);
		if (!nbd_conn_is_stalled(&be->conns[i]))
			continue;
		nr_stalled++;
		which = i;
	}
	if (nr_stalled && nr_online && !be->said_slow)
		ub_log(UB_LOG_NOTICE,
		       "%s: connection %u of %u gives no answer for %llu s; the others go on, and "
		       "it is made again",
		       be->server, which + 1, be->nr_conns,
		       (unsigned long long)nbd_stall_ms(be) / 1000);
	be->said_slow = nr_stalled;
	/* While one of them works it is no outage. */
	stalled = nr_stalled && !nr_online;
	if (stalled && !be->said_stalled) {
		snprintf(text, sizeof(text), "%s: stalled: no answer for %llu s; %s", be->server,
			 (unsigned long long)nbd_stall_ms(be) / 1000,
			 be->first.multi_conn ?
				 "another connection is tried" :
				 "after as long again it is given up, and made anew");
		nbd_say_offline_since(be, ub_now_ms() - nbd_stall_ms(be));
		ub_backend_report(be->backend, UB_HEALTH_OFFLINE, text);
	}
	if (!stalled && be->said_stalled && nbd_nr_given(be) > 0)
		nbd_say_online(be);
	be->said_stalled = stalled;
}

void nbd_say_losses(struct nbd_backend *be)
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

void nbd_say_grown(struct nbd_backend *be, const struct nbd_export *now)
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
