/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The device's end, as far as it has to be agreed upon. */
#include "keeper/job/detach.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "helper/helper.h"
#include "keeper/job/args.h"
#include "keeper/job/migrate.h"
#include "keeper/job/verbs.h"
#include "keeper/keeper.h"
#include "keeper/kernel.h"
#include "keeper/standby.h"
#include "run/ask-server.h"

#define DETACH_RETRY_MS		    1000
#define DETACH_STANDBY_MAKES_WAY_MS 5000 /* longer than until the next try */

/* ---- who asks ------------------------------------------------------------ */

int ub_verb_detach(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
		   json_t *reply, struct ub_err *err)
{
	bool force = false;
	int ret = ub_args_flag(args, "force", &force, err);

	(void)reply;
	if (ret)
		return ret;
	if (!k->was_live)
		return ub_err_set(err, EAGAIN, "the device is not live yet: try again");
	if (ub_migrate_is_on(k) && !force)
		return ub_err_set(err, EBUSY,
				  "/dev/ublkb%u stays: it is being migrated to %.200s: cancel that "
				  "first (migrate --cancel), or use --force",
				  k->device.info.dev_id, k->job.migration.label);
	ret = ub_control_callers_add(&k->control, &k->job.detach.callers, caller, err);
	if (ret)
		return ret;
	k->job.detach.is_forced |= force;
	return 1; /* ub_detach_tend() answers */
}

void ub_detach_answer(struct ub_keeper *k, const struct ub_err *err)
{
	ub_control_callers_answer(&k->control, &k->job.detach.callers, err);
}

/* ---- whether it may go --------------------------------------------------- */

static bool detach_is_insisted(void *arg)
{
	const struct ub_keeper *k = arg;

	return k->signals.nr > 1 || k->job.detach.is_forced || k->server->gone;
}

/* There is nothing to be written back any more, or somebody does not care. */
static bool detach_must_go(const struct ub_keeper *k)
{
	/* A server that can be replaced is, for whoever insists, too: what is dirty needs one. */
	return k->server->gone ? !k->recovery.is_on : k->signals.nr > 1 || k->job.detach.is_forced;
}

/* What lost connections may still write: whoever uses the export next must not find it on top. */
static enum ub_ranges_wait_state detach_look_at_ranges(struct ub_keeper *k, char *said, size_t len)
{
	enum ub_ranges_wait_state state;
	struct ub_ranges r;
	char what[80];

	ub_ranges_read(k->side->o->nbd ? k->shared.ledger : NULL, ub_stat_side(k->shared.stats),
		       k->side->limits.size_bytes, ub_now_ms(), &r);
	state = ub_ranges_wait(&k->job.detach.wait, &r, ub_now_ms());
	if (state == UB_RANGES_OVER) {
		ub_ranges_read_other(k->shared.ledger, !ub_stat_side(k->shared.stats),
				     k->side->limits.size_bytes, ub_now_ms(), &r);
		state = ub_ranges_wait_other(&k->job.detach.other_wait, &r, ub_now_ms(),
					     k->device.info.dev_id);
	}
	if (state == UB_RANGES_WAIT)
		ub_ranges_describe_wait(&r, said, len);
	if (state == UB_RANGES_TOO_LONG)
		snprintf(said, len,
			 "%s may still be written by lost connections: 'ublk-bridge fenced %u' "
			 "when that server "
			 "can write no more",
			 ub_ranges_describe(&r, what, sizeof(what)), k->device.info.dev_id);
	return state;
}

/*
 * All is written back. Whether the device stays for its ranges; *ret: for whoever asks, if too
 * long.
 */
static bool detach_awaits_ranges(struct ub_keeper *k, int *ret, char *said, size_t len)
{
	enum ub_ranges_wait_state state = detach_look_at_ranges(k, said, len);

	if (state == UB_RANGES_WAIT && !k->job.detach.awaits_ranges)
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: it goes when that is over: %s",
		       k->device.info.dev_id, said);
	k->job.detach.awaits_ranges = state == UB_RANGES_WAIT;
	if (state == UB_RANGES_TOO_LONG)
		*ret = UB_EXIT_BUSY;
	return k->job.detach.awaits_ranges;
}

/*
 * A signal, or a client of control.sock, asks for the end. True when the device may go: nobody
 * holds it and all is written back, or somebody insists.
 */
static bool detach_may_go(struct ub_keeper *k)
{
	struct ub_err err = { 0 };
	char id[16], said[512];
	int ret;

	if (k->job.detach.awaits_ranges && !k->signals.nr &&
	    !ub_control_callers_look(&k->control, &k->job.detach.callers)) {
		k->job.detach.awaits_ranges =
			false; /* whoever asked has gone, and does not expect it any more */
		return detach_must_go(k);
	}
	if (k->job.detach.awaits_ranges &&
	    detach_look_at_ranges(k, said, sizeof(said)) == UB_RANGES_WAIT)
		return detach_must_go(k);
	snprintf(id, sizeof(id), "%u", k->device.info.dev_id);
	if (ub_rundir_is_offline(k->rundir.name, said, sizeof(said)))
		ret = UB_EXIT_FAILED;
	else
		ret = ub_helper_run(&k->loop, (const char *const[]){ "release", id, NULL },
				    "writing back before the device goes", said, sizeof(said), -1,
				    detach_is_insisted, k);
	if (!detach_must_go(k) && ret == UB_EXIT_DONE &&
	    detach_awaits_ranges(k, &ret, said, sizeof(said)))
		return false;
	if (detach_must_go(k) || (ret == UB_EXIT_DONE && ub_kernel_try_stop(k)))
		return true;
	if (k->server->gone)
		return false; /* which is another story */
	/*
	 * The descriptors that the helper lacks are the standby's, which is of no use to a device
	 * that goes.
	 */
	if (ret == -EMFILE || ret == -ENFILE) {
		ub_standby_drop(k);
		k->recovery.standby_not_before_ms = ub_now_ms() + DETACH_STANDBY_MAKES_WAY_MS;
	}
	if (ret == UB_EXIT_DONE)
		snprintf(said, sizeof(said), "somebody has it open");
	if (ret < 0)
		snprintf(said, sizeof(said), "%s", strerror(-ret));
	/* Who asks by the socket is told, and asks again; a signal is remembered. */
	ub_err_set(&err, ret == UB_EXIT_DONE || ret == UB_EXIT_BUSY ? EBUSY : EIO,
		   "/dev/ublkb%u stays: %.400s", k->device.info.dev_id, said);
	ub_detach_answer(k, &err);
	k->job.detach.awaits_ranges = false;
	if (!k->signals.nr)
		k->job.detach.wait = k->job.detach.other_wait =
			(struct ub_ranges_wait){ 0 }; /* whoever asks next has the same patience */
	if (k->signals.nr && strcmp(said, k->job.detach.told) != 0) {
		ub_log(UB_LOG_WARNING,
		       "/dev/ublkb%u stays: %s; it goes when it is free (signal again to take it "
		       "away now)",
		       k->device.info.dev_id, said);
		snprintf(k->job.detach.told, sizeof(k->job.detach.told), "%s", said);
	}
	return false;
}

bool ub_detach_tend(struct ub_keeper *k, int *wait_ms)
{
	struct ub_keeper_detach *d = &k->job.detach;

	if (!k->signals.nr && !d->callers.nr && !d->is_forced)
		return false;
	if ((detach_must_go(k) || ub_migrate_give_up(k)) && detach_may_go(k))
		return true;
	if (k->signals.nr || d->awaits_ranges)
		*wait_ms = DETACH_RETRY_MS;
	return false;
}
