/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The back end's side of the fence (src/base/fence.h): one lock for all its queues, the sockets of
 * connections that were given up, and what is said of it. The lock is taken by whichever thread has
 * something to do with an outage; an I/O that meets none takes it never.
 */
#include "backend/nbd/fence.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <ublk-bridge/page.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/socket.h"

#define FENCE_PROBE_MS 200 /* between requests that ask for nothing but a sign of life */

static struct ub_ledger_side *fence_side(const struct nbd_backend *be)
{
	return ub_ledger_side(be->fence.page, be->fence.side);
}

static struct ub_ledger_conn *fence_entry(const struct nbd_link *link)
{
	const struct ub_fence *f = &link->conn->be->fence;

	return ub_ledger_conn(f->page, f->side, (unsigned)link->entry);
}

static void side_add(_Atomic uint64_t *word, uint64_t n)
{
	atomic_fetch_add_explicit(word, n, memory_order_acq_rel);
}

/* ---- beginning ----------------------------------------------------------- */

int nbd_fence_init(struct nbd_backend *be, unsigned nr_slots, struct ub_err *err)
{
	struct ub_ledger *page = be->backend->ledger;
	unsigned side = be->backend->ledger_side;
	uint32_t block = be->first.preferred_block_bytes;

	if (be->fence.page)
		return 0;
	if (!page) { /* there is no keeper */
		page = be->own_ledger = calloc(1, ub_ledger_bytes(be->nr_config_queues, nr_slots));
		if (!page)
			return ub_err_errno(err, ENOMEM, "the NBD back end's ledger");
		ub_ledger_init(page, be->nr_config_queues, nr_slots);
	}
	if (block < be->first.min_block_bytes)
		block = be->first.min_block_bytes;
	ub_fence_init(&be->fence, page, side, block, getpid());
	be->fence.trusts_close = be->options.fence_policy == NBD_FENCE_CLOSE;
	return 0;
}

struct ub_ledger_sent *nbd_fence_record(const struct nbd_backend *be, unsigned qid, unsigned slot)
{
	return ub_ledger_sent(be->fence.page, be->fence.side, qid, slot);
}

/* What was answered over the connections of a process that is dead, and not flushed. */
static uint64_t fence_take_unflushed(struct nbd_backend *be)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < be->fence.nr_conns; i++)
		bytes += atomic_exchange(&ub_ledger_conn(be->fence.page, be->fence.side, i)
						  ->unflushed_bytes,
					 0);
	return bytes;
}

static void fence_count_loss(struct nbd_backend *be, uint64_t bytes)
{
	struct ub_ledger_side *side = fence_side(be);

	atomic_fetch_add_explicit(&be->nr_losses, 1, memory_order_acq_rel);
	side_add(&side->nr_losses, 1);
	side_add(&side->lost_bytes, bytes);
	atomic_store(&side->last_loss_unix_s, (uint64_t)time(NULL));
}

void nbd_fence_start(struct nbd_backend *be)
{
	uint64_t bytes;
	unsigned nr;

	pthread_mutex_lock(&be->fence_lock);
	if (be->has_inherited) {
		pthread_mutex_unlock(&be->fence_lock);
		return;
	}
	be->has_inherited = true;
	bytes = fence_take_unflushed(be);
	ub_fence_set_timeout(&be->fence, atomic_load(&be->fence_timeout_ms));
	ub_fence_inherit(&be->fence, be->is_recovered, ub_now_ms());
	atomic_store(&fence_side(be)->waiting, 0);
	if (!be->is_recovered) /* another device's, or another server's */
		atomic_store(&fence_side(be)->flush_error, 0);
	/* it was said while this back end was being opened */
	ub_fence_word(&be->fence, be->word_event);
	nr = atomic_load(&be->fence.nr_live);
	pthread_mutex_unlock(&be->fence_lock);
	if (bytes && be->is_recovered) {
		fence_count_loss(be, bytes);
		ub_log(UB_LOG_WARNING,
		       "%s: %llu bytes had been answered to the server process before this one, "
		       "and not flushed: they are "
		       "there, unless the NBD server died as well",
		       be->server, (unsigned long long)bytes);
	}
	if (nr)
		ub_log(UB_LOG_NOTICE,
		       "%s: %u changes were in flight when the last server process ended: newer "
		       "ones that overlap them wait "
		       "until they can land no more",
		       be->server, nr);
}

/* ---- connections --------------------------------------------------------- */

bool nbd_fence_open(struct nbd_link *link)
{
	struct nbd_backend *be = link->conn->be;

	pthread_mutex_lock(&be->fence_lock);
	link->entry = ub_fence_open(&be->fence, link->kind, link->held_id);
	pthread_mutex_unlock(&be->fence_lock);
	if (link->entry >= 0)
		link->unflushed = &fence_entry(link)->unflushed_bytes;
	return link->entry >= 0;
}

/* Its socket is reset, or is looked at again and again until it is. Under the lock. */
static void fence_reset(struct nbd_link *link)
{
	struct nbd_backend *be = link->conn->be;

	if (ub_socket_reset(link->fd, link->kind)) {
		ub_fence_reset(&be->fence, link->entry, ub_now_ms());
		return;
	}
	nbd_link_set_state(link, NBD_LINK_FENCED);
	link->next_lost = be->lost;
	be->lost = link;
	atomic_fetch_add(&be->nr_lost, 1);
}

/* What was answered on it and not flushed may be gone with its server. */
static void fence_end_unflushed(struct nbd_link *link)
{
	struct nbd_backend *be = link->conn->be;
	uint64_t bytes = link->answered_bytes - link->flushed_bytes;

	if (!bytes)
		return;
	link->flushed_bytes = link->answered_bytes;
	atomic_store_explicit(link->unflushed, 0, memory_order_release);
	if (atomic_load(&be->is_leaving))
		return;
	fence_count_loss(be, bytes);
	atomic_fetch_add(&be->unsaid_lost_bytes, bytes);
}

unsigned nbd_fence_end(struct nbd_link *link)
{
	struct nbd_backend *be = link->conn->be;
	bool is_closed = link->is_closed_by_peer;
	unsigned nr = 0;

	if (link->entry < 0)
		return 0;
	fence_end_unflushed(link);
	pthread_mutex_lock(&be->fence_lock);
	for (struct nbd_cmd *cmd = link->in_flight.first; cmd; cmd = cmd->next) {
		if (!nbd_op_changes(cmd->io->op))
			continue;
		if (nr++ == 0)
			ub_fence_lose(&be->fence, link->entry, is_closed);
		ub_fence_give_up(&be->fence, cmd->rec, cmd->owner);
		cmd->has_ranges = true;
	}
	if (nr) {
		fence_reset(link);
	} else {
		ub_fence_close(&be->fence, link->entry);
		if (!link->is_polite)
			ub_socket_reset(link->fd, link->kind);
	}
	if (nr && be->fence.timeout_ms)
		atomic_store(&be->must_tell_ranges, true);
	pthread_mutex_unlock(&be->fence_lock);
	return nr;
}

/* ---- changes ------------------------------------------------------------- */

void nbd_fence_claim(struct nbd_backend *be, struct nbd_cmd *cmd, const struct ub_io *io)
{
	pthread_mutex_lock(&be->fence_lock);
	/* For all parts of a request: the first one may fail, and then the others never come. */
	cmd->has_ranges |= ub_fence_claim(&be->fence, cmd->owner, io->op, io->offset_bytes,
					  (uint64_t)io->len_bytes + io->rest_bytes);
	pthread_mutex_unlock(&be->fence_lock);
}

bool nbd_fence_may_pass(struct nbd_backend *be, const struct nbd_cmd *cmd)
{
	const struct ub_io *io = cmd->io;
	bool may_pass;

	pthread_mutex_lock(&be->fence_lock);
	may_pass = ub_fence_may_pass(&be->fence, cmd->owner, cmd->was_sent, io->offset_bytes,
				     io->len_bytes);
	pthread_mutex_unlock(&be->fence_lock);
	return may_pass;
}

void nbd_fence_done(struct nbd_backend *be, struct nbd_cmd *cmd)
{
	pthread_mutex_lock(&be->fence_lock);
	ub_fence_done(&be->fence, cmd->owner);
	pthread_mutex_unlock(&be->fence_lock);
	cmd->has_ranges = false;
}

void nbd_fence_keep_flush_error(struct nbd_backend *be, int code)
{
	/*
	 * What the mirror has not asked for it does not hear of: but it looks at the losses, and
	 * copies anew.
	 */
	if (atomic_load(&be->backend->is_destination)) {
		fence_count_loss(be, 0);
		return;
	}
	atomic_store_explicit(&fence_side(be)->flush_error, (uint32_t)code, memory_order_release);
	ub_log(UB_LOG_WARNING,
	       "%s: a flush that nobody had asked for failed: %s: something that was acknowledged "
	       "may not be on stable storage; "
	       "the application's next flush gets this error",
	       be->server, strerror(code));
}

int nbd_fence_flush_error(struct nbd_backend *be, bool take)
{
	_Atomic uint32_t *error = &fence_side(be)->flush_error;

	if (!atomic_load_explicit(error, memory_order_acquire))
		return 0;
	return (int)(take ? atomic_exchange(error, 0) : atomic_load(error));
}

void nbd_fence_count_waiting(struct nbd_backend *be, bool begins)
{
	if (begins)
		side_add(&fence_side(be)->waiting, 1);
	else
		atomic_fetch_sub_explicit(&fence_side(be)->waiting, 1, memory_order_acq_rel);
}

/* ---- the end of ranges --------------------------------------------------- */

void nbd_fence_prove(struct nbd_backend *be, uint32_t seq)
{
	uint64_t now = ub_now_ms();

	/*
	 * The same number proves the same again: a clock that still does not run waits for
	 * something else.
	 */
	if (atomic_load(&be->proved_seq) == seq &&
	    now - atomic_load(&be->proved_ms) < UB_FENCE_POLL_MS)
		return;
	atomic_store(&be->proved_seq, seq);
	atomic_store(&be->proved_ms, now);
	pthread_mutex_lock(&be->fence_lock);
	ub_fence_prove(&be->fence, seq, now);
	pthread_mutex_unlock(&be->fence_lock);
}

/* Those whose other end has come to the end of what lies in its queue. Under the lock. */
static bool fence_look_at_lost(struct nbd_backend *be)
{
	struct nbd_link **at = &be->lost;
	bool has_found = false;

	while (*at) {
		struct nbd_link *link = *at;

		if (!ub_socket_reset(link->fd, link->kind)) {
			at = &link->next_lost;
			continue;
		}
		*at = link->next_lost;
		atomic_fetch_sub(&be->nr_lost, 1);
		ub_fence_reset(&be->fence, link->entry, ub_now_ms());
		nbd_link_set_state(link, NBD_LINK_RETIRED);
		has_found = true;
	}
	return has_found;
}

/* A connection that works is asked for a sign of life: perhaps nobody else asks it for anything. */
static void fence_ask_for_life(struct nbd_backend *be)
{
	uint64_t now = ub_now_ms(), last = atomic_load(&be->probed_ms), never = 0;

	if (!atomic_load(&be->fence.nr_unproven)) {
		atomic_store(&be->unproven_since_ms, 0);
		return;
	}
	atomic_compare_exchange_strong(&be->unproven_since_ms, &never, now);
	if (now - last < FENCE_PROBE_MS ||
	    !atomic_compare_exchange_strong(&be->probed_ms, &last, now))
		return;
	for (unsigned i = 0; i < be->nr_conns; i++) {
		if (!nbd_conn_is_online(&be->conns[i]))
			continue;
		atomic_store_explicit(&be->conns[i].must_probe, true, memory_order_release);
		nbd_conn_kick(&be->conns[i]);
		return;
	}
}

uint64_t nbd_fence_unproven_ms(struct nbd_backend *be)
{
	uint64_t since = atomic_load(&be->unproven_since_ms);

	return since ? ub_now_ms() - since : 0;
}

static void fence_warn(struct nbd_backend *be, const struct ub_fence_late *late)
{
	side_add(&fence_side(be)->warned, late->nr);
	if (late->is_blind) {
		ub_log(UB_LOG_WARNING,
		       "%s: the fence's %llu s are over for what a server process before this one "
		       "had sent, which nobody knows: "
		       "writes are sent, and if the NBD server still executes older ones they may "
		       "land on newer data",
		       be->server, (unsigned long long)atomic_load(&be->fence_timeout_ms) / 1000);
		return;
	}
	ub_log(UB_LOG_WARNING,
	       "%s: the fence's %llu s are over for %u unanswered changes of a lost connection "
	       "(the first at bytes %llu to "
	       "%llu): newer ones are sent, and if the old server still executes those they may "
	       "land on newer data",
	       be->server, (unsigned long long)atomic_load(&be->fence_timeout_ms) / 1000, late->nr,
	       (unsigned long long)late->start, (unsigned long long)late->end);
}

void nbd_fence_tend(struct nbd_backend *be)
{
	struct ub_fence_late late;
	bool was_lost, has_keeper;
	unsigned nr;

	if (!be->has_inherited || (!atomic_load(&be->fence.nr_live) && !atomic_load(&be->nr_lost)))
		return;
	has_keeper = ub_host_has_keeper(be->host);
	pthread_mutex_lock(&be->fence_lock);
	if (!has_keeper)
		ub_fence_reset_orphans(&be->fence, ub_now_ms());
	was_lost = fence_look_at_lost(be);
	nr = ub_fence_look(&be->fence, ub_now_ms(), &late);
	pthread_mutex_unlock(&be->fence_lock);
	if (late.nr)
		fence_warn(be, &late);
	if (nr)
		nbd_conns_kick(be);
	fence_ask_for_life(be);
	if (was_lost)
		nbd_wake_connector(be); /* it may free them */
}

uint64_t nbd_fence_next_ms(struct nbd_backend *be)
{
	uint64_t ms;

	if (!be->has_inherited || (!atomic_load(&be->fence.nr_live) && !atomic_load(&be->nr_lost)))
		return UINT64_MAX;
	pthread_mutex_lock(&be->fence_lock);
	ms = ub_fence_next_ms(&be->fence, ub_now_ms());
	pthread_mutex_unlock(&be->fence_lock);
	return atomic_load(&be->fence.nr_unproven) && ms > FENCE_PROBE_MS ? FENCE_PROBE_MS : ms;
}

void nbd_fence_set_timeout(struct nbd_backend *be, uint64_t timeout_ms)
{
	atomic_store(&be->fence_timeout_ms, timeout_ms);
	if (!be->has_inherited)
		return;
	pthread_mutex_lock(&be->fence_lock);
	ub_fence_set_timeout(&be->fence, timeout_ms);
	pthread_mutex_unlock(&be->fence_lock);
	nbd_fence_tend(be);
	nbd_wake_connector(be);
}

unsigned nbd_fence_word(struct nbd_backend *be, uint64_t event)
{
	unsigned nr;

	pthread_mutex_lock(&be->fence_lock);
	be->word_event = event;
	nr = be->has_inherited ? ub_fence_word(&be->fence, event) : 0;
	pthread_mutex_unlock(&be->fence_lock);
	if (nr)
		nbd_conns_kick(be);
	nbd_wake_connector(be);
	return nr;
}

bool nbd_fence_has_settled(struct nbd_backend *be)
{
	uint64_t left = atomic_load(&be->left_ms);

	if (!atomic_load_explicit(&be->fence.nr_live, memory_order_acquire))
		return true;
	/*
	 * Nobody answers there any more: what is left stays in the ledger, for whoever comes to
	 * this side next.
	 */
	return left && ub_now_ms() - left >= atomic_load(&be->fence_timeout_ms);
}
